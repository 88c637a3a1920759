"""Stages of an encoder by name: finding them, their outputs, and freezing them."""

from __future__ import annotations

import math
import re

from tensorflow import keras

from simclr_tf.compat import made_by, made_from
from simclr_tf.errors import UserError

POOLED = "final_avg_pool"

# Large enough that the pixels lost by 'valid' convolutions do not change a stage's power of two.
_PROBE_SIZE = 512
_STAGE_NAME = re.compile(r"initial_conv|initial_max_pool|stem|(block_group|stage)\d+")


def find_endpoints(model: keras.Model) -> dict[str, str]:
    """Returns endpoint -> layer name, in order, for any functional model.

    A model's own `endpoint_layers` wins. Next come layers with the name of a stage (`stem`,
    `stage1`, `block_group1`, ...). Otherwise the stages are found in the graph: of the feature maps
    that every path from input to output passes through, the last of each spatial resolution, if
    variables were added since the stage before. The first is the `stem`. The layer that computes
    the output is `final_avg_pool`.

    Clones need the search in the graph: Keras 3's `clone_model` turns a model of a subclass into a
    plain functional one without attributes.
    """
    own = getattr(model, "endpoint_layers", None)
    if own is not None:
        return dict(own)
    last = made_by(model.outputs[0])[0].name
    names = [layer.name for layer in model.layers if _STAGE_NAME.fullmatch(layer.name)]
    found = {name: name for name in names} or _stages_of_graph(model)
    return {**{key: value for key, value in found.items() if value != last}, POOLED: last}


def endpoint_model(encoder: keras.Model) -> keras.Model:
    """Returns a model from images to {endpoint: tensor}; it shares the encoder's layers.

    Example:
        >>> sorted(endpoint_model(ResNet(18, cifar_stem=True))(images))[:2]
        ['block_group1', 'block_group2']
    """
    tensors = _tensors_by_layer(encoder)
    outputs = {key: tensors[name] for key, name in find_endpoints(encoder).items()}
    return keras.Model(encoder.input, outputs, name=f"{encoder.name}_endpoints")


def stages(encoder: keras.Model) -> list[str]:
    """Returns the endpoints up to which an encoder can be frozen: the stem, then each block."""
    names = [name for name in find_endpoints(encoder) if name != POOLED]
    # The release's stem has two endpoints, but is frozen as one.
    return [name for name in names if name != "initial_conv" or "initial_max_pool" not in names]


def freeze_until(encoder: keras.Model, block: int) -> None:
    """Freezes the stem and the first `block` blocks: every layer that their output depends on.

    Frozen batch norm runs in inference mode, as Keras defines `trainable=False`. Nothing is
    unfrozen. Compile the model afterwards. What is frozen is not part of the encoder's config.

    Args:
        encoder: A functional encoder.
        block: -1: nothing; 0: the stem; k: up to block k; the number of blocks: all of them.

    Raises:
        UserError: No such block.

    Source: `fine_tune_after_block` of the release.
    """
    names = stages(encoder)
    if not -1 <= block < len(names):
        raise UserError(
            f"Expected a block between -1 (nothing frozen) and {len(names) - 1} for the encoder "
            f"{encoder.name!r} with stages {names}; received: {block}."
        )
    if block < 0:
        return
    tensor = _tensors_by_layer(encoder)[find_endpoints(encoder)[names[block]]]
    for layer in _ancestors(tensor):
        layer.trainable = False


def pool(x: keras.KerasTensor) -> keras.KerasTensor:
    """Averages a symbolic (N, ..., d) to (N, d), in a layer called `final_avg_pool`."""
    rank = len(x.shape)
    if rank == 2:
        if made_by(x)[0].name == POOLED:
            return x
        return keras.layers.Activation("linear", name=POOLED)(x)
    pools = {
        3: keras.layers.GlobalAveragePooling1D,
        4: keras.layers.GlobalAveragePooling2D,
        5: keras.layers.GlobalAveragePooling3D,
    }
    if rank not in pools:
        raise UserError(f"Expected an encoder's output of rank 2 to 5; received: {x.shape}.")
    return pools[rank](name=POOLED)(x)


def _in_order(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Returns a tensor and all that it depends on, one tensor per call, inputs first."""
    order: dict[tuple[int, int], keras.KerasTensor] = {}
    stack = [(tensor, False)]
    while stack:
        current, expanded = stack.pop()
        layer, call = made_by(current)
        key = (id(layer), call)
        if key in order:
            continue
        if expanded:
            order[key] = current
        else:
            stack.append((current, True))
            stack.extend((parent, False) for parent in made_from(current))
    return list(order.values())


def _ancestors(tensor: keras.KerasTensor) -> list[keras.layers.Layer]:
    layers = {id(made_by(t)[0]): made_by(t)[0] for t in _in_order(tensor)}
    # Keras 3's bare operations hold no variables.
    return [layer for layer in layers.values() if isinstance(layer, keras.layers.Layer)]


def _tensors_by_layer(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Returns layer name -> its output within this model (layers may be part of others, too).

    In Keras 3 `x + y` in a network is a bare operation: it has a name, but is no layer.
    """
    return {made_by(tensor)[0].name: tensor for tensor in _in_order(model.outputs[0])}


def _stages_of_graph(model: keras.Model) -> dict[str, str]:
    maps = [tensor for tensor in _bottlenecks(model.outputs[0]) if len(tensor.shape) == 4]
    if not maps or len(model.inputs[0].shape) != 4:
        return {}
    sides = [side or _PROBE_SIZE for side in model.inputs[0].shape[1:3]]
    probe = keras.Model(model.inputs[0], maps)(keras.Input((*sides, model.inputs[0].shape[3])))
    last_of: dict[int, keras.KerasTensor] = {}
    for tensor, at_size in zip(maps, probe if isinstance(probe, list) else [probe], strict=True):
        area = math.prod(at_size.shape[1:3])
        if isinstance(made_by(tensor)[0], keras.layers.ZeroPadding2D) or not area:
            continue
        # Rounded: 'valid' convolutions lose a few pixels.
        last_of[round(math.log2(math.prod(sides) / area) / 2)] = tensor
    found: dict[str, str] = {}
    weights_before = 0
    for _, tensor in sorted(last_of.items()):
        # The statistics of an input normalisation are not trained: they make no stage.
        trained = [a for a in _ancestors(tensor) if not isinstance(a, keras.layers.Normalization)]
        count = sum(len(layer.weights) for layer in trained)
        if count > weights_before:
            found[f"stage{len(found)}" if found else "stem"] = made_by(tensor)[0].name
            weights_before = count
    return found


def _bottlenecks(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Returns the tensors that every path from the input to this one passes through, in order.

    By counting paths: a tensor that lies on all of them cannot be bypassed, as what lies beside a
    shortcut or a squeeze-and-excitation branch can.
    """
    order = _in_order(tensor)
    keys = [(id(made_by(t)[0]), made_by(t)[1]) for t in order]
    before: dict[tuple[int, int], int] = {}
    after: dict[tuple[int, int], int] = dict.fromkeys(keys, 0)
    parents = [[(id(made_by(p)[0]), made_by(p)[1]) for p in made_from(t)] for t in order]
    for key, above in zip(keys, parents, strict=True):
        before[key] = sum(before[parent] for parent in above) if above else 1
    after[keys[-1]] = 1
    for key, above in zip(reversed(keys), reversed(parents), strict=True):
        for parent in above:
            after[parent] += after[key]
    total = before[keys[-1]]
    return [t for t, key in zip(order, keys, strict=True) if before[key] * after[key] == total]
