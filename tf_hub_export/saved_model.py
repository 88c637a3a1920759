"""A trained model as a SavedModel that is called as the release's are, and that has gradients."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints import model_variables, nested_variables
from simclr_tf.compat import raw_variable
from simclr_tf.endpoints import endpoint_model
from simclr_tf.errors import UserError


def export_saved_model(model: keras.Model, path: str, overwrite: bool = False) -> str:
    """Writes a `SimCLR` or `Classifier` as a SavedModel (TF2 reusable form, a TF-Hub module).

    Once loaded, `module(images, trainable=False)` (as in the release) or
    `module(images, training=False)` (as Keras and TF-Hub call it) maps float32 RGB images in
    [0, 1], of shape (N, height, width, channels), to a dict of named endpoints:
    `initial_conv`, `initial_max_pool`, `block_group1` to `block_group4`, `final_avg_pool` (the
    features), `proj_head_input`, `proj_head_output` and, with a linear head, `logits_sup`; other
    encoders give their own stages in place of the release's. True runs batch norm in training mode
    and moves its statistics. Gradients reach every variable of `trainable_variables` (also as
    `trainable_variables_list`, the release's name).

    Args:
        model: The model; it is not changed.
        path: Folder to write; complete or absent at any moment.
        overwrite: Whether an existing folder is replaced.

    Returns:
        The path.

    Raises:
        UserError: The folder exists, or cannot be written.

    Example:
        >>> export_saved_model(simclr, '/tmp/module')
        >>> features = tf.saved_model.load('/tmp/module')(images)['final_avg_pool']
    """
    if os.path.exists(path) and not overwrite:
        raise UserError(
            f"Expected a path that does not exist; received: {path}. "
            "Choose another one, or pass overwrite=True."
        )
    parent = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(parent, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}-", dir=parent)
    except OSError as error:
        raise UserError(
            f"Expected a folder that can be written; received: {path} ({error.strerror}). "
            "Choose another one."
        ) from error
    try:
        tf.saved_model.save(build_module(model), partial)
        os.chmod(partial, 0o755)  # mkdtemp's are private
        if os.path.exists(path):
            shutil.rmtree(path)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def build_module(model: keras.Model) -> tf.train.Checkpoint:
    """Returns the object that is saved: raw variables, and functions that reach the layers.

    Layers stay in a closure: a loaded object that tracks Keras 3 layers beside their variables gets
    no gradients for some of them. Variables lie where the release's SavedModels have them.
    """
    module = tf.train.Checkpoint()
    module.model = nested_variables(model_variables(model))
    module.variables = [raw_variable(v) for v in model_variables(model).values()]
    trainable = {id(raw_variable(v)) for v in model.trainable_variables}
    module.trainable_variables = [v for v in module.variables if id(v) in trainable]
    module.trainable_variables_list = list(module.trainable_variables)
    module.regularization_losses = []
    module.__call__ = _callable(_endpoints(model), model.encoder.input_shape[-1])
    return module


def _endpoints(model: keras.Model) -> Callable[[tf.Tensor, bool], dict[str, tf.Tensor]]:
    """Returns the function from images to all endpoints."""
    stages = endpoint_model(model.encoder)
    projection_head, supervised_head = model.projection_head, model.supervised_head
    selector = model.projection_selector

    def endpoints(images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        outputs = dict(stages(images, training=training))
        hidden = projection_head.hidden_layers(outputs["final_avg_pool"], training=training)
        outputs["proj_head_input"] = hidden[0]
        outputs["proj_head_output"] = hidden[-1]
        if supervised_head is not None:
            outputs["logits_sup"] = supervised_head(hidden[selector])
        # Identities: one tensor under two names would be saved as one.
        return {
            name: tf.identity(tf.cast(value, tf.float32), name) for name, value in outputs.items()
        }

    return endpoints


def _callable(endpoints: Callable[..., dict[str, tf.Tensor]], channels: int) -> Any:
    """Returns `__call__`, traced for every way that the release, Keras and TF-Hub call it."""
    images = tf.TensorSpec([None, None, None, channels], tf.float32, "inputs")
    forward = tf.function(endpoints, autograph=False)

    @tf.function(autograph=False)
    def call(
        inputs: tf.Tensor, trainable: bool = False, training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        return forward(inputs, bool(trainable if training is None else training))

    for mode in (True, False):
        call.get_concrete_function(images, trainable=mode, training=None)
        call.get_concrete_function(images, trainable=False, training=mode)
    return call
