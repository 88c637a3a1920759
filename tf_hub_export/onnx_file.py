"""A model as one ONNX file, written by tf2onnx; run by onnxruntime for comparison."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from simclr_tf.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import tensorflow as tf

FILE = "model.onnx"
# The newest that tf2onnx writes without a warning; runtimes since early 2022 read it.
OPSET = 17


def write_onnx(
    function: tf.types.experimental.GenericFunction, spec: tf.TensorSpec, path: str
) -> None:
    """Converts a function to an ONNX file.

    tf2onnx needs much memory: 4 GB for a ResNet-50, 8 GB for a ResNet-152.

    Args:
        function: A `tf.function` of one argument to a dict of tensors; their names are kept.
        spec: Shape, type and name of the argument; sizes that are None stay free.
        path: File to write.

    Raises:
        UserError: tf2onnx is not installed, or ONNX lacks an operation of the network.

    Example:
        >>> write_onnx(tf.function(f), tf.TensorSpec([None, 32, 32, 3], name='images'), 'm.onnx')
    """
    require_onnx()
    import tf2onnx

    # tf2onnx only logs what it can't convert; onnxruntime then refuses the file.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with _eager_collection(), _one_line():
        model, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=OPSET)
        _name_free_sizes(model.graph)
        content = model.SerializeToString()  # fails above 2 GB
    with open(path, "wb") as file:
        file.write(content)


def run_onnx(path: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of an ONNX file by name, computed by onnxruntime on the CPU.

    Args:
        path: What `write_onnx` wrote.
        images: float32 (N, height, width, channels).

    Raises:
        UserError: onnxruntime refuses it.
    """
    import onnxruntime

    with _one_line():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {session.get_inputs()[0].name: images})
    return dict(zip(names, values, strict=True))


def require_onnx() -> None:
    """Checks that the extra `onnx` is installed, without importing it.

    Raises:
        UserError: It is not.
    """
    missing = [n for n in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        raise UserError(
            f"Expected {' and '.join(missing)} to be installed for --format=onnx; found none. "
            "Run pip install 'simclr-tf[onnx]'."
        )


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turns errors of tf2onnx and onnxruntime, which have no common base, into a `UserError`."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[-300:] or type(error).__name__
        raise UserError(
            f"Expected a network that ONNX can express; received: one that it can't ({reason}). "
            "Export it as saved_model or tflite."
        ) from error


@contextlib.contextmanager
def _eager_collection() -> Iterator[None]:
    """Collects garbage often during a block.

    tf2onnx copies the graph with its weights dozens of times, in few objects with reference cycles,
    too few to start a collection. Objects from before the block are frozen, so they cost nothing.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1000, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _name_free_sizes(graph: onnx.GraphProto) -> None:
    """Gives free sizes names that say what they are: tf2onnx only numbers them."""
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip(dims, ("batch", "height", "width"), strict=False):
            if dim.dim_param:
                dim.dim_param = name
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_param = "batch"
