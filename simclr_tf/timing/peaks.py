"""What a network has to compute and to move, and how fast this machine does either at best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import raw_variable
from simclr_tf.devices.memory import in_words
from simclr_tf.timing.turns import in_turn
from simclr_tf.training.footprint import needed_operations
from simclr_tf.typing import Variables

_SIDE = 2048  # of the matrices that are multiplied
_BYTES = 1 << 28  # of the tensor that is copied: larger than any cache
_BACKWARD = "start_of_backward_pass"
_MOVES_NOTHING = {"Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient",
                  "PreventGradient", "Const", "Placeholder", "ReadVariableOp", "VarHandleOp",
                  "Shape", "ShapeN", "NoOp", "Cast"}  # fmt: skip
_SLOTS_MOVED = 5  # SGD with momentum reads weight, gradient and momentum and writes two of them


class Load(NamedTuple):
    """What a part of a step has to do.

    Attributes:
        operations: Of floating point, in convolutions and matrix products.
        moved: Bytes that all other operations read and write.
    """

    operations: float
    moved: float


class Work(NamedTuple):
    """What a training step has to do: the encoder's passes, and the update of the weights."""

    forward: Load
    backward: Load
    update: Load


class Peaks(NamedTuple):
    """How fast this machine is at best.

    Attributes:
        operations: A second, in a large matrix product of the type that the network computes in.
        moved: Bytes a second, read and written, in a large copy.
        dtype: That type.
    """

    operations: float
    moved: float
    dtype: str

    @classmethod
    def measure(cls, policy: str, seconds: float) -> Peaks:
        """Measures both.

        Args:
            policy: Of mixed precision, as Keras names it.
            seconds: About how long each is timed.
        """
        dtype = tf.as_dtype(keras.mixed_precision.Policy(policy).compute_dtype)
        matrix = tf.ones([_SIDE, _SIDE], dtype)
        long = tf.ones([_BYTES // 4])
        sides = {
            "matmul": tf.function(lambda: tf.matmul(matrix, matrix)),
            "copy": tf.function(lambda: long + 1.0),
        }
        times = in_turn(sides, seconds)
        return cls(2 * _SIDE**3 / times["matmul"][1], 2 * _BYTES / times["copy"][1], dtype.name)

    def seconds(self, load: Load) -> float:
        """Returns the least time for a load: its products, then all else, at the peaks."""
        return load.operations / self.operations + load.moved / self.moved

    def line(self) -> str:
        """Returns a line for people."""
        return (
            f"measured peaks: {self.operations / 1e9:.0f} GF/s ({self.dtype} matrix product), "
            f"{in_words(self.moved)}/s (copy)"
        )


def work_of(encoder: keras.Model, trained: Variables, image_size: int, views: int) -> Work:
    """Returns what a training step has to do, counted in a trace of the encoder.

    Args:
        encoder: Images (N, height, width, channels) to features (N, d).
        trained: What the optimizer updates, of the heads too.
        image_size: Side of the views in pixels.
        views: In a batch.

    Example:
        >>> work = work_of(simclr.encoder, simclr.trainable_variables, 32, views=128)
        >>> round(work.forward.operations / 1e9)
        143
    """
    variables = [raw_variable(variable) for variable in encoder.trainable_variables]

    def step(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            features = encoder(images, training=True)
        with tf.name_scope(_BACKWARD):
            start = tf.ones_like(features)
        return [features, *tape.gradient(features, variables, output_gradients=start)]

    shape = (views, image_size, image_size, encoder.input_shape[-1])
    graph = tf.function(step).get_concrete_function(tf.TensorSpec(shape)).graph
    loads = {False: [0.0, 0.0], True: [0.0, 0.0]}
    backward = False
    for operation in needed_operations(graph):
        backward = backward or _BACKWARD in operation.name
        products = float(_products(operation))
        loads[backward][0] += products
        if not products and operation.type not in _MOVES_NOTHING:
            loads[backward][1] += sum(map(_size, [*operation.inputs, *operation.outputs]))
    weights = sum(4 * int(np.prod(v.shape)) for v in trained)
    return Work(Load(*loads[False]), Load(*loads[True]), Load(0.0, _SLOTS_MOVED * weights))


def _products(operation: tf.Operation) -> float:
    """Returns the floating-point operations of a convolution or matrix product, forth or back."""
    kind = operation.type
    if kind == "MatMul":
        left, out = operation.inputs[0].shape, operation.outputs[0].shape
        inner = left[0] if operation.get_attr("transpose_a") else left[1]
        return 2.0 * out.num_elements() * inner
    if kind == "Conv2D":
        kernel, out = operation.inputs[1].shape, operation.outputs[0].shape
        return 2.0 * out.num_elements() * np.prod(kernel[:3])
    if kind == "Conv2DBackpropInput":  # sizes, kernel, gradient of the output
        kernel, out = operation.inputs[1].shape, operation.inputs[2].shape
        return 2.0 * out.num_elements() * np.prod(kernel[:3])
    if kind == "Conv2DBackpropFilter":  # input, sizes, gradient of the output
        kernel, out = operation.outputs[0].shape, operation.inputs[2].shape
        return 2.0 * out.num_elements() * np.prod(kernel[:3])
    return 0.0


def _size(tensor: tf.Tensor) -> int:
    if tensor.dtype in (tf.resource, tf.variant, tf.string) or not tensor.shape.is_fully_defined():
        return 0
    return int(np.prod(tensor.shape.as_list(), dtype=np.int64)) * tensor.dtype.size
