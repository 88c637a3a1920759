"""The formats of an export, each a folder with a card; converted models are compared first."""

from __future__ import annotations

import dataclasses
import os

import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.store import save_weights
from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.compat import raw_variable
from simclr_tf.errors import UserError
from simclr_tf.files.writers import writer_of
from tf_hub_export import check_format, onnx_file, tflite
from tf_hub_export.atomic import new_folder
from tf_hub_export.comparison import CONVERTED, deviations, require_close, sample_images
from tf_hub_export.input_contract import InputContract, input_contract
from tf_hub_export.model_card import Details, describe_model, write_card
from tf_hub_export.saved_model import endpoint_function, endpoint_shapes, export_saved_model
from tf_hub_export.signatures import Endpoints


def export_model(
    model: keras.Model,
    path: str,
    format: str = "saved_model",
    overwrite: bool = False,
    details: Details | None = None,
    precision: str = "float32",
) -> str:
    """Writes a `SimCLR` or `Classifier` in one of the formats.

    Args:
        model: The model.
        path: Folder to write; complete or absent at any moment. All workers must call; the chief
            writes.
        format: `saved_model`; `keras`: `model.keras`, which `keras.models.load_model` reads where
            simclr_tf is imported; `weights`: a checkpoint `ckpt-STEP` that `--checkpoint` takes;
            `tflite`: `model.tflite`; `onnx`: `model.onnx` (the extra `onnx`). The last two give
            `final_avg_pool`, `proj_head_output` and, with a linear head, `logits_sup`.
        overwrite: Whether an existing export is replaced, once the new one is complete.
        details: As for `export_saved_model`.
        precision: Of the stored weights: `float32`; `float16` (saved_model, tflite); `int8`
            (tflite: dynamic range quantisation).

    Returns:
        The path.

    Raises:
        UserError: No such format or precision; the folder exists, or cannot be written; the
            network can't be converted, or the outputs deviate by more than `comparison.LIMITS`.

    Example:
        >>> export_model(simclr, '/tmp/phone', 'tflite', precision='int8')
    """
    check_format(format, precision)
    if format == "saved_model":
        return export_saved_model(model, path, overwrite, details=details, precision=precision)
    details = details or {}
    settings = details.get("settings") or {}
    contract = input_contract(model, settings.get("image_size"), settings.get("transparent"))
    forward = tf.function(endpoint_function(model), autograph=False)
    shapes = endpoint_shapes(forward, contract)
    with new_folder(path, overwrite, writer_of(model).is_chief) as partial:
        facts: dict[str, object] = {}
        if format == "keras":
            model.save(os.path.join(partial, "model.keras"))
        elif format == "weights":
            # At least 1: an evaluation of the folder only ends at a step above 0.
            save_weights(model, partial, max(1, int(details.get("step") or 0)))
        else:
            shapes = {name: shapes[name] for name in CONVERTED if name in shapes}
            if format == "tflite":
                contract = _fixed_size(contract)
            facts = _convert(model, forward, contract, list(shapes), partial, format, precision)
        card = describe_model(model, contract, shapes, details)
        write_card(partial, {**card, "format": format, "precision": precision, **facts})
    return path


def _fixed_size(contract: InputContract) -> InputContract:
    """Returns the contract with a fixed image size: TFLite's delegates allocate memory ahead."""
    batch, *sides, channels = contract.shape
    return dataclasses.replace(contract, shape=(batch, *(contract.image_size or sides), channels))


def _convert(
    model: keras.Model,
    forward: Endpoints,
    contract: InputContract,
    names: list[str],
    folder: str,
    format: str,
    precision: str,
) -> dict[str, object]:
    """Writes the file of a converted model; returns its entries of the card."""
    mixed = {str(layer.compute_dtype) for layer in model.encoder.layers}
    if mixed & {"bfloat16", "float16"}:
        raise UserError(
            f"Expected a model that computes in float32 for the format {format}; received: mixed "
            f"precision ({', '.join(sorted(mixed))}). Export the run or its checkpoint, whose "
            "weights are float32, or build the model without a policy."
        )
    spec = tf.TensorSpec(contract.shape, tf.float32, "images")

    @tf.function(input_signature=[spec], autograph=False)
    def vectors(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = forward(images, False)
        return {name: outputs[name] for name in names}

    images = sample_images(contract)
    if format == "tflite":
        file = os.path.join(folder, tflite.FILE)
        variables = [*model_variables(model).values(), *model.encoder.variables]
        tflite.write_tflite(vectors, [raw_variable(v) for v in variables], file, precision)
        outputs = tflite.run_tflite(file, images)
    else:
        file = os.path.join(folder, onnx_file.FILE)
        onnx_file.write_onnx(vectors, spec, file)
        outputs = onnx_file.run_onnx(file, images)
    found = deviations(outputs, vectors(tf.constant(images)))
    # In the model's order, whatever the file's.
    found = {name: found[name] for name in names}
    facts = {"file": os.path.basename(file), "bytes": os.path.getsize(file)}
    return {**facts, **require_close(found, precision, format)}
