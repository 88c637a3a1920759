"""The encoder `mlp`: dense layers with batch norm and ReLU on the flattened image."""

from __future__ import annotations

from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.models.blocks import BatchNorm

_WIDTHS = (512, 512)


def build_mlp(
    network: str,
    sides: tuple[int, int] | None,
    channels: int,
    batch_norm_momentum: float,
    synchronized: bool,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns symbolic images and features of a network with random weights.

    Args:
        network: `mlp`, or `mlp:WIDTH,WIDTH` with as many widths as layers.
        sides: (height, width) of the images.
        channels: Channels of the images.
        batch_norm_momentum: Decay of the moving statistics.
        synchronized: Whether batch norm statistics span replicas.

    Raises:
        UserError: No size, or a width below 1.
    """
    if sides is None:
        raise UserError("Expected an image_size for the encoder mlp; received: None. Pass one.")
    widths = [int(width) for width in network[4:].split(",")] if network[4:] else _WIDTHS
    if min(widths) < 1:
        raise UserError(f"Expected widths of at least 1; received: {network!r}.")
    inputs = keras.Input((*sides, channels), name="images")
    x = keras.layers.Flatten(name="stem")(inputs)
    for index, width in enumerate(widths, 1):
        x = keras.layers.Dense(width, use_bias=False, name=f"dense{index}")(x)
        norm = BatchNorm(batch_norm_momentum, synchronized=synchronized, name=f"norm{index}")
        x = keras.layers.ReLU(name=f"stage{index}")(norm(x))
    return inputs, x
