"""Networks by name, before they are encoders: which one a name means, and its graph."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.models import keras_cv, keras_hub
from simclr_tf.models.applications import application_names, build_application
from simclr_tf.models.mlp import build_mlp
from simclr_tf.typing import KerasConfig

# Prefix of a name -> the library of backbones that it names.
BACKBONES = {"keras_cv.": keras_cv, "keras_hub.": keras_hub}
# The largest side in pixels for which a ResNet has the small stem.
CIFAR_STEM_SIDE = 32


def full_name(name: str) -> str:
    """Returns a name as `Encoder` takes it: with its library, in the right letter case."""
    if re.fullmatch(r"mlp(:\d+(,\d+)*)?", name.lower()):
        return name.lower()
    for prefix in BACKBONES:
        if name.lower().startswith(prefix):
            return prefix + name[len(prefix) :]
    short = re.sub(r"^(tf\.)?keras\.applications\.", "", name, flags=re.IGNORECASE)
    by_lower = {known.lower(): known for known in application_names()}
    if short.lower() in by_lower:
        return f"keras.applications.{by_lower[short.lower()]}"
    close = difflib.get_close_matches(short.lower(), ["resnet", "mlp", *by_lower], n=3)
    nearest = f" Nearest: {', '.join(by_lower.get(word, word) for word in close)}." if close else ""
    raise UserError(
        "Expected an encoder called resnet, mlp, mlp:512,512, keras_cv.NAME, keras_hub.NAME or "
        f"one of keras.applications (of this Keras version); received: {name!r}.{nearest}"
    )


def backbone_prefix(network: str) -> str | None:
    """Returns which of `BACKBONES` a full name begins with."""
    return next((prefix for prefix in BACKBONES if network.startswith(prefix)), None)


def check_sides(image_size: int | Iterable[int] | None) -> tuple[int, int] | None:
    """Returns (height, width); raises a `UserError` where that is no size."""
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(
            f"Expected image_size of at least 1, or (height, width); received: {image_size}."
        )
    return sides


def build_network(
    network: str,
    sides: tuple[int, int] | None,
    channels: int,
    network_config: KerasConfig | None,
    batch_norm_momentum: float,
    synchronized: bool,
) -> tuple[str, KerasConfig | None, keras.KerasTensor, keras.KerasTensor]:
    """Builds a network from images in [0, 1] to what it computes last, not yet pooled.

    Args:
        network: As `full_name` returns it, but `resnet`.
        sides: (height, width) in pixels; None: any, where the network allows it.
        channels: Channels of the images.
        network_config: Arguments of KerasCV's or KerasHub's class; None: looked up by the name.
        batch_norm_momentum: Decay of the moving statistics (`mlp` only).
        synchronized: Whether batch norm statistics span replicas (`mlp` only).

    Returns:
        The network's name and arguments, from which it can be built again; its input and output.

    Raises:
        UserError: Unknown network, or one that does not accept these images.
    """
    if network.startswith("keras.applications."):
        inputs, outputs = build_application(network.rsplit(".", 1)[1], sides, channels)
    elif (prefix := backbone_prefix(network)) is not None:
        library, family = BACKBONES[prefix], network[len(prefix) :]
        if network_config is None:
            family, network_config, _, _ = library.find_backbone(family, sides, channels, None)
            network = prefix + family
        inputs, outputs = library.build_backbone(family, network_config)
    elif network == "mlp" or network.startswith("mlp:"):
        inputs, outputs = build_mlp(network, sides, channels, batch_norm_momentum, synchronized)
    else:
        raise UserError(
            "Expected a network called mlp, keras.applications.NAME, keras_cv.NAME or "
            f"keras_hub.NAME; received: {network!r}. make_encoder also takes short names."
        )
    return network, network_config, inputs, outputs


def has_cifar_stem(stem: str, sides: tuple[int, int] | None) -> bool:
    """Returns whether a ResNet gets the stem for small images.

    Args:
        stem: 'auto' (by the sides), 'imagenet' or 'cifar'.
        sides: Height and width in pixels; None: any.

    Raises:
        UserError: Another word.
    """
    if stem not in ("auto", "imagenet", "cifar"):
        raise UserError(
            f"Expected resnet_stem to be auto, imagenet or cifar; received: {stem!r}. Choose one."
        )
    is_small = sides is not None and max(sides) <= CIFAR_STEM_SIDE
    return is_small if stem == "auto" else stem == "cifar"
