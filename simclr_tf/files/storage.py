"""A folder that can no longer be written: a full disk, a quota, a disk that turned read-only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from simclr_tf.errors import NotFiniteError, StorageError, UserError
from simclr_tf.files.load_failures import explain


@contextlib.contextmanager
def storage_errors(folder: str, kept: Callable[[str], str | None]) -> Iterator[None]:
    """Turns what libraries raise for a folder that can't be written into one line.

    Args:
        folder: The run's `model_dir`.
        kept: Returns what a folder still holds to go on from, or None.

    Raises:
        StorageError: The disk is full, or the folder became read-only.

    Example:
        >>> with storage_errors('runs/a', newest_checkpoint):
        ...     train()
    """
    try:
        yield
    except (UserError, NotFiniteError):
        raise
    except Exception as error:
        failure = explain(error)
        here = folder in f"{error} {getattr(error, 'filename', '')}"
        if failure.kind != "disk" and not (failure.kind == "forbidden" and here):
            raise
        checkpoint = kept(folder)
        left = f"The last checkpoint is kept: {checkpoint}" if checkpoint else "There is none yet"
        remedy = "Make room" if failure.kind == "disk" else "Make it writable"
        raise StorageError(
            f"Stopped: {folder} can no longer be written ({failure.reason}). {left}. {remedy}, and "
            "the same command goes on."
        ) from error
