"""Exports: SavedModels / TF-Hub modules that can be loaded, served and fine-tuned."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from simclr_tf.errors import UserError

_HOME = {
    "check_images": "tf_hub_export.input_contract",
    "export_model": "tf_hub_export.formats",
    "export_saved_model": "tf_hub_export.saved_model",
    "load_model": "tf_hub_export.sources",
}
# Format -> the precisions that it is written in.
PRECISIONS = {
    "saved_model": ("float32", "float16"),
    "keras": ("float32",),
    "weights": ("float32",),
    "tflite": ("float32", "float16", "int8"),
    "onnx": ("float32",),
}
FORMATS = tuple(PRECISIONS)
__all__ = [
    "FORMATS",
    "PRECISIONS",
    "check_format",
    "check_images",
    "export_model",
    "export_saved_model",
    "load_model",
]


def check_format(format: str, precision: str) -> None:
    """Checks that a format is written in a precision.

    Raises:
        UserError: No such format, or not in that precision.
    """
    if format not in PRECISIONS:
        raise UserError(
            f"Expected a format among {', '.join(FORMATS)}; received: {format!r}. Pass one."
        )
    if precision not in PRECISIONS[format]:
        raise UserError(
            f"Expected a precision among {', '.join(PRECISIONS[format])} for the format {format}; "
            f"received: {precision!r}. Pass one."
        )


def __getattr__(name: str) -> Any:
    if name in _HOME:  # imported only now, with TensorFlow
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
