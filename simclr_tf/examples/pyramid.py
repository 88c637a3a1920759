"""A feature pyramid network on an encoder's endpoints."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.models.endpoints import endpoint_model, find_endpoints

_CHANNELS = 32


def feature_pyramid(
    encoder: keras.Model, side: int, least_stride: int = 1
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Joins an encoder's feature maps of several resolutions to one.

    It uses the last endpoint of each resolution. From the coarsest to the finest, each is brought
    to 32 channels and added to the enlarged sum of the coarser ones.

    Args:
        encoder: Images (N, h, w, c) to features; its layers are shared, not copied, and all of them
            are trained further.
        side: Height and width of the images in pixels.
        least_stride: Maps finer than a value each so many pixels are left out.

    Returns:
        The input, images in [0, 1] of shape (N, side, side, c), and the finest map of the pyramid,
        (N, side / stride, side / stride, 32).

    Raises:
        UserError: The encoder takes images of another size alone, or has no feature maps of several
            resolutions.

    Source: Lin et al. 2017, "Feature Pyramid Networks for Object Detection" (arXiv:1612.03144).

    Example:
        >>> images, features = feature_pyramid(ResNet(18), side=128, least_stride=4)
        >>> features.shape
        (None, 32, 32, 32)
    """
    height, width = encoder.input_shape[1:3]
    if (height or side, width or side) != (side, side):
        raise UserError(
            f"Expected an encoder of images of any size; {encoder.name} takes {height} x {width} "
            "alone. Use a convolutional one, such as resnet."
        )
    encoder.trainable = True  # fine-tuning may have frozen a part of it
    images = keras.Input((side, side, encoder.input_shape[-1]))
    outputs = endpoint_model(encoder)(images)
    in_order = [outputs[name] for name in find_endpoints(encoder)]
    maps = {int(x.shape[1]): x for x in in_order if len(x.shape) == 4}  # the last of each size
    if len(maps) < 2:
        raise UserError(
            f"Expected an encoder with feature maps of several resolutions; {encoder.name} has "
            f"{len(maps)}. Use a convolutional one, such as resnet."
        )
    x = None
    for size, tensor in sorted(maps.items()):
        if x is not None and size * least_stride > side:
            break
        lateral = convolution(tensor, 1)
        if x is not None:
            enlarged = keras.layers.Resizing(size, size, interpolation="bilinear")(x)
            lateral = keras.layers.Add()([lateral, enlarged])
        x = lateral
    return images, x


def convolution(x: tf.Tensor, size: int) -> keras.KerasTensor:
    """Returns a convolution to 32 channels, batch norm and ReLU of a map (N, h, w, c)."""
    x = keras.layers.Conv2D(_CHANNELS, size, padding="same", use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
