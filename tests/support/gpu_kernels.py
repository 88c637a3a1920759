"""Asks TensorFlow's kernel registry which ops of a traced function would not run on a GPU.

Works without a GPU: the registry lists what the installed build was compiled with.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from tensorflow.python.framework import kernels

# Not computations, or lowered into ops that are in the graph's function library.
_STRUCTURE = {
    "Placeholder",
    "_Arg",
    "_Retval",
    "_DeviceArg",
    "_DeviceRetval",
    "NoOp",
    "If",
    "StatelessIf",
    "Case",
    "StatelessCase",
    "While",
    "StatelessWhile",
    "PartitionedCall",
    "StatefulPartitionedCall",
}


def ops_without_gpu_kernel(concrete_function: Any) -> list[str]:
    """Returns the sorted names of ops, library functions included, that no GPU kernel serves.

    A kernel counts if it is registered for GPU or for any device ('DEFAULT') and takes the types
    that the node asks for.
    """
    graph = concrete_function.graph.as_graph_def(add_shapes=False)
    functions = {function.signature.name for function in graph.library.function}
    missing = set()
    for node in _nodes(graph):
        if node.op in functions or node.op in _STRUCTURE:
            continue
        registered = _registered(node.op)
        if not any(
            kernel.device_type in ("GPU", "DEFAULT") and _takes(kernel, node)
            for kernel in registered
        ):
            missing.add(node.op)
    return sorted(missing)


@functools.cache
def _registered(op: str) -> list[Any]:
    return list(kernels.get_registered_kernels_for_op(op).kernel)


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _takes(kernel: Any, node: Any) -> bool:
    for constraint in kernel.constraint:
        allowed = constraint.allowed_values.list.type
        wanted = node.attr[constraint.name].type
        if allowed and wanted and wanted not in allowed:
            return False
    return True
