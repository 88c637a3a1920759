"""Batch norm in other operations than the fused one, for processors with AVX2 alone.

There oneDNN's kernel normalises images at a tenth of its speed with AVX-512 (a batch of 33 MB:
43 ms on two cores, against 4 ms), in training and in inference, while its gradient is as quick as
elsewhere. These operations take 8 ms.

They are for what runs where it is traced: a file that is exported holds the fused operation, which
suits every device and has a gradient wherever it is loaded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from simclr_tf.devices.processor import normalizes_slowly
from simclr_tf.devices.strategy import accelerated

_tracing = threading.local()


@contextlib.contextmanager
def runs_here() -> Iterator[None]:
    """Lets batch norm traced within take the forms of this module where they are quicker.

    Example:
        >>> with runs_here():
        ...     features = encoder(images, training=False)
    """
    before = getattr(_tracing, "here", False)
    _tracing.here = True
    try:
        yield
    finally:
        _tracing.here = before


def applies(inputs: tf.Tensor) -> bool:
    """Returns whether these forms are to be used and quicker for inputs, (N, height, width, C)."""
    if not getattr(_tracing, "here", False) or inputs.shape.rank != 4:
        return False
    return normalizes_slowly() and not accelerated()


def of_batch(
    inputs: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises a batch by its own moments.

    Args:
        inputs: (N, height, width, C) of any float type; computed in float32.
        scale: float32 (C,).
        offset: float32 (C,).
        epsilon: Added to the variance.

    Returns:
        Outputs like the inputs, and mean and biased variance, float32 (C,).

    Source: Ioffe and Szegedy 2015, algorithm 1.

    Example:
        >>> outputs, mean, variance = of_batch(tf.ones([8, 4, 4, 2]), tf.ones(2), tf.zeros(2), 1e-5)
    """
    normalize = tf.custom_gradient(_normalize_with(epsilon))
    outputs, mean, variance = normalize(tf.cast(inputs, tf.float32), scale, offset)
    return tf.cast(outputs, inputs.dtype), mean, variance


def by_moments(
    inputs: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """Normalises inputs by given moments, in two passes.

    Args:
        inputs: (..., C) of any float type; computed in float32.
        mean: float32 (C,).
        variance: float32 (C,).
        scale: float32 (C,).
        offset: float32 (C,).
        epsilon: Added to the variance.

    Returns:
        Outputs like the inputs.

    Source: Ioffe and Szegedy 2015, algorithm 2.

    Example:
        >>> outputs = by_moments(inputs, mean, variance, tf.ones(2), tf.zeros(2), 1e-5)
    """
    factor = scale * tf.math.rsqrt(variance + epsilon)
    outputs = tf.cast(inputs, tf.float32) * factor + (offset - mean * factor)
    return tf.cast(outputs, inputs.dtype)


_Gradient = Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def _normalize_with(
    epsilon: float,
) -> Callable[..., tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], _Gradient]]:
    def normalize(
        inputs: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], _Gradient]:
        # Sums by products with ones: quicker than TensorFlow's over the leading axes.
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
        count = tf.shape(rows)[0]
        ones = tf.ones(tf.stack([1, count]))
        mean = tf.matmul(ones, rows)[0] / tf.cast(count, tf.float32)
        squares = tf.math.squared_difference(rows, mean)
        variance = tf.matmul(ones, squares)[0] / tf.cast(count, tf.float32)
        outputs = by_moments(inputs, mean, variance, scale, offset, epsilon)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # Nothing is learned through the moments that are returned.
            found = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=inputs,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=True,
            )
            return found.x_backprop, found.scale_backprop, found.offset_backprop

        return (outputs, mean, variance), gradient

    return normalize
