"""Atomic writes: a file is complete or absent at any moment, even with several writers."""

from __future__ import annotations

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Iterator

# A write takes seconds: an older partial file was left by a killed process.
_ABANDONED_SECONDS = 3600


@contextlib.contextmanager
def new_file(path: str) -> Iterator[str]:
    """Yields a path to write to; the file is moved to `path` if the block succeeds.

    The name is unique, so that two processes never write one file; it keeps the extension, by
    which some libraries choose the format.

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
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    _remove_abandoned(os.path.join(glob.escape(folder), f".{glob.escape(stem)}.partial-*"))
    own = f".{stem}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}{ending}"
    partial = os.path.join(folder, own)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def _remove_abandoned(pattern: str) -> None:
    for path in glob.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(path) > _ABANDONED_SECONDS:
                os.remove(path)
