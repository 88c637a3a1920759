"""The formats of an export: SavedModel, `.keras`, weights alone; each a folder with its card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints import save_weights
from simclr_tf.errors import UserError
from tf_hub_export import FORMATS
from tf_hub_export.atomic import new_folder
from tf_hub_export.input_contract import input_contract
from tf_hub_export.model_card import describe_model, write_card
from tf_hub_export.saved_model import endpoint_function, endpoint_shapes, export_saved_model


def export_model(
    model: keras.Model,
    path: str,
    format: str = "saved_model",
    overwrite: bool = False,
    details: Mapping[str, Any] | None = None,
) -> str:
    """Writes a `SimCLR` or `Classifier` in one of the formats.

    Args:
        model: The model.
        path: Folder to write; complete or absent at any moment.
        format: `saved_model`; `keras`: `model.keras`, which `keras.models.load_model` reads where
            simclr_tf is imported; `weights`: a checkpoint `ckpt-STEP` that `--checkpoint` takes.
        overwrite: Whether an existing export is replaced, once the new one is complete.
        details: As for `export_saved_model`.

    Returns:
        The path.

    Raises:
        UserError: No such format; or the folder exists, or cannot be written.

    Example:
        >>> export_model(simclr, '/tmp/weights', 'weights')
    """
    if format not in FORMATS:
        raise UserError(
            f"Expected a format among {', '.join(FORMATS)}; received: {format!r}. Pass one."
        )
    if format == "saved_model":
        return export_saved_model(model, path, overwrite, details=details)
    details = details or {}
    with new_folder(path, overwrite) as partial:
        if format == "keras":
            model.save(os.path.join(partial, "model.keras"))
        else:
            # A step above 0: an evaluation of the folder ends there.
            save_weights(model, partial, max(1, int(details.get("step") or 0)))
        contract = input_contract(model, (details.get("settings") or {}).get("image_size"))
        forward = tf.function(endpoint_function(model), autograph=False)
        shapes = endpoint_shapes(forward, contract)
        write_card(partial, describe_model(model, contract, shapes, details))
    return path
