"""An encoder from whatever holds one, as a function from images to features."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.features.exported import find_export
from simclr_tf.features.extractor import Extractor, load_extractor
from simclr_tf.files.load_failures import explain
from simclr_tf.images.transparency import DEFAULT
from simclr_tf.models.recipe import Recipe
from simclr_tf.training.from_recipe import build_model
from simclr_tf.typing import Json
from tf_hub_export.input_contract import input_contract
from tf_hub_export.saved_model import endpoint_function
from tf_hub_export.sources import load_model, recorded

_HEADS = ("proj_head", "logits")


class OpenedEncoder(NamedTuple):
    """An encoder, and what is known of it.

    Attributes:
        extract: Images to features.
        kind: 'SavedModel' or 'checkpoint'.
        settings: Of the run that trained it; empty where nothing says them.
        step: Training step; 0 where unknown.
        encoder: The encoder as a Keras model; None of a SavedModel that holds no such thing.
    """

    extract: Extractor
    kind: str
    settings: Json
    step: int
    encoder: keras.Model | None


def open_encoder(
    path: str, endpoint: str = "final_avg_pool", image_size: int | None = None
) -> OpenedEncoder:
    """Opens an encoder.

    Args:
        path: An exported SavedModel (ours, the release's, or any called as they are), a TF-Hub
            handle (`https://...`), a run's `model_dir` or checkpoint, a `.keras` file, or a file of
            the original release.
        endpoint: Which output.
        image_size: Side in pixels; None: what the model says of itself.

    Raises:
        UserError: Nothing there that can be read, no such endpoint, or nobody says the size.

    Example:
        >>> open_encoder('runs/digits').extract(images).shape
        (8, 512)
    """
    if "://" in path:
        path = _downloaded(path)
    if os.path.isfile(os.path.join(os.path.expanduser(path), "saved_model.pb")):
        extract = load_extractor(path, endpoint, image_size)
        return _beside_keras(path, extract)
    return open_checkpoint(path, endpoint, image_size)


def open_checkpoint(
    path: str, endpoint: str = "final_avg_pool", image_size: int | None = None
) -> OpenedEncoder:
    """Opens an encoder from what `load_model` loads; see `open_encoder`."""
    model, details = load_model(path)
    settings = details.get("settings") or {}
    extract = _extractor_of(model, endpoint, image_size or settings.get("image_size"), settings)
    step = int(details.get("step") or 0)
    return OpenedEncoder(extract, "checkpoint", settings, step, model.encoder)


def untrained_like(opened: OpenedEncoder, seed: int = 0) -> Extractor | None:
    """Returns the same encoder with fresh random weights; None where it can't be built.

    Endpoints of the heads have no untrained twin: what they were built of is not kept.

    Args:
        opened: The trained one.
        seed: Of the weights. Keras's global seed is set to it.
    """
    if opened.encoder is None or opened.extract.endpoint.startswith(_HEADS):
        return None
    keras.utils.set_random_seed(seed)
    fresh = type(opened.encoder).from_config(opened.encoder.get_config())
    if not fresh.built:
        fresh.build(opened.encoder.input_shape)
    model = build_model(Recipe(fresh, proj_head_mode="none"))
    size = opened.extract.image_size
    return _extractor_of(model, opened.extract.endpoint, size, opened.settings)


def checksum_of(variables: Sequence[tf.Variable]) -> int:
    """Returns a number that changes when any of the variables does."""
    check = 0
    for variable in variables:
        check = zlib.crc32(variable.numpy().tobytes(), check)
    return check


def _extractor_of(
    model: keras.Model,
    endpoint: str,
    image_size: int | tuple[int, int] | None,
    settings: Json,
) -> Extractor:
    contract = input_contract(model, image_size)
    if contract.image_size is None:
        raise UserError(f"Expected a model of images; received: inputs of {contract.shape}.")
    forward = endpoint_function(model)
    transparent = settings.get("transparent", DEFAULT)
    return Extractor(
        lambda x: forward(x, False),
        endpoint,
        contract.image_size,
        transparent,
        list(model.weights),
        contract.channels,
        settings.get("white_level") or 0,
    )


def _beside_keras(path: str, extract: Extractor) -> OpenedEncoder:
    """Returns a SavedModel and the Keras model that our own exports hold beside it."""
    folder = find_export(path)
    details = recorded(folder, 0)  # of the card: any generation of Keras reads it
    encoder = None
    if os.path.isfile(os.path.join(folder, "model.keras")):
        # Written by the other generation of Keras it can't be read: the SavedModel can.
        with contextlib.suppress(UserError):
            encoder = load_model(folder)[0].encoder
    settings, step = details.get("settings") or {}, int(details.get("step") or 0)
    return OpenedEncoder(extract, "SavedModel", settings, step, encoder)


def _downloaded(handle: str) -> str:
    """Returns the folder of a TF-Hub handle, downloaded once."""
    try:
        import tensorflow_hub as hub
    except ImportError as error:
        raise UserError(
            f"Expected tensorflow-hub to be installed for {handle}; received: {error}. "
            "Run pip install 'simclr-tf[hub]', or name a downloaded module's folder."
        ) from error
    try:
        return str(hub.resolve(handle))
    except Exception as error:  # network, archive, disk: many kinds
        failure = explain(error)
        raise UserError(
            f"Expected a SavedModel behind {handle}; received: {failure.reason}. Correct the "
            "handle, or download the module and name its folder."
        ) from error
