"""The contrastive step that SimCLR's is timed against: the same network, of only Keras layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices.process_state import isolated
from simclr_tf.models.blocks import BATCH_NORM_EPSILON, BatchNorm
from simclr_tf.models.resnet import BLOCKS_PER_GROUP

DIMENSIONS = 128
_TEMPERATURE = 0.1


class BaselineStep(NamedTuple):
    """A step to time, and the network that it trains.

    Attributes:
        step: Views (2N, size, size, 3) float32 and labels (N,) to the loss, a scalar.
        network: Images to (embeddings (2N, 128), logits (2N, classes)).
    """

    step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    network: keras.Model


def make_baseline_step(
    width_multiplier: float, image_size: int, num_classes: int = 10, fused: bool = False
) -> BaselineStep:
    """Returns the step as usually written with Keras, in float32 whatever the global policy.

    Layer for layer the network of `SimCLR(ResNet(18), ProjectionHead(), num_classes=...)`: stem,
    blocks, three-layer projection head and linear head behind a stop-gradient. The optimizer is
    SGD with momentum, the nearest to LARS in Keras: the norms of LARS count as a cost of ours.

    Args:
        width_multiplier: Width of the ResNet-18.
        image_size: Side of the images in pixels; up to 32 with the stem for small images.
        num_classes: Classes of the linear head.
        fused: Whether batch norm uses TensorFlow's fused kernel, which the layer of Keras 3 does
            not (that of Keras 2 does).

    Example:
        >>> make_baseline_step(0.25, 32).network.count_params() > 700_000
        True
    """
    with isolated("float32"):
        network = _network(width_multiplier, image_size, num_classes, fused)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        optimizer.build(network.trainable_variables)

    @tf.function
    def step(views: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        rows = views.shape[0]
        with tf.GradientTape() as tape:
            z, class_logits = network(views, training=True)
            z = tf.math.l2_normalize(z, axis=1)
            logits = tf.matmul(z, z, transpose_b=True) / _TEMPERATURE - 1e9 * tf.eye(rows)
            positives = (tf.range(rows) + rows // 2) % rows
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
            value = tf.reduce_mean(cross_entropy(positives, logits)) + tf.reduce_mean(
                cross_entropy(tf.concat([labels, labels], 0), class_logits)
            )
        gradients = tape.gradient(value, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return value

    return BaselineStep(step, network)


def _network(
    width_multiplier: float, image_size: int, num_classes: int, fused: bool
) -> keras.Model:
    layers = keras.layers

    def batch_norm(x: tf.Tensor, **options: Any) -> tf.Tensor:
        make = BatchNorm if fused else layers.BatchNormalization
        return make(momentum=0.9, epsilon=BATCH_NORM_EPSILON, **options)(x)

    def convolution(x: tf.Tensor, filters: int, size: int, strides: int = 1) -> tf.Tensor:
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return batch_norm(x)

    def channels(count: int) -> int:
        return max(1, round(count * width_multiplier))

    images = keras.Input((image_size, image_size, 3))
    small = image_size <= 32
    x = convolution(images, channels(64), *((3, 1) if small else (7, 2)))
    x = layers.ReLU()(x)
    if not small:
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for group, blocks in enumerate(BLOCKS_PER_GROUP[18]):
        filters = channels(64 * 2**group)
        for index in range(blocks):
            strides = 2 if group and not index else 1
            shortcut = convolution(x, filters, 1, strides) if not index else x
            x = layers.ReLU()(convolution(x, filters, 3, strides))
            x = layers.ReLU()(layers.Add()([convolution(x, filters, 3), shortcut]))
    features = layers.GlobalAveragePooling2D()(x)
    # The last layer is not in the loop: its width may be that of the others.
    x = features
    for _ in range(2):
        x = layers.Dense(features.shape[-1], use_bias=False)(x)
        x = layers.ReLU()(batch_norm(x))
    x = batch_norm(layers.Dense(DIMENSIONS, use_bias=False)(x), center=False)
    stopped = layers.Lambda(tf.stop_gradient)(features)
    return keras.Model(images, [x, layers.Dense(num_classes)(stopped)])
