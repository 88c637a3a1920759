"""Hides what a command's user can't act on: warnings and startup messages of libraries."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO

from absl import logging as absl_logging

from simclr_tf.devices.processor import use_quick_kernels

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = (_PACKAGE, os.path.join(os.path.dirname(_PACKAGE), "tf_hub_export"))
_INSTALLED = tuple(
    {os.path.abspath(sysconfig.get_path(n)) for n in ("purelib", "platlib", "stdlib")}
)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides warnings of installed libraries for a block; errors and what we log stay.

    The user's code may still warn, since its author can fix it. `python -W default` shows
    everything. Everything is as before after the block.

    Example:
        >>> with quiet_libraries():
        ...     train_and_evaluate(config, export_saved_model)
    """
    if sys.warnoptions:
        yield
        return
    loggers = [absl_logging.get_absl_logger(), logging.getLogger("tensorflow")]
    others = [logging.getLogger(name) for name in ("matplotlib", "PIL", "h5py")]
    levels = [logger.level for logger in others]
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            # This package logs and never warns: a warning located in it is by what it called.
            if not _is_below(filename, (*_OURS, *_INSTALLED)) and not filename.startswith("<"):
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        for logger in loggers:
            logger.addFilter(_keep)
        for logger in others:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_keep)
            for logger, level in zip(others, levels, strict=True):
                logger.setLevel(level)


def start_tensorflow() -> None:
    """Imports TensorFlow with its fastest kernels and without its startup messages.

    For the kernels see `use_quick_kernels`. The messages say which libraries were found and how
    TensorFlow was compiled. TensorFlow 2.15 obeys TF_CPP_MIN_LOG_LEVEL; later versions write these
    lines before they read it, so stderr is redirected during the import, and shown if that fails.
    With TF_CPP_MIN_LOG_LEVEL set by the user, everything is shown.

    The variable stays set: TensorFlow 2.15 reads it at the first operation.

    Raises:
        Exception: What the import raises.
    """
    if "tensorflow" in sys.modules:
        return
    use_quick_kernels()
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        importlib.import_module("tensorflow")
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _nothing_shown():
        importlib.import_module("tensorflow")


def start_xla() -> None:
    """Makes XLA compile something small, so that its first messages are not shown.

    They ignore TF_CPP_MIN_LOG_LEVEL and would break up a progress bar. Call it once the devices are
    set up.
    """
    tf = importlib.import_module("tensorflow")
    with _nothing_shown():
        tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(0))


@contextlib.contextmanager
def _nothing_shown() -> Iterator[None]:
    """Redirects stderr for a block, that of C libraries too; shows it if the block fails."""
    with tempfile.TemporaryFile() as aside:
        try:
            stream = os.dup(2)
        except OSError:  # started without one
            yield
            return
        sys.stderr.flush()
        os.dup2(aside.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(stream, 2)
            os.close(stream)
            if failed:
                aside.seek(0)
                os.write(2, aside.read())


def _keep(record: logging.LogRecord) -> bool:
    """Whether a log record is an error, ours or a user's."""
    ours = _is_below(record.pathname, _OURS)
    return record.levelno >= logging.ERROR or ours or not _is_below(record.pathname, _INSTALLED)


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    path = os.path.abspath(path)
    return any(path.startswith(folder + os.sep) for folder in folders)
