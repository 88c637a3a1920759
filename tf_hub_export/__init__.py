"""Exports: SavedModels / TF-Hub modules that can be loaded, served and fine-tuned."""

from __future__ import annotations

from typing import Any

__all__ = ["export_saved_model"]


def __getattr__(name: str) -> Any:
    if name == "export_saved_model":  # TensorFlow is imported when it is needed
        from tf_hub_export.saved_model import export_saved_model

        return export_saved_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
