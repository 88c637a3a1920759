"""The convolution of the residual networks, fast under mixed precision on any processor."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.devices.processor import multiplies_fast
from simclr_tf.devices.strategy import accelerated


@register
class Conv2D(keras.layers.Conv2D):
    """Keras's convolution, computed in float32 where the device is slow in the layer's type.

    On a processor without instructions for bfloat16 or float16, TensorFlow computes a convolution's
    gradients with plain loops, at a tenth of float32's speed or less. Inputs and outputs keep the
    layer's type; only the sums are more exact, as in hardware of that type. Under a float32 policy,
    and on a GPU or TPU, nothing changes.

    Input: (N, height, width, channels). Output: (N, height', width', filters).

    Example:
        >>> Conv2D(8, 3, dtype="mixed_bfloat16")(tf.ones([1, 5, 5, 3])).dtype
        tf.bfloat16
    """

    # Named as Keras's class on purpose: Keras 3 stores weights in `.keras` files under that name.

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
        if not _needs_float32(inputs.dtype):
            return super().convolution_op(inputs, kernel)
        kernel = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
        wide = super().convolution_op(tf.cast(inputs, tf.float32), kernel)
        return tf.cast(wide, inputs.dtype)


def _needs_float32(dtype: tf.DType | str) -> bool:
    name = tf.as_dtype(dtype).name
    return name in ("bfloat16", "float16") and not accelerated() and not multiplies_fast(name)
