"""A module of half the size: kernels are stored in float16, everything is computed in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import tensorflow as tf

from tf_hub_export.input_contract import InputContract
from tf_hub_export.signatures import Endpoints

_READ = "ReadVariableOp"
Function: TypeAlias = "tf.types.experimental.GenericFunction"
Traced: TypeAlias = "tf.types.experimental.ConcreteFunction"


def half_size(
    forward: Function, contract: InputContract
) -> tuple[Endpoints, dict[int, tf.Variable]]:
    """Returns a function that computes what `forward` does, from kernels in float16.

    Variables of two axes and more (kernels: nearly all bytes of a network) become float16 and are
    cast to float32 where they are read. Vectors stay float32: batch norm's variances can exceed
    float16's range, its statistics change by less than float16's resolution, and they are small.

    This needs nothing from the layers: `forward` is traced, and the reads of kernels in its graph
    are replaced. Gradients reach the float16 variables; batch norm updates its statistics as
    before.

    Args:
        forward: A `tf.function`, `(images, training) -> {endpoint: tensor}`.
        contract: The images that it takes.

    Returns:
        The function, and the float16 variables by `id` of the handle that they replace.

    Example:
        >>> forward, halves = half_size(tf.function(endpoint_function(model)), contract)
    """
    spec = tf.TensorSpec(contract.shape, tf.float32, "images")
    traced = {mode: forward.get_concrete_function(spec, mode) for mode in (False, True)}
    # By handle: a layer's variable may be a wrapper (of replicas, of mixed precision).
    variables = {id(v.handle): v for function in traced.values() for v in function.variables}
    whole = {id(v.handle) for f in traced.values() for v in _read_by_others(f)}
    halves = {
        key: tf.Variable(tf.cast(v, tf.float16), trainable=v.trainable, name=v.name.split(":")[0])
        for key, v in variables.items()
        if len(v.shape) > 1 and v.dtype == tf.float32 and key not in whole
    }

    def endpoints(images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        return _with_halves(traced[bool(training)], images, halves)

    return tf.function(endpoints, autograph=False), halves


def _captures(function: Traced) -> dict[str, tf.Tensor]:
    """Returns the outer tensors that a traced function captures, by placeholder name."""
    return {inner.op.name: outer for outer, inner in function.graph.captures}


def _variables_by_placeholder(function: Traced) -> dict[str, tf.Variable]:
    by_handle = {id(v.handle): v for v in function.variables}
    captures = _captures(function)
    return {n: by_handle[id(outer)] for n, outer in captures.items() if id(outer) in by_handle}


def _read_by_others(function: Traced) -> list[tf.Variable]:
    """Returns the variables whose handle goes to other operations than plain reads."""
    known = _variables_by_placeholder(function)
    return [
        known[name]
        for node in function.graph.as_graph_def().node
        if node.op != _READ
        for name in (_node(entry) for entry in node.input)
        if name in known
    ]


def _node(entry: str) -> str:
    return entry.removeprefix("^").split(":")[0]


def _with_halves(
    function: Traced, images: tf.Tensor, halves: Mapping[int, tf.Variable]
) -> dict[str, tf.Tensor]:
    """Copies a traced function's operations into the current graph, reading float16 kernels."""
    graph = tf.compat.v1.get_default_graph()  # a FuncGraph: this runs while a function is traced
    known = _variables_by_placeholder(function)
    halved = {n: halves[id(v.handle)] for n, v in known.items() if id(v.handle) in halves}
    definition = function.graph.as_graph_def()
    reads = {n.name: n.input[0] for n in definition.node if n.op == _READ and n.input[0] in halved}
    images_name = function.graph.inputs[0].op.name
    gone = {images_name, *_captures(function), *reads}

    kept = tf.compat.v1.GraphDef()
    kept.CopyFrom(definition)
    del kept.node[:]
    for node in definition.node:
        if node.name in gone:
            continue
        copy = kept.node.add()
        copy.CopyFrom(node)
        del copy.input[:]
        # Control inputs from removed reads are dropped.
        copy.input.extend(e for e in node.input if not (e[0] == "^" and _node(e) in gone))

    used = {_node(entry) for node in kept.node for entry in node.input}
    feeds = {f"{images_name}:0": images}
    for name, outer in _captures(function).items():
        if name in used:
            feeds[f"{name}:0"] = graph.capture(outer)
    casts: dict[str, tf.Tensor] = {}
    for read, placeholder in reads.items():
        if read in used:
            if placeholder not in casts:
                casts[placeholder] = tf.cast(halved[placeholder], tf.float32)
            feeds[f"{read}:0"] = casts[placeholder]
    names = list(function.structured_outputs)
    tensors = [function.structured_outputs[name] for name in names]
    # `structured_outputs` of a traced function are tensors of its graph.
    found = tf.graph_util.import_graph_def(
        kept, input_map=feeds, return_elements=[tensor.name for tensor in tensors], name="half"
    )
    return {name: tf.identity(value, name) for name, value in zip(names, found, strict=True)}
