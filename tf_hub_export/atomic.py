"""Atomic writes of folders: complete or absent at any moment."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import partial_path, put_folder

# Every export holds one of these.
_MARKS = ("saved_model.pb", "model.json")


def is_export(folder: str) -> bool:
    """Returns whether a folder holds an export: what `overwrite` may replace."""
    return any(os.path.exists(os.path.join(folder, mark)) for mark in _MARKS)


def check_target(path: str, overwrite: bool) -> None:
    """Checks that an export may be written at a path.

    Args:
        path: Folder to write.
        overwrite: Whether an existing export is replaced.

    Raises:
        UserError: Something exists there that may not be replaced or is no export.

    Example:
        >>> check_target('/tmp/module', overwrite=False)
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise UserError(
            f"Expected a path that does not exist; received: {path}. "
            "Choose another one, or pass overwrite=True (--overwrite)."
        )
    is_folder = os.path.isdir(path) and not os.path.islink(path)
    if not (is_folder and (is_export(path) or not os.listdir(path))):
        raise UserError(
            f"Expected an export to overwrite; received: {path}, which is something else. "
            "Choose another path."
        )


@contextlib.contextmanager
def new_folder(path: str, overwrite: bool = False, is_chief: bool = True) -> Iterator[str]:
    """Yields a folder to fill; it is moved to `path` if the block succeeds.

    Args:
        path: Folder to make. An existing one stays until the new one is complete.
        overwrite: Whether an existing export is replaced.
        is_chief: Whether this process writes at all. Other workers fill a scratch folder, which is
            then deleted: reading variables to save them may need every worker.

    Yields:
        The folder to fill, beside `path`; it is deleted after an error.

    Raises:
        UserError: Something exists at `path`, or nothing can be written there.

    Example:
        >>> with new_folder('/tmp/module') as partial:
        ...     tf.saved_model.save(module, partial)
    """
    if not is_chief:
        with tempfile.TemporaryDirectory(prefix="simclr_tf-worker-") as scratch:
            yield scratch
        return
    check_target(path, overwrite)
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = partial_path(path)
        os.mkdir(partial)
    except OSError as error:
        raise UserError(
            f"Expected a folder that can be written; received: {path} ({error.strerror}). "
            "Choose another one."
        ) from error
    try:
        yield partial
        put_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
