"""ResNet encoders of SimCLR v1 and v2, with named endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.errors import UserError
from simclr_tf.models.block_builder import BlockBuilder
from simclr_tf.typing import KerasConfig

BLOCKS_PER_GROUP: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


@register
class ResNet(keras.Model):
    """Post-activation residual network: images in, one feature vector per image out.

    A functional Keras model: every layer can be reached by name and frozen on its own.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        width_multiplier: Factor on every layer's channels; any positive number (the release: whole
            numbers).
        cifar_stem: A 3 x 3 convolution of stride 1 without pooling, for images of up to about 32
            pixels, in place of the 7 x 7 (stride 2) and max-pooling stem.
        sk_ratio: Above 0: selective kernels with this reduction (SimCLRv2: 0.0625), and the stem
            and shortcuts of ResNet-D.
        se_ratio: Above 0: squeeze-and-excitation with this reduction.
        batch_norm_momentum: Decay of the moving statistics.
        synchronized: Whether batch norm statistics are taken over all replicas.
        channels: Channels of the input images.
        name: Name of the model.

    Input: (N, height, width, channels) float images in [0, 1], of any size.
    Output: (N, d), d = 512 * width_multiplier (depth 18, 34) or 2048 * width_multiplier.

    Attributes:
        endpoint_layers: Endpoint -> name of the layer that computes it: `initial_conv`,
            `initial_max_pool`, `block_group1` to `block_group4`, `final_avg_pool`.
        release_paths: Layer name -> its path in the original release's checkpoints.

    Raises:
        UserError: Unknown depth, or a width, ratio or channel count out of range.

    Source: He et al. 2015 (arXiv:1512.03385); SimCLRv2, section 2 and appendix; selective kernels
    arXiv:1903.06586; ResNet-D arXiv:1812.01187.

    Example:
        >>> ResNet(depth=18, width_multiplier=0.25, cifar_stem=True).output_shape
        (None, 128)
    """

    def __init__(
        self,
        depth: int = 50,
        width_multiplier: float = 1,
        cifar_stem: bool = False,
        sk_ratio: float = 0.0,
        se_ratio: float = 0.0,
        batch_norm_momentum: float = 0.9,
        synchronized: bool = True,
        channels: int = 3,
        name: str = "resnet",
        **kwargs: Any,
    ) -> None:
        _check(depth, width_multiplier, sk_ratio, se_ratio, channels)
        config = {
            "depth": depth,
            "width_multiplier": width_multiplier,
            "cifar_stem": cifar_stem,
            "sk_ratio": sk_ratio,
            "se_ratio": se_ratio,
            "batch_norm_momentum": batch_norm_momentum,
            "synchronized": synchronized,
            "channels": channels,
        }
        builder = BlockBuilder(batch_norm_momentum, synchronized, sk_ratio, se_ratio)
        images = keras.Input((None, None, channels), name="images")
        x = _stem(builder, images, width_multiplier, cifar_stem)
        block = builder.basic_block if depth < 50 else builder.bottleneck_block
        for group, blocks in enumerate(BLOCKS_PER_GROUP[depth]):
            filters = _channels(64 * 2**group, width_multiplier)
            for index in range(blocks):
                x = block(
                    x,
                    filters,
                    strides=2 if group > 0 and index == 0 else 1,
                    project=index == 0,
                    name=f"group{group + 1}_block{index + 1}",
                    path=f"block_groups/{group}/layers/{index}",
                )
            x = _endpoint(x, f"block_group{group + 1}")
        x = keras.layers.GlobalAveragePooling2D(name="final_avg_pool")(x)
        super().__init__(inputs=images, outputs=x, name=name, **kwargs)
        # Plain dicts: Keras 2 would wrap, track and save them.
        object.__setattr__(self, "_init_config", config)
        object.__setattr__(self, "release_paths", builder.release_paths)

    @property
    def endpoint_layers(self) -> dict[str, str]:
        names = ["initial_conv", "initial_max_pool"]
        names += [f"block_group{group}" for group in (1, 2, 3, 4)] + ["final_avg_pool"]
        return {name: name for name in names}

    def get_config(self) -> KerasConfig:
        return {**self._init_config, "name": self.name}

    @classmethod
    def from_config(
        cls, config: KerasConfig, custom_objects: Mapping[str, object] | None = None
    ) -> ResNet:
        return cls(**config)


def _channels(channels: int, width_multiplier: float) -> int:
    return max(1, round(channels * width_multiplier))


def _endpoint(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.Activation("linear", name=name)(x)


def _stem(
    builder: BlockBuilder, images: keras.KerasTensor, width_multiplier: float, cifar_stem: bool
) -> keras.KerasTensor:
    """Everything before the first block group."""
    filters = _channels(64, width_multiplier)
    path = "initial_conv_relu_max_pool"
    if cifar_stem:
        x = builder.conv(images, filters, 3, 1, "stem_conv", f"{path}/0/conv2d")
        index = 2
    elif builder.sk_ratio > 0:
        half = max(1, int(64 * width_multiplier // 2))
        x = builder.conv(images, half, 3, 2, "stem_conv1", f"{path}/0/conv2d")
        x = builder.batch_norm(x, "stem_bn1", f"{path}/1/bn")
        x = builder.conv(x, half, 3, 1, "stem_conv2", f"{path}/2/conv2d")
        x = builder.batch_norm(x, "stem_bn2", f"{path}/3/bn")
        x = builder.conv(x, filters, 3, 1, "stem_conv", f"{path}/4/conv2d")
        index = 6
    else:
        x = builder.conv(images, filters, 7, 2, "stem_conv", f"{path}/0/conv2d")
        index = 2
    x = _endpoint(x, "initial_conv")
    x = builder.batch_norm(x, "stem_bn", f"{path}/{index}/bn")
    if not cifar_stem:
        x = keras.layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    return _endpoint(x, "initial_max_pool")


def _check(
    depth: int, width_multiplier: float, sk_ratio: float, se_ratio: float, channels: int
) -> None:
    if depth not in BLOCKS_PER_GROUP:
        raise UserError(f"Expected a depth among {sorted(BLOCKS_PER_GROUP)}; received: {depth}.")
    if not width_multiplier > 0:
        raise UserError(f"Expected width_multiplier > 0; received: {width_multiplier}.")
    if channels < 1:
        raise UserError(f"Expected at least one channel; received: {channels}.")
    for name, ratio in (("sk_ratio", sk_ratio), ("se_ratio", se_ratio)):
        if not 0 <= ratio <= 1:
            raise UserError(f"Expected {name} in [0, 1]; received: {ratio}.")
