"""Layers of the residual blocks: batch norm over replicas, and the streams of selective kernels.

`block_builder` puts them together.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.devices import replicas
from simclr_tf.models import processor_batch_norm
from simclr_tf.typing import KerasConfig

BATCH_NORM_EPSILON = 1e-5  # the release's

Shape: TypeAlias = "tf.TensorShape | tuple[int, ...]"

# Keras hands the layers of an encoder nothing but inputs, `training` and its own masks: what a step
# tells batch norm goes past the calls, in the thread that traces the replica.
_tracing = threading.local()


@contextlib.contextmanager
def local_batch_statistics() -> Iterator[None]:
    """Makes batch norm traced within use its own replica's statistics, even if synchronised.

    Replicas cannot communicate from within a loop.
    """
    before = getattr(_tracing, "local", False)
    _tracing.local = True
    try:
        yield
    finally:
        _tracing.local = before


@contextlib.contextmanager
def batch_that_counts(mask: tf.Tensor | None) -> Iterator[None]:
    """Makes batch norm traced within, in a step, ignore a replica that has no images.

    Args:
        mask: (N,) bool, all False where the rows only fill up for a replica without images; None:
            all are images.
    """
    before = getattr(_tracing, "counts", None)
    _tracing.counts = None if mask is None else tf.reduce_any(mask)
    try:
        with processor_batch_norm.runs_here():
            yield
    finally:
        _tracing.counts = before


@register
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis, optionally over the images of all replicas.

    On one replica this is TensorFlow's fused kernel, or in steps what is quicker on this processor
    (`processor_batch_norm`): statistics in float32, also under mixed precision, with the biased
    variance in the moving average, as in the release. With `synchronized` and several replicas,
    moments are taken over the images of all replicas, however many each has. Without
    `synchronized`, a replica without images keeps its moving averages.

    Keras's own `call` is not used: Keras 2.15 drops `synchronized` from `get_config`, and Keras 3
    computes unfused and in float32.

    Args:
        momentum: Decay of the moving statistics, in [0, 1].
        epsilon: Added to the variance.
        synchronized: Whether statistics are taken over the batch of all replicas.
        **kwargs: As for `keras.layers.BatchNormalization`.

    Input: (N, d) or (N, height, width, channels). Output: the same shape.

    Source: Ioffe and Szegedy 2015; SimCLR section 2.2 ("global BN").

    Example:
        >>> BatchNorm()(tf.ones([8, 4]), training=True).shape
        TensorShape([8, 4])
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = BATCH_NORM_EPSILON,
        synchronized: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        self.synchronized = synchronized

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        training = bool(training) and self.trainable  # frozen: inference mode, as in Keras
        channels = inputs.shape[-1]
        float_type = tf.float32
        scale = _as_float32(self.gamma) if self.scale else tf.ones([channels], float_type)
        offset = _as_float32(self.beta) if self.center else tf.zeros([channels], float_type)
        local = getattr(_tracing, "local", False)
        if training and self.synchronized and replicas.several() and not local:
            mean, variance, count = _moments_over_replicas(inputs)
            self._move(mean, variance, count, replicas_agree=True)
            return processor_batch_norm.by_moments(
                inputs, mean, variance, scale, offset, self.epsilon
            )
        if processor_batch_norm.applies(inputs):
            return self._call_on_processor(inputs, training, scale, offset)
        # The fused kernel takes images; a batch of vectors is a batch of 1 x 1 images.
        is_vector = inputs.shape.rank == 2
        images = inputs[:, tf.newaxis, tf.newaxis, :] if is_vector else inputs
        empty = tf.zeros([0], float_type)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=scale,
            offset=offset,
            mean=empty if training else _as_float32(self.moving_mean),
            variance=empty if training else _as_float32(self.moving_variance),
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            # The kernel reports the unbiased variance; the release averages the biased one.
            count = tf.cast(tf.reduce_prod(tf.shape(images)[:3]), float_type)
            self._move(mean, variance * (count - 1.0) / count, count)
        return outputs[:, 0, 0, :] if is_vector else outputs

    def _call_on_processor(
        self, inputs: tf.Tensor, training: bool, scale: tf.Tensor, offset: tf.Tensor
    ) -> tf.Tensor:
        if not training:
            moments = _as_float32(self.moving_mean), _as_float32(self.moving_variance)
            return processor_batch_norm.by_moments(inputs, *moments, scale, offset, self.epsilon)
        outputs, mean, variance = processor_batch_norm.of_batch(inputs, scale, offset, self.epsilon)
        self._move(mean, variance, tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32))
        return outputs

    def _move(
        self,
        mean: tf.Tensor,
        variance: tf.Tensor,
        count: tf.Tensor,
        replicas_agree: bool = False,
    ) -> None:
        """Moves the moving statistics towards those of a batch, each of shape (channels,).

        `count` is the number of values; for none the kernel reports NaN.
        """
        some = count > 0
        counts = getattr(_tracing, "counts", None)
        if counts is not None and not replicas_agree:
            some = tf.logical_and(some, counts)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            current = tf.convert_to_tensor(moving)
            value = tf.where(some, tf.cast(value, current.dtype), current)
            moving.assign(current * self.momentum + value * (1.0 - self.momentum))

    def get_config(self) -> KerasConfig:
        return {**super().get_config(), "synchronized": self.synchronized}


def _as_float32(variable: tf.Variable) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(variable), tf.float32)


def _moments_over_replicas(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns mean and biased variance over all replicas, (channels,), and the number of values.

    Sums are added up over replicas, then divided once: each may hold any number of images, or none.
    """
    values = tf.cast(inputs, tf.float32)
    axes = list(range(values.shape.rank - 1))
    count = tf.cast(tf.reduce_prod(tf.shape(values)[:-1]), tf.float32)
    sums = [tf.reduce_sum(values, axes), tf.reduce_sum(tf.square(values), axes), count[tf.newaxis]]
    channels = values.shape[-1]
    local_sums = tf.concat(sums, 0)
    counts = getattr(_tracing, "counts", None)
    if counts is not None:
        local_sums = tf.where(counts, local_sums, 0.0)
    total, total_squares, counts = tf.split(
        replicas.sum_over_replicas(local_sums), [channels, channels, 1]
    )
    some = tf.maximum(counts, 1.0)
    mean = total / some
    return mean, tf.maximum(total_squares / some - tf.square(mean), 0.0), counts[0]


@register
class SumStreams(keras.layers.Layer):
    """Adds the two halves of the channel axis: (..., 2c) to (..., c)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        first, second = tf.split(inputs, 2, axis=-1)
        return first + second

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], input_shape[-1] // 2)


@register
class MixStreams(keras.layers.Layer):
    """Weighs two feature streams channel by channel with a softmax over the two.

    Call with `[features, logits]` of shapes (N, h, w, 2c) and (N, 1, 1, 2c); returns (N, h, w, c).

    Source: Li et al. 2019, "Selective Kernel Networks", equations 5 and 6.
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        features, logits = inputs
        first, second = tf.split(features, 2, axis=-1)
        first_logits, second_logits = tf.split(logits, 2, axis=-1)
        share = tf.sigmoid(first_logits - second_logits)  # a softmax over two entries
        return first * share + second * (1 - share)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        features, _ = input_shape
        return (*features[:-1], features[-1] // 2)
