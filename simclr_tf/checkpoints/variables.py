"""The variables of a model under their paths in a checkpoint, which are the release's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import all_layers, raw_variable, short_name

ENCODER, _PROJECTION, _SUPERVISED = "resnet_model/", "_projection_head/", "supervised_head/"
LINEAR = [f"{_SUPERVISED}linear_layer/dense/{name}" for name in ("kernel", "bias")]
# Not in the release: batch norm before the linear head.
LINEAR_NORM = [f"{_SUPERVISED}bn/{name}" for name in ("moving_mean", "moving_variance")]


def model_variables(model: keras.Model) -> dict[str, tf.Variable]:
    """Returns every weight of a `SimCLR` or `Classifier` under its checkpoint path.

    Example:
        >>> sorted(model_variables(simclr))[0]
        '_projection_head/linear_layers/0/bn_relu/bn/beta'
    """
    variables = _encoder_variables(model.encoder)
    head = model.projection_head
    for index, (dense, norm) in enumerate(zip(head.dense_layers, head.batch_norms, strict=True)):
        path = f"{_PROJECTION}linear_layers/{index}"
        variables |= _layer_variables(dense, f"{path}/dense")
        variables |= _layer_variables(norm, f"{path}/bn_relu/bn")
    linear = model.supervised_head
    if linear is not None:
        variables |= dict(zip(LINEAR, (linear.kernel, linear.bias), strict=True))
        if linear.batch_norm is not None:
            norm = linear.batch_norm
            moving = (norm.moving_mean, norm.moving_variance)
            variables |= dict(zip(LINEAR_NORM, moving, strict=True))
    return variables


def _layer_variables(layer: keras.layers.Layer, path: str) -> dict[str, tf.Variable]:
    return {f"{path}/{short_name(variable)}": variable for variable in layer.weights}


def _encoder_variables(encoder: keras.Model) -> dict[str, tf.Variable]:
    paths = getattr(encoder, "release_paths", None)
    variables: dict[str, tf.Variable] = {}
    if paths is not None:
        for layer in encoder.layers:
            if layer.weights:
                variables |= _layer_variables(layer, f"{ENCODER}{paths[layer.name]}")
        return variables
    # Layer names of other encoders may contain a process-wide counter: positions are stable.
    seen: set[int] = set()
    leaves = [layer for layer in all_layers(encoder) if layer.weights]
    for index, layer in enumerate(leaves):
        children = [w for child in all_layers(layer, include_self=False) for w in child.weights]
        held_below = {id(weight) for weight in children}
        for place, weight in enumerate(layer.weights):
            if id(weight) in held_below or id(weight) in seen:
                continue
            seen.add(id(weight))
            path = f"encoder/{index}_{type(layer).__name__}/{place}_{short_name(weight)}"
            variables[path] = weight
    return variables


def schema_name(path: str) -> str:
    """Returns the name that `variable_schema` is matched against.

    As in the TF1 release, the heads' names begin with `head_contrastive` and `head_supervised`.
    """
    if path.startswith(_PROJECTION):
        return "head_contrastive/" + path.removeprefix(_PROJECTION)
    if path.startswith(_SUPERVISED):
        return "head_supervised/" + path.removeprefix(_SUPERVISED)
    return path


def nested_variables(variables: Mapping[str, tf.Variable]) -> dict[str, Any]:
    """Returns path -> variable as nested dictionaries of raw variables, for tf.train.Checkpoint."""
    root: dict[str, Any] = {}
    for path, variable in variables.items():
        *folders, name = path.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = raw_variable(variable)
    return root
