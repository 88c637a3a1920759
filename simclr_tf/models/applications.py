"""The networks of keras.applications, each with the input scaling that it was made for."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.errors import UserError
from simclr_tf.typing import KerasConfig

SCALING_MODES = ("unit", "raw", "tf", "torch", "caffe")

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # RGB, of images in [0, 1]
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CAFFE_MEAN = np.array([103.939, 116.779, 123.68], np.float32)  # BGR, of images in [0, 255]


@register
class InputScaling(keras.layers.Layer):
    """Maps images in [0, 1] to the range that a network was made for; always in float32.

    Args:
        mode: `unit` (no change), `raw` ([0, 255]), `tf` ([-1, 1]), `torch` (ImageNet mean and
            standard deviation of each channel) or `caffe` ([0, 255], BGR, less ImageNet's mean).
            Unless there are 3 channels, the mean and standard deviation are averaged over RGB and
            channels are not reordered.
        **kwargs: As for `keras.layers.Layer`.

    Input and output: (N, height, width, channels).

    Raises:
        UserError: Unknown mode.

    Source: `keras.applications.imagenet_utils.preprocess_input`.

    Example:
        >>> InputScaling('tf')(tf.ones([1, 2, 2, 3]))[0, 0, 0].numpy()
        array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, mode: str = "unit", **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")  # 255 levels do not fit bfloat16's 8 bits
        super().__init__(**kwargs)
        if mode not in SCALING_MODES:
            raise UserError(f"Expected a scaling mode among {SCALING_MODES}; received: {mode!r}.")
        self.mode = mode

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return scale_images(tf.cast(inputs, tf.float32), self.mode)

    def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
        return input_shape

    def get_config(self) -> KerasConfig:
        return {**super().get_config(), "mode": self.mode}


def scale_images(images: tf.Tensor, mode: str) -> tf.Tensor:
    """Scales images from [0, 1] as `InputScaling` does, without a layer."""
    if mode == "unit":
        return images
    if mode == "raw":
        return images * 255.0
    if mode == "tf":
        return images * 2.0 - 1.0
    colour = images.shape[-1] == 3
    mean, std, caffe_mean = (
        values if colour else values.mean()
        for values in (_IMAGENET_MEAN, _IMAGENET_STD, _CAFFE_MEAN)
    )
    if mode == "torch":
        return (images - mean) / std
    return (images[..., ::-1] if colour else images) * 255.0 - caffe_mean


def application_names() -> list[str]:
    """Returns the names of the networks in this version of `keras.applications`."""
    return sorted(
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and "include_top" in inspect.signature(value).parameters
    )


def application_scaling(name: str) -> str:
    """Returns the scaling mode that equals an application's own `preprocess_input`.

    Found by comparing outputs on a probe, so that it is right for any version of Keras.

    Raises:
        UserError: The network's preprocessing is none of the modes.
    """
    preprocess = sys.modules[getattr(keras.applications, name).__module__].preprocess_input
    probe = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    expected = np.asarray(preprocess(probe.copy()))  # works in place on arrays
    for mode in SCALING_MODES:
        if np.allclose(scale_images(tf.constant(probe / 255), mode), expected, atol=1e-3):
            return mode
    raise UserError(
        f"Expected a preprocess_input among {SCALING_MODES}; received another kind from {name}. "
        "Pass a model of your own, with its preprocessing inside."
    )


def _application_arguments(
    constructor: Callable[..., keras.Model], channels: int
) -> dict[str, bool]:
    # Preprocessing inside a network is written for RGB: with other channels it is switched off.
    off = channels != 3 and "include_preprocessing" in inspect.signature(constructor).parameters
    return {"include_top": False, **({"include_preprocessing": False} if off else {})}


def build_application(
    name: str, sides: tuple[int, int] | None, channels: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns symbolic images in [0, 1] and feature maps of a network with fresh weights.

    Args:
        name: One of `application_names()`.
        sides: (height, width) of the images; None: any.
        channels: Channels of the images.

    Raises:
        UserError: The network does not take images of this size.
    """
    constructor = getattr(keras.applications, name)
    minimum = _minimum_size(constructor)
    if sides is not None and min(sides) < minimum:
        raise UserError(
            f"Expected images of at least {minimum} x {minimum} pixels for {name}; "
            f"received: {sides[0]} x {sides[1]}. Pass a larger image_size, or --encoder=resnet."
        )
    shape: tuple[int | None, ...] = (None, None, channels)
    if name.startswith("NASNet"):
        # The outputs of its branches only match if the padding is chosen for the size.
        if sides is None:
            raise UserError(f"Expected an image_size for {name}; received: None. Pass one.")
        shape = (*sides, channels)
    arguments = _application_arguments(constructor, channels)
    mode = application_scaling(name) if "include_preprocessing" not in arguments else "torch"
    inputs = keras.Input(shape, name="images")
    scaling = InputScaling(mode, name="input_scaling")
    scaled = scaling(inputs)
    network = constructor(weights=None, input_tensor=scaled, input_shape=shape, **arguments)
    features = network.output
    if not any(layer is scaling for layer in network.layers):
        # Keras 2's ConvNeXt goes back to the source of `input_tensor`, leaving the scaling out:
        # run its layers again, after the scaling.
        features = network.call(scaled)
    if channels == 3:
        for layer in adaptive_normalizations(network):
            set_statistics(layer, _IMAGENET_MEAN, _IMAGENET_STD**2)
    return inputs, features


def _minimum_size(constructor: Callable[..., keras.Model]) -> int:
    """Returns the smallest side that a network takes, read off its error for 1 pixel."""
    try:
        constructor(weights=None, include_top=False, input_shape=(1, 1, 3))
    except ValueError as error:
        found = re.search(r"at least (\d+)", str(error))
        return int(found.group(1)) if found else 1
    return 1


def adaptive_normalizations(network: keras.Model) -> list[keras.layers.Normalization]:
    """Returns EfficientNet's input normalisation: mean 0 and variance 1 unless loaded.

    Keras copies these variables into constants when a network is built or loaded from a file, but
    not when it is restored from a checkpoint. So they are set when the encoder is made, with or
    without weights: the network always sees (image - mean) / std, as its published weights were
    trained on.
    """
    return [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.Normalization) and layer.weights
    ]


def set_statistics(
    layer: keras.layers.Normalization, mean: np.ndarray, variance: np.ndarray
) -> None:
    """Sets a normalisation's statistics: its variables and the constants made from them."""
    layer.set_weights([mean, variance, *layer.get_weights()[2:]])
    layer.finalize_state()


def donor_statistics(donor: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and variance of (x / 255 - mean) / sqrt(variance) at an EfficientNet's input.

    With weights='imagenet' Keras adds a second rescaling after the normalisation, by
    1 / sqrt(std); otherwise it adds none. The rescaling is folded into the variance here, so that
    one graph serves both.
    """
    (norm,) = adaptive_normalizations(donor)
    mean, variance = norm.get_weights()[:2]
    rescalings = [layer for layer in donor.layers if isinstance(layer, keras.layers.Rescaling)]
    for layer in rescalings:
        if np.size(layer.scale) == len(variance) > 1:
            variance = variance / np.square(np.asarray(layer.scale, np.float32))
    return mean, variance


def application_donor(name: str, channels: int) -> Callable[[str], keras.Model]:
    """Returns a function from `imagenet` or a file to Keras's own network with those weights."""
    constructor = getattr(keras.applications, name)
    arguments = _application_arguments(constructor, channels)

    def donor(source: str) -> keras.Model:
        # Published weights: Keras chooses the size, since some networks allow only one.
        shape = None if source == "imagenet" else (None, None, channels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the size that it chose
            return constructor(weights=source, input_shape=shape, **arguments)

    return donor
