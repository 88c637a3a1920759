"""What every reader of images raises."""

from __future__ import annotations

import importlib
from types import ModuleType


class BadImageError(ValueError):
    """A file that cannot be read as an image; the message is the reason, without the path."""


def import_or_refuse(module: str, kind: str, extra: str) -> ModuleType:
    """Returns an optional package that reads a kind of images.

    Args:
        module: Its name.
        kind: What it reads, for messages.
        extra: The extra of ours that brings it.

    Raises:
        BadImageError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadImageError(
            f"{kind} needs {module}: run pip install 'simclr-tf[{extra}]'"
        ) from error
