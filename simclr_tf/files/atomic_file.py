"""Atomic writes: what is written is complete or absent at any moment, with several writers too."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import shutil
import socket
import time
import uuid
import zlib
from collections.abc import Iterator

# A write takes seconds: what another machine began longer ago was left by a killed process.
_ABANDONED_SECONDS = 3600
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_MADE_BY = re.compile(r"\.partial-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")
# Of Linux: `renameat2` of the C library, and its flag.
_EXCHANGE, _HERE = 2, -100


@contextlib.contextmanager
def new_file(path: str) -> Iterator[str]:
    """Yields a path to write to; the file is moved to `path` if the block succeeds.

    Args:
        path: File to make or to replace; its folder exists.

    Yields:
        A path beside `path`; nothing is left there after an error.

    Raises:
        OSError: The folder can't be written.

    Example:
        >>> with new_file('/tmp/result.json') as partial:
        ...     Path(partial).write_text('{}')
    """
    partial = partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def partial_path(path: str) -> str:
    """Returns where to make what is then moved to `path`, and clears the folder of others' remains.

    The name is unique, so that two processes never write one file; it keeps the extension, by
    which some libraries choose the format. It names its process: what a killed one left is deleted.

    Args:
        path: File or folder to make; the folder that it lies in exists.
    """
    folder, name = os.path.split(path)
    for other in glob.glob(os.path.join(glob.escape(folder), ".*.partial-*")):
        if _is_abandoned(other):
            _delete(other)
    stem, ending = os.path.splitext(name)
    unique = f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return os.path.join(folder, f".{stem}.partial-{unique}{ending}")


def put_folder(partial: str, path: str) -> None:
    """Moves a folder to `path`; what exists there is at no moment absent, and then deleted.

    Where the operating system can't exchange two folders at once, it is absent between two renames.

    Args:
        partial: The finished folder, beside `path`.
        path: Its target.

    Raises:
        OSError: It can't be moved; the target is as before.
    """
    if not os.path.lexists(path):
        os.rename(partial, path)
        return
    if not _exchange(partial, path):
        old = partial_path(path)
        os.rename(path, old)
        try:
            os.rename(partial, path)
        except BaseException:
            os.rename(old, path)
            raise
        partial = old
    _delete(partial)


def _exchange(one: str, other: str) -> bool:
    """Gives two paths each other's contents in one step; returns whether that can be done here."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _is_abandoned(path: str) -> bool:
    made = _MADE_BY.search(os.path.basename(path))
    if made is None:  # not ours
        return False
    if made[1] == _HOST and not _is_running(int(made[2])):
        return True
    try:
        return time.time() - os.path.getmtime(path) > _ABANDONED_SECONDS
    except OSError:  # it is gone
        return False


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        os.remove(path)
