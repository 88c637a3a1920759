"""Exports: SavedModels / TF-Hub modules that can be loaded, served and fine-tuned."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "check_images": "tf_hub_export.input_contract",
    "export_model": "tf_hub_export.formats",
    "export_saved_model": "tf_hub_export.saved_model",
    "load_model": "tf_hub_export.sources",
}
FORMATS = ("saved_model", "keras", "weights")
__all__ = ["FORMATS", "check_images", "export_model", "export_saved_model", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _HOME:  # TensorFlow is imported when it is needed
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
