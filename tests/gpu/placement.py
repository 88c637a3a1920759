"""Whether a training step stays on the device: no Python, no kernel elsewhere, no new trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from gpu_kernels import ops_without_gpu_kernel
from record import Row, checked
from setting import Setting
from small_models import data_set
from tensorflow import keras
from tensorflow.python.eager import context as eager_context

from simclr_tf.compat import build_optimizer

PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
# How values enter and leave a device, which a placement is not about.
TRANSFER = {"_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "_DeviceArg",
            "_DeviceRetval"}  # fmt: skip
FLOATS = {getattr(tf, name).as_datatype_enum for name in ("float16", "bfloat16", "float32",
                                                           "float64")}  # fmt: skip


class Placed(NamedTuple):
    """An operation as it ran.

    Attributes:
        op: Its type.
        device: `CPU:0`, `GPU:0`, ...
        floats: Whether it takes or gives floating-point numbers.
    """

    op: str
    device: str
    floats: bool


def run_and_list(function: Callable[..., Any], *arguments: Any) -> list[Placed]:
    """Runs a function of a graph once; returns its operations where TensorFlow placed them.

    These are the graphs that ran, one for each device, after all rewriting. There is no public way
    to them.
    """
    context = eager_context.context()
    context.ensure_initialized()
    context.enable_graph_collection()
    try:
        function(*arguments)
        found = context.export_run_metadata()
    finally:
        context.disable_graph_collection()
    return [
        Placed(node.op, node.device.split("device:")[-1], _has_floats(node))
        for graphs in found.function_graphs
        for graph in graphs.partition_graphs
        for node in (*graph.node, *(n for f in graph.library.function for n in f.node_def))
        if node.device and node.op not in TRANSFER
    ]


def elsewhere(placed: list[Placed], device: str) -> Counter[str]:
    """Returns the operations on floating-point numbers that did not run on a device, counted."""
    return Counter(node.op for node in placed if node.floats and node.device != device)


def placement(
    setting: Setting, make: Callable[[Setting], Any], make_optimizer: Callable[[], Any]
) -> Iterator[Row]:
    """What one step is made of, and where that runs."""
    images, labels = (tf.constant(part) for part in next(iter(data_set(setting, 1))))
    with setting.on_device():
        model = make(setting)
        model.compile(optimizer=make_optimizer())
        build_optimizer(model.optimizer, model.trainable_variables)
        step = tf.function(lambda x, y: model.train_step((x, y)))
        images, labels = tf.identity(images), tf.identity(labels)
        concrete = step.get_concrete_function(images, labels)
        placed = run_and_list(concrete, images, labels)
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    python = Counter(node.op for node in nodes if node.op in PYTHON)
    yield checked("calls of Python", not python, _listed(python))
    missing = Counter(ops_without_gpu_kernel(concrete))
    yield checked("operations that no GPU kernel serves", not missing, _listed(missing))
    away = elsewhere(placed, setting.device)
    others = Counter(n.op for n in placed if n.device != setting.device and not n.floats)
    count = sum(node.device == setting.device for node in placed)
    yield checked(
        "floating-point operations on another device",
        count > 0 and not away,
        f"{_listed(away)}; {count} of {len(placed)} operations on {setting.device}; of whole "
        f"numbers and handles elsewhere: {_listed(others)}",
    )


def traces(
    setting: Setting, make: Callable[[Setting], Any], make_optimizer: Callable[[], Any]
) -> Iterator[Row]:
    """How often `fit` traces the step, over two epochs and a second `fit`."""
    with setting.on_device():
        model = make(setting)
    traced = 0
    step = model.train_step

    def counted(data: Any) -> Any:
        nonlocal traced
        traced += 1
        return step(data)

    object.__setattr__(model, "train_step", counted)
    so_far: list[int] = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: so_far.append(traced)
    )
    with setting.on_device():
        model.compile(optimizer=make_optimizer())
        data = data_set(setting, 3)
        model.fit(data, epochs=2, verbose=0, callbacks=[keep])
        model.fit(data, verbose=0, callbacks=[keep])
    yield checked(
        "no trace after the second step",
        0 < so_far[1] == so_far[-1],
        f"{so_far[1]} until then, {so_far[-1]} after {len(so_far)} steps",
    )


def _has_floats(node: Any) -> bool:
    types = {part for value in node.attr.values() for part in (value.type, *value.list.type)}
    return bool(types & FLOATS)


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "none"
