"""A trained model as a SavedModel that is called like the release's, and that has gradients."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.variables import model_variables, nested_variables
from simclr_tf.compat import raw_variable, traced_to_save
from simclr_tf.files.writers import writer_of
from simclr_tf.models.endpoints import endpoint_model
from simclr_tf.training.simclr import SimCLR
from tf_hub_export.atomic import new_folder
from tf_hub_export.comparison import deviations, require_close, sample_images
from tf_hub_export.half_size import half_size
from tf_hub_export.input_contract import InputContract, input_contract
from tf_hub_export.model_card import Details, describe_model, write_card
from tf_hub_export.signatures import Endpoints, make_signatures


def export_saved_model(
    model: keras.Model,
    path: str,
    overwrite: bool = False,
    image_size: int | tuple[int, int] | None = None,
    details: Details | None = None,
    precision: str = "float32",
    transparent: str | None = None,
) -> str:
    """Writes a `SimCLR` or `Classifier` as a SavedModel (TF2 reusable form, a TF-Hub module).

    Once loaded, `module(images, trainable=False)` (as in the release) or
    `module(images, training=False)` (as Keras and TF-Hub call it) maps float32 RGB images in
    [0, 1], of shape (N, height, width, channels), to a dict of named endpoints:
    `initial_conv`, `initial_max_pool`, `block_group1` to `block_group4`, `final_avg_pool` (the
    features), `proj_head_input`, `proj_head_output` and, with a linear head, `logits_sup`; other
    encoders have their own stages in place of the release's. True runs batch norm in training mode
    and updates its statistics. Gradients reach every variable of `trainable_variables` (also as
    `trainable_variables_list`, the release's name).

    The call checks nothing, so that it converts to other formats; the signatures (see
    `make_signatures`) and `check_images` do. `README.md` and `model.json` in the folder describe
    the model and its inputs, with code that runs.

    Batch norm before the linear head is folded into it.

    Args:
        model: The model; it is not changed.
        path: Folder to write; complete or absent at any moment. All workers must call; the chief
            writes.
        overwrite: Whether an existing export is replaced, once the new one is complete.
        image_size: Side or (height, width) in pixels that the model was trained with; None: that of
            `details`, else of the model (`input_contract`). Encoded images are resized to it.
        details: What is known of the training, for the model card: `data_set`, `settings`,
            `step`, `results`, `source`; each may be missing.
        precision: `float16` stores kernels in float16, half the size (`half_size`); its outputs
            are compared with the model's.
        transparent: What shows through transparent pixels of encoded images: white, black, keep or
            mean; None: the setting of the run in `details`, else white.

    Returns:
        The path.

    Raises:
        UserError: The folder exists and may not be replaced, or cannot be written; or float16
            changes the outputs too much (`comparison.LIMITS`).

    Example:
        >>> export_saved_model(simclr, '/tmp/module')
        >>> features = tf.saved_model.load('/tmp/module')(images)['final_avg_pool']
    """
    with new_folder(path, overwrite, writer_of(model).is_chief) as partial:
        if isinstance(model, SimCLR):
            model = model.with_plain_head()
        settings = (details or {}).get("settings") or {}
        contract = input_contract(
            model,
            image_size or settings.get("image_size"),
            transparent or settings.get("transparent"),
        )
        forward = whole = tf.function(endpoint_function(model), autograph=False)
        halves: Mapping[int, tf.Variable] = {}
        if precision == "float16":
            forward, halves = half_size(whole, contract)
        signatures = make_signatures(forward, contract)
        with traced_to_save():
            module = build_module(model, forward, contract, halves)
            shapes = endpoint_shapes(forward, contract)
        tf.saved_model.save(module, partial, signatures=signatures)
        card = describe_model(model, contract, shapes, details)
        card |= {"format": "saved_model", "precision": precision, "signatures": list(signatures)}
        if halves:
            images = sample_images(contract)
            outputs = tf.saved_model.load(partial)(images, trainable=False)
            reference = whole(tf.constant(images), False)
            found = deviations({name: outputs[name] for name in card["endpoints"]}, reference)
            card |= require_close(found, precision, "saved_model")
        write_card(partial, card)
    return path


def build_module(
    model: keras.Model,
    forward: Endpoints,
    contract: InputContract,
    halves: Mapping[int, tf.Variable] | None = None,
) -> tf.train.Checkpoint:
    """Returns the object that is saved: raw variables, and functions that reach the layers.

    Layers stay in a closure: a loaded object that tracks Keras 3 layers beside their variables gets
    no gradients for some of them. Variables have the paths of the release's SavedModels.
    `halves` holds those that replace others, by `id` of the other's handle.
    """
    own = {path: raw_variable(v) for path, v in model_variables(model).items()}
    trainable = {id(raw_variable(v)) for v in model.trainable_variables}
    saved = {path: (halves or {}).get(id(v.handle), v) for path, v in own.items()}
    module = tf.train.Checkpoint()
    module.model = nested_variables(saved)
    module.variables = list(saved.values())
    module.trainable_variables = [saved[path] for path, v in own.items() if id(v) in trainable]
    module.trainable_variables_list = list(module.trainable_variables)
    # The random state of Keras 3's dropout is not a weight, but must be saved.
    listed = {id(v) for v in own.values()}
    states = [raw_variable(v) for v in model.encoder.variables]
    module.random_states = [v for v in states if id(v) not in listed]
    module.regularization_losses = []
    module.__call__ = _callable(forward, contract)
    return module


def endpoint_shapes(
    forward: Endpoints, contract: InputContract
) -> dict[str, tuple[int | None, ...]]:
    """Returns endpoint -> shape for a batch of images of the size that the model was made for."""
    sides = contract.image_size or contract.shape[1:-1]
    spec = tf.TensorSpec([None, *sides, contract.channels], tf.float32, "images")
    traced = tf.function(lambda images: forward(images, False), autograph=False)
    outputs = traced.get_concrete_function(spec).structured_outputs
    return {name: tuple(value.shape) for name, value in outputs.items()}


def endpoint_function(model: keras.Model) -> Endpoints:
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
        # Identities, because one tensor under two names would be saved as one.
        return {
            name: tf.identity(tf.cast(value, tf.float32), name) for name, value in outputs.items()
        }

    return endpoints


def _callable(forward: Endpoints, contract: InputContract) -> tf.types.experimental.GenericFunction:
    """Returns `__call__`, traced for every way that the release, Keras and TF-Hub call it."""
    images = tf.TensorSpec(contract.shape, tf.float32, "inputs")

    @tf.function(autograph=False)
    def call(
        inputs: tf.Tensor, trainable: bool = False, training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        return forward(inputs, bool(trainable if training is None else training))

    for mode in (True, False):
        call.get_concrete_function(images, trainable=mode, training=None)
        call.get_concrete_function(images, trainable=False, training=mode)
    return call
