"""Building blocks of the release's residual networks, as functions over Keras tensors.

Each function adds named Keras layers to a functional graph. Every layer that holds weights is also
entered under the path that the original TensorFlow 2 release gives it in its checkpoints, so that
checkpoints of both can be exchanged.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.devices import replicas
from simclr_tf.models.convolution import Conv2D

BATCH_NORM_EPSILON = 1e-5  # the release's

_tracing = threading.local()  # every replica is traced in a thread of its own


@contextlib.contextmanager
def local_batch_statistics() -> Iterator[None]:
    """Layers traced within take the statistics of their own replica, synchronised or not.

    Replicas cannot talk to each other from within a loop.
    """
    before = getattr(_tracing, "local", False)
    _tracing.local = True
    try:
        yield
    finally:
        _tracing.local = before


@contextlib.contextmanager
def batch_that_counts(mask: tf.Tensor | None) -> Iterator[None]:
    """Layers traced within leave a replica out of their statistics that has no images.

    Args:
        mask: (N,) bool, all False where the rows only stand for images that the replica has not
            got; None: all are images.
    """
    before = getattr(_tracing, "counts", None)
    _tracing.counts = None if mask is None else tf.reduce_any(mask)
    try:
        yield
    finally:
        _tracing.counts = before


@register
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis, optionally over the images of all replicas.

    One replica uses TensorFlow's fused kernel (float32 statistics, also under mixed precision),
    with the biased variance in the moving average as the release has it. With `synchronized` and
    several replicas, the moments are those of the images of all replicas, however many each has.
    Without, a replica that has no images leaves its moving averages as they are.

    Keras's own layer is not used as it is: Keras 2.15 drops `synchronized` from `get_config` and
    Keras 3 computes unfused and in float32.

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
        training = bool(training) and self.trainable  # a frozen layer infers, as in Keras
        channels = inputs.shape[-1]
        float_type = tf.float32
        scale = _as_float32(self.gamma) if self.scale else tf.ones([channels], float_type)
        offset = _as_float32(self.beta) if self.center else tf.zeros([channels], float_type)
        local = getattr(_tracing, "local", False)
        if training and self.synchronized and replicas.several() and not local:
            mean, variance, count = _moments_over_replicas(inputs)
            self._move(mean, variance, count, replicas_agree=True)
            return _normalize(inputs, mean, variance, scale, offset, self.epsilon)
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

    def _move(
        self,
        mean: tf.Tensor,
        variance: tf.Tensor,
        count: tf.Tensor,
        replicas_agree: bool = False,
    ) -> None:
        """Moves the moving statistics towards those of a batch, each of shape (channels,).

        `count` is the values that they were taken over: of none the kernel reports NaN.
        """
        some = count > 0
        counts = getattr(_tracing, "counts", None)
        if counts is not None and not replicas_agree:
            some = tf.logical_and(some, counts)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            current = tf.convert_to_tensor(moving)
            value = tf.where(some, tf.cast(value, current.dtype), current)
            moving.assign(current * self.momentum + value * (1.0 - self.momentum))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "synchronized": self.synchronized}


def _as_float32(variable: Any) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(variable), tf.float32)


def _moments_over_replicas(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns mean and biased variance, each (channels,), over all replicas, and how many values.

    Sums are reduced, and divided once: replicas need not hold as many images, or any.
    """
    values = tf.cast(inputs, tf.float32)
    axes = list(range(values.shape.rank - 1))
    count = tf.cast(tf.reduce_prod(tf.shape(values)[:-1]), tf.float32)
    sums = [tf.reduce_sum(values, axes), tf.reduce_sum(tf.square(values), axes), count[tf.newaxis]]
    channels = values.shape[-1]
    own = tf.concat(sums, 0)
    counts = getattr(_tracing, "counts", None)
    if counts is not None:
        own = tf.where(counts, own, 0.0)
    total, total_squares, counts = tf.split(
        replicas.sum_over_replicas(own), [channels, channels, 1]
    )
    some = tf.maximum(counts, 1.0)
    mean = total / some
    return mean, tf.maximum(total_squares / some - tf.square(mean), 0.0), counts[0]


def _normalize(
    inputs: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    factor = scale * tf.math.rsqrt(variance + epsilon)
    outputs = tf.cast(inputs, tf.float32) * factor + (offset - mean * factor)
    return tf.cast(outputs, inputs.dtype)


@register
class SumStreams(keras.layers.Layer):
    """Adds the two halves of the channel axis: (..., 2c) to (..., c)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        first, second = tf.split(inputs, 2, axis=-1)
        return first + second

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
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

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        features, _ = input_shape
        return (*features[:-1], features[-1] // 2)


class BlockBuilder:
    """Adds the release's blocks to a functional graph and remembers their checkpoint paths.

    Args:
        batch_norm_momentum: Decay of the moving statistics.
        synchronized: Whether batch norm statistics are taken over all replicas.
        sk_ratio: Selective kernels' reduction (0: none; SimCLRv2 uses 0.0625). Above 0 also turns
            shortcuts and stem into those of ResNet-D.
        se_ratio: Squeeze-and-excitation's reduction (0: none).

    Attributes:
        release_paths: Layer name -> path in the release's checkpoints.
    """

    def __init__(
        self,
        batch_norm_momentum: float,
        synchronized: bool,
        sk_ratio: float,
        se_ratio: float,
    ) -> None:
        self.batch_norm_momentum = batch_norm_momentum
        self.synchronized = synchronized
        self.sk_ratio = sk_ratio
        self.se_ratio = se_ratio
        self.release_paths: dict[str, str] = {}

    def conv(
        self,
        x: Any,
        filters: int,
        kernel_size: int,
        strides: int,
        name: str,
        path: str,
        **kwargs: Any,
    ) -> Any:
        """Convolution whose padding depends on the kernel only, not on the image size."""
        if strides > 1 and kernel_size > 1:
            x = pad(x, kernel_size, f"{name}_pad")
        self.release_paths[name] = path
        return Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same" if strides == 1 else "valid",
            kernel_initializer=keras.initializers.VarianceScaling(),
            name=name,
            **{"use_bias": False, **kwargs},
        )(x)

    def batch_norm(
        self, x: Any, name: str, path: str, relu: bool = True, zero_init: bool = False
    ) -> Any:
        """Batch normalisation, with a ReLU behind it unless told otherwise."""
        self.release_paths[name] = path
        x = BatchNorm(
            momentum=self.batch_norm_momentum,
            synchronized=self.synchronized,
            gamma_initializer="zeros" if zero_init else "ones",
            name=name,
        )(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def shortcut(self, x: Any, filters: int, strides: int, name: str, path: str) -> Any:
        """The projection shortcut; ResNet-D's (average pool, then 1 x 1) with selective kernels."""
        index = 0
        if self.sk_ratio > 0:
            if strides > 1:
                x = pad(x, 2, f"{name}_pad")
                index += 1
            x = keras.layers.AveragePooling2D(
                2, strides, padding="same" if strides == 1 else "valid", name=f"{name}_pool"
            )(x)
            index += 1
            strides = 1
        x = self.conv(x, filters, 1, strides, f"{name}_conv", f"{path}/{index}/conv2d")
        return self.batch_norm(x, f"{name}_bn", f"{path}/{index + 1}/bn", relu=False)

    def selective_kernel(self, x: Any, filters: int, strides: int, name: str, path: str) -> Any:
        """Two 3 x 3 streams mixed by their global context (min. 32 hidden channels)."""
        x = self.conv(
            x, 2 * filters, 3, strides, f"{name}_conv", f"{path}/conv2d_fixed_padding/conv2d"
        )
        x = self.batch_norm(x, f"{name}_bn", f"{path}/batch_norm_relu/bn")
        context = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        context = SumStreams(name=f"{name}_sum")(context)
        hidden = max(int(filters * self.sk_ratio), 32)
        context = self.conv(context, hidden, 1, 1, f"{name}_reduce", f"{path}/conv2d_0")
        context = self.batch_norm(context, f"{name}_reduce_bn", f"{path}/batch_norm_relu_1/bn")
        logits = self.conv(context, 2 * filters, 1, 1, f"{name}_expand", f"{path}/conv2d_1")
        return MixStreams(name=f"{name}_mix")([x, logits])

    def squeeze_excitation(self, x: Any, filters: int, name: str, path: str) -> Any:
        """Scales each channel by a gate computed from the global context."""
        hidden, channels = max(1, int(filters * self.se_ratio)), x.shape[-1]
        gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        for layer, units, activation in (
            ("reduce", hidden, "relu"),
            ("expand", channels, "sigmoid"),
        ):
            gate = self.conv(
                gate,
                units,
                1,
                1,
                f"{name}_{layer}",
                f"{path}/se_{layer}",
                use_bias=True,
                activation=activation,
            )
        return keras.layers.Multiply(name=f"{name}_scale")([gate, x])

    def basic_block(
        self, x: Any, filters: int, strides: int, project: bool, name: str, path: str
    ) -> Any:
        """Two 3 x 3 convolutions (ResNet-18 and -34)."""
        shortcut = x
        if project:
            shortcut = self.shortcut(
                x, filters, strides, f"{name}_shortcut", f"{path}/shortcut_layers"
            )
        main = f"{path}/conv2d_bn_layers"
        x = self.conv(x, filters, 3, strides, f"{name}_conv1", f"{main}/0/conv2d")
        x = self.batch_norm(x, f"{name}_bn1", f"{main}/1/bn")
        x = self.conv(x, filters, 3, 1, f"{name}_conv2", f"{main}/2/conv2d")
        x = self.batch_norm(x, f"{name}_bn2", f"{main}/3/bn", relu=False, zero_init=True)
        if self.se_ratio > 0:
            x = self.squeeze_excitation(x, filters, f"{name}_se", f"{path}/se_layer")
        return _add_relu(x, shortcut, name)

    def bottleneck_block(
        self, x: Any, filters: int, strides: int, project: bool, name: str, path: str
    ) -> Any:
        """1 x 1, 3 x 3 (or selective kernels), 1 x 1 convolutions (ResNet-50 and deeper)."""
        shortcut = x
        if project:
            shortcut = self.shortcut(
                x, 4 * filters, strides, f"{name}_shortcut", f"{path}/projection_layers"
            )
        # In the release's list every third entry is a dropblock that holds nothing.
        main = f"{path}/conv_relu_dropblock_layers"
        x = self.conv(x, filters, 1, 1, f"{name}_conv1", f"{main}/0/conv2d")
        x = self.batch_norm(x, f"{name}_bn1", f"{main}/1/bn")
        if self.sk_ratio > 0:
            x = self.selective_kernel(x, filters, strides, f"{name}_sk", f"{main}/3")
            index = 5
        else:
            x = self.conv(x, filters, 3, strides, f"{name}_conv2", f"{main}/3/conv2d")
            x = self.batch_norm(x, f"{name}_bn2", f"{main}/4/bn")
            index = 6
        x = self.conv(x, 4 * filters, 1, 1, f"{name}_conv3", f"{main}/{index}/conv2d")
        x = self.batch_norm(x, f"{name}_bn3", f"{main}/{index + 1}/bn", relu=False, zero_init=True)
        if self.se_ratio > 0:
            x = self.squeeze_excitation(x, filters, f"{name}_se", f"{main}/{index + 3}")
        return _add_relu(x, shortcut, name)


def pad(x: Any, kernel_size: int, name: str) -> Any:
    """Zero padding of kernel_size - 1 in all, the larger half at the end."""
    begin = (kernel_size - 1) // 2
    end = kernel_size - 1 - begin
    return keras.layers.ZeroPadding2D(((begin, end), (begin, end)), name=name)(x)


def _add_relu(x: Any, shortcut: Any, name: str) -> Any:
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_out")(x)
