"""One trainer a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import IO, Any, TextIO

from simclr_tf.errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks: there nobody is refused
    fcntl = None

LOCK_FILE = ".trainer.lock"
_WAIT_SECONDS = 0.2


@contextlib.contextmanager
def sole_trainer(folder: str) -> Iterator[None]:
    """Holds a folder's lock for a block.

    The operating system keeps it for the open file, so that it is free again the moment its process
    ends, by a kill too: the file that stays is not the lock. Network file systems hold it over
    machines where they support locks.

    Args:
        folder: The run's `model_dir`; it exists.

    Raises:
        UserError: Another process holds it.

    Example:
        >>> with sole_trainer('runs/a'):
        ...     train()
    """

    def refusal(holder: str) -> UserError:
        return UserError(
            f"Expected a model_dir in which nobody trains; received: {folder}, where "
            f"{holder} does. Wait for it, end it, or pass another --model_dir; "
            "--mode=eval may run beside it."
        )

    with held(os.path.join(folder, LOCK_FILE), refusal):
        yield


@contextlib.contextmanager
def held(path: str, refusal: Callable[[str], UserError | None]) -> Iterator[None]:
    """Holds a lock for a block; see `sole_trainer`.

    Args:
        path: File that is locked, and removed behind the block; its folder exists.
        refusal: Makes an error from the words for who holds it; None: it is asked for again in a
            while.

    Raises:
        UserError: Another process holds it: what `refusal` made.

    Example:
        >>> with held('runs/sweep/.sweep.lock', lambda holder: UserError(f'{holder} does.')):
        ...     work()
    """
    while True:
        with open(path, "a+", encoding="utf-8") as file:
            if not try_lock(file):
                refused = refusal(_holder(file))
                if refused is not None:
                    raise refused
                time.sleep(_WAIT_SECONDS)
                continue
            if not _is_at(file, path):  # its holder has just removed it
                continue
            file.truncate(0)
            began = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {socket.gethostname()} (since {began})")
            file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.remove(path)
            return


def trainer_of(folder: str) -> str | None:
    """Returns the words for the process that trains in a folder; None where none does.

    Args:
        folder: A run's `model_dir`; it need not exist.
    """
    try:
        with open(os.path.join(folder, LOCK_FILE), "r+", encoding="utf-8") as file:
            return None if try_lock(file) else _holder(file)
    except FileNotFoundError:
        return None


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"


def _is_at(file: TextIO, path: str) -> bool:
    """Returns whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def try_lock(file: IO[Any]) -> bool:
    """Locks an open file until it is closed; returns whether this process may go on.

    It may where it holds the lock, and where there are no locks.

    Args:
        file: Open for writing.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
