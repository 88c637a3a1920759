"""The release's residual blocks, added to a functional graph of Keras layers.

Every layer that holds weights is also recorded under its path in the checkpoints of the original
TensorFlow 2 release, so that checkpoints of both can be exchanged.
"""

from __future__ import annotations

from typing import Any

from tensorflow import keras

from simclr_tf.models.blocks import BatchNorm, MixStreams, SumStreams
from simclr_tf.models.convolution import Conv2D


class BlockBuilder:
    """Adds the release's blocks to a functional graph and remembers their checkpoint paths.

    Args:
        batch_norm_momentum: Decay of the moving statistics.
        synchronized: Whether batch norm statistics are taken over all replicas.
        sk_ratio: Reduction in selective kernels (0: none; SimCLRv2 uses 0.0625). Above 0, shortcuts
            and stem are those of ResNet-D too.
        se_ratio: Reduction in squeeze-and-excitation (0: none).

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
        x: keras.KerasTensor,
        filters: int,
        kernel_size: int,
        strides: int,
        name: str,
        path: str,
        **kwargs: Any,
    ) -> keras.KerasTensor:
        """Convolution whose padding depends on the kernel alone, not on the image size."""
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
        self, x: keras.KerasTensor, name: str, path: str, relu: bool = True, zero_init: bool = False
    ) -> keras.KerasTensor:
        """Batch normalisation, followed by a ReLU unless `relu` is False."""
        self.release_paths[name] = path
        x = BatchNorm(
            momentum=self.batch_norm_momentum,
            synchronized=self.synchronized,
            gamma_initializer="zeros" if zero_init else "ones",
            name=name,
        )(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def shortcut(
        self, x: keras.KerasTensor, filters: int, strides: int, name: str, path: str
    ) -> keras.KerasTensor:
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

    def selective_kernel(
        self, x: keras.KerasTensor, filters: int, strides: int, name: str, path: str
    ) -> keras.KerasTensor:
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

    def squeeze_excitation(
        self, x: keras.KerasTensor, filters: int, name: str, path: str
    ) -> keras.KerasTensor:
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
        self, x: keras.KerasTensor, filters: int, strides: int, project: bool, name: str, path: str
    ) -> keras.KerasTensor:
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
        self, x: keras.KerasTensor, filters: int, strides: int, project: bool, name: str, path: str
    ) -> keras.KerasTensor:
        """1 x 1, 3 x 3 (or selective kernels), 1 x 1 convolutions (ResNet-50 and deeper)."""
        shortcut = x
        if project:
            shortcut = self.shortcut(
                x, 4 * filters, strides, f"{name}_shortcut", f"{path}/projection_layers"
            )
        # Every third entry of the release's list is a dropblock without weights.
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


def pad(x: keras.KerasTensor, kernel_size: int, name: str) -> keras.KerasTensor:
    """Pads with kernel_size - 1 zeros in all, the larger half at the end."""
    begin = (kernel_size - 1) // 2
    end = kernel_size - 1 - begin
    return keras.layers.ZeroPadding2D(((begin, end), (begin, end)), name=name)(x)


def _add_relu(x: keras.KerasTensor, shortcut: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_out")(x)
