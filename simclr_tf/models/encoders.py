"""Encoders by name: networks from images in [0, 1] to one feature vector per image.

`resnet` is the release's; `mlp`, every network of `keras.applications` and the backbones of
KerasCV and KerasHub are wrapped so that all have the same interface: float images in [0, 1] in,
(N, d) out, named stages that can be frozen one by one. `wrap_encoder` does the same for a user's
own network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tensorflow import keras

from simclr_tf.compat import deserialize, register, serialize
from simclr_tf.errors import UserError
from simclr_tf.models.applications import InputScaling, application_donor
from simclr_tf.models.encoder_weights import load_weights
from simclr_tf.models.endpoints import endpoint_model, find_endpoints, freeze_until, pool, stages
from simclr_tf.models.named_networks import (
    BACKBONES,
    backbone_prefix,
    build_network,
    check_sides,
    full_name,
    has_cifar_stem,
)
from simclr_tf.models.resnet import ResNet
from simclr_tf.typing import KerasConfig

__all__ = [
    "Encoder",
    "InputScaling",
    "WrappedEncoder",
    "endpoint_model",
    "find_endpoints",
    "freeze_until",
    "make_encoder",
    "stages",
    "wrap_encoder",
]


@register
class Encoder(keras.Model):
    """A network by name as a functional model: images in [0, 1] in, one vector per image out.

    Weights are random: `make_encoder` loads published or given ones; a saved model has its own.

    Args:
        network: `mlp`, `mlp:WIDTH,WIDTH`, `keras.applications.NAME`, `keras_cv.NAME` or
            `keras_hub.NAME`.
        image_size: Side or (height, width) in pixels; None: any size, where the network allows it.
            Convolutional networks take any size all the same.
        channels: Channels of the images.
        network_config: Arguments of KerasCV's or KerasHub's class; None: looked up by the name.
        batch_norm_momentum: Decay of the moving statistics (`mlp` only).
        synchronized: Whether batch norm statistics span replicas (`mlp` only).
        name: Name of the model.

    Input: (N, height, width, channels) float images in [0, 1]. Output: (N, d).

    Attributes:
        endpoint_layers: Endpoint -> name of the layer that computes it: `stem`, `stage1`, ... (the
            last layer of each spatial resolution that every path passes through), `final_avg_pool`.

    Raises:
        UserError: Unknown network, or one that does not accept these images.

    Example:
        >>> Encoder('keras.applications.MobileNetV2', image_size=32).output_shape
        (None, 1280)
    """

    def __init__(
        self,
        network: str,
        image_size: int | tuple[int, int] | None = None,
        channels: int = 3,
        network_config: KerasConfig | None = None,
        batch_norm_momentum: float = 0.9,
        synchronized: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        sides = check_sides(image_size)
        if channels < 1:
            raise UserError(f"Expected at least one channel; received: {channels}.")
        network, network_config, inputs, outputs = build_network(
            network, sides, channels, network_config, batch_norm_momentum, synchronized
        )
        default_name = re.sub(r"\W+", "_", network.split(".")[-1]).lower()
        super().__init__(inputs=inputs, outputs=pool(outputs), name=name or default_name, **kwargs)
        config = {
            "network": network,
            "image_size": list(sides) if sides else None,
            "channels": channels,
            "network_config": network_config,
            "batch_norm_momentum": batch_norm_momentum,
            "synchronized": synchronized,
        }
        # Plain dicts: Keras 2 would wrap, track and save them.
        object.__setattr__(self, "_init_config", config)
        object.__setattr__(self, "_endpoint_layers", find_endpoints(self))

    @property
    def endpoint_layers(self) -> dict[str, str]:
        return dict(self._endpoint_layers)

    def get_config(self) -> KerasConfig:
        return {**self._init_config, "name": self.name}

    @classmethod
    def from_config(
        cls, config: KerasConfig, custom_objects: Mapping[str, object] | None = None
    ) -> Encoder:
        return cls(**config)


@register
class WrappedEncoder(keras.Model):
    """A user's model or layer with its output pooled to one vector; see `wrap_encoder`."""

    def __init__(
        self,
        encoder: keras.Model | keras.layers.Layer,
        input_shape: tuple[int | None, ...] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if _is_graph(encoder):
            # Several inputs keep their structure: a dictionary, a tuple.
            inputs = encoder.inputs[0] if len(encoder.inputs) == 1 else encoder.input
            x = encoder.outputs[0]
        else:
            shape = input_shape
            if shape is None and getattr(encoder, "input_shape", None):
                shape = tuple(encoder.input_shape[1:])
            if shape is None:
                raise UserError(
                    f"Expected an encoder whose input shape is known; received: {encoder.name}, "
                    "not built. Pass input_shape=(height, width, channels)."
                )
            inputs = keras.Input(shape, name="images")
            x = encoder(inputs)
        super().__init__(inputs=inputs, outputs=pool(x), name=name or "encoder", **kwargs)
        config = {"encoder": encoder, "input_shape": input_shape and list(input_shape)}
        # The encoder's layers are this model's too: tracking the encoder would save them twice.
        object.__setattr__(self, "_init_config", config)
        object.__setattr__(self, "_endpoint_layers", find_endpoints(self))

    @property
    def endpoint_layers(self) -> dict[str, str]:
        return dict(self._endpoint_layers)

    def get_config(self) -> KerasConfig:
        return {
            "encoder": serialize(self._init_config["encoder"]),
            "input_shape": self._init_config["input_shape"],
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: KerasConfig, custom_objects: Mapping[str, object] | None = None
    ) -> WrappedEncoder:
        encoder = deserialize(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})


def make_encoder(
    name: str = "resnet",
    *,
    image_size: int | tuple[int, int] | None,
    channels: int = 3,
    weights: str | None = None,
    resnet_depth: int = 50,
    width_multiplier: float = 1.0,
    resnet_stem: str = "auto",
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
    batch_norm_decay: float = 0.9,
    global_bn: bool = True,
) -> keras.Model:
    """Builds an encoder by name.

    Args:
        name: `resnet` (the release's), `mlp` or `mlp:512,512`, a network of `keras.applications`
            with or without that prefix, `keras_cv.NAME` or, under Keras 3, `keras_hub.NAME` (a
            backbone or a preset); letter case does not matter. A preset named after its weights
            loads them.
        image_size: Side or (height, width) in pixels; None: any.
        channels: Channels of the images.
        weights: None (random), `imagenet` (published; downloaded by Keras once) or the path of a
            weights file (of this encoder, or of the application without its top).
        resnet_depth: Depth of `resnet`.
        width_multiplier: Width of `resnet`.
        resnet_stem: First layers of `resnet`: 'imagenet', 'cifar', or 'auto': the latter for images
            of up to 32 pixels.
        sk_ratio: Selective kernels of `resnet`.
        se_ratio: Squeeze-and-excitation of `resnet`.
        batch_norm_decay: Decay of the moving statistics of `resnet` and `mlp`.
        global_bn: Whether batch norm of `resnet` and `mlp` spans replicas.

    Returns:
        A functional model from (N, height, width, channels) float images in [0, 1] to (N, d), with
        `endpoint_layers`; its last layer is called `final_avg_pool`.

    Raises:
        UserError: Unknown name; images too small for the network; weights that are not there, do
            not fit or cannot be downloaded; KerasCV or KerasHub missing.

    Example:
        >>> make_encoder('MobileNetV2', image_size=96).output_shape
        (None, 1280)
    """
    sides = check_sides(image_size)
    if name.lower() == "resnet":
        encoder: keras.Model = ResNet(
            depth=resnet_depth,
            width_multiplier=width_multiplier,
            sk_ratio=sk_ratio,
            se_ratio=se_ratio,
            cifar_stem=has_cifar_stem(resnet_stem, sides),
            batch_norm_momentum=batch_norm_decay,
            synchronized=global_bn,
            channels=channels,
        )
        donor: Callable[[str], keras.Model] | None = None
    else:
        network = full_name(name)
        network_config = None
        donor = None
        if network.startswith("keras.applications."):
            donor = application_donor(network.rsplit(".", 1)[1], channels)
        elif (prefix := backbone_prefix(network)) is not None:
            family, network_config, donor, weights = BACKBONES[prefix].find_backbone(
                network[len(prefix) :], sides, channels, weights
            )
            network = prefix + family
        encoder = Encoder(
            network,
            image_size=sides,
            channels=channels,
            network_config=network_config,
            batch_norm_momentum=batch_norm_decay,
            synchronized=global_bn,
        )
    if weights is not None:
        load_weights(encoder, name, weights, donor)
    return encoder


def wrap_encoder(
    model_or_layer: keras.Model | keras.layers.Layer,
    input_shape: tuple[int | None, ...] | None = None,
    several_inputs: bool = False,
) -> keras.Model:
    """Makes a user's model or layer an encoder: one vector per example, endpoints, freezable.

    Args:
        model_or_layer: Any Keras model or layer with one input and one output. Outputs of rank 3,
            4 or 5 are averaged over all axes but the first and last. To save and load the result,
            the class must be registered, as Keras asks for any custom class.
        input_shape: Shape of one example, (height, width, channels); only needed if not built.
        several_inputs: Whether a functional model with several inputs is one too.

    Returns:
        A functional model with `endpoint_layers`; an encoder of this package is returned as it is.

    Raises:
        UserError: Not a layer, several inputs or outputs, or an unknown input shape.

    Example:
        >>> wrap_encoder(keras.layers.Conv2D(8, 3), input_shape=(16, 20, 1)).output_shape
        (None, 8)
    """
    if not isinstance(model_or_layer, keras.layers.Layer):
        raise UserError(
            "Expected a Keras model or layer as encoder; "
            f"received: {type(model_or_layer).__name__}. For a network by name use make_encoder."
        )
    if isinstance(model_or_layer, (Encoder, WrappedEncoder, ResNet)):
        return model_or_layer
    counts = [
        len(getattr(model_or_layer, side, None) or [None]) if _is_model(model_or_layer) else 1
        for side in ("inputs", "outputs")
    ]
    if several_inputs and counts[0] > 1 and not _is_graph(model_or_layer):
        raise UserError(
            "Expected an encoder of several inputs as a functional model; received: "
            f"{type(model_or_layer).__name__}. Call it on keras.Input tensors: "
            "keras.Model(inputs, layer(inputs))."
        )
    if counts[1] != 1 or (counts[0] != 1 and not several_inputs):
        advice = ' Pass input_kind="any" of SimCLR.' if counts[0] > 1 and counts[1] == 1 else ""
        raise UserError(
            "Expected an encoder with one input and one output; "
            f"received: {counts[0]} inputs and {counts[1]} outputs.{advice}"
        )
    return WrappedEncoder(model_or_layer, input_shape=input_shape)


def _is_model(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model)


def _is_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a functional or built sequential model that does not override `call`."""
    if not _is_model(layer) or not getattr(layer, "inputs", None):
        return False
    tensor = keras.Input((1,))
    plain = (type(keras.Model(tensor, tensor)), keras.Sequential)
    return any(type(layer).call is kind.call for kind in plain)
