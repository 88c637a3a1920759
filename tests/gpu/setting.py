"""Where and in which sizes the check runs: on a GPU beside the CPU, or on two logical CPUs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import DEFAULT_AUGMENTATIONS
from simclr_tf.errors import UserError
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.models.resnet import ResNet


class Sizes(NamedTuple):
    """How large everything is.

    Attributes:
        views: (source, view, images) of the views that are compared, in pixels.
        widths: Widths of the ResNet-18 whose features are compared, and of that which is trained;
            0 for two convolutions.
        augmentations: Of the views that are trained on, and of those that are timed.
        head_layers: Of the projection heads that are trained.
        images: Of a batch where one is compared.
        loss_images: Of a batch of which losses are compared.
        networks: Recorded networks that are computed again.
        training: Recorded trainings that are done again: `pretraining`, or what was fine-tuned.
        steps: (depth, width, pixels, images) of the training steps that are timed.
        compiled: Types in which they are timed with XLA too.
        timed_views: (source, view, images) of the views that are timed.
        timed_loss: Images of the batch whose loss is timed.
        seconds: About how long each side is timed.
    """

    views: tuple[tuple[int, int, int], ...]
    widths: tuple[float, float]
    augmentations: str
    head_layers: int
    images: int
    loss_images: int
    networks: tuple[str, ...]
    training: tuple[str, ...]
    steps: tuple[tuple[int, float, int, int], ...]
    compiled: tuple[str, ...]
    timed_views: tuple[tuple[int, int, int], ...]
    timed_loss: int
    seconds: float


FULL = Sizes(
    views=((40, 32, 64), (320, 224, 16)),
    widths=(1.0, 0.25),
    augmentations=",".join(DEFAULT_AUGMENTATIONS),
    head_layers=3,
    images=32,
    loss_images=64,
    networks=("r18_w1_cifar", "r50_w1_224", "r50_w1_sk_64", "r50_w1_se_64", "r34_w1_cifar",
              "r18_w2_cifar"),
    training=("pretraining", "linear", "all"),
    steps=((18, 1.0, 32, 512), (50, 1.0, 224, 128)),
    compiled=("bfloat16", "none", "float16"),
    timed_views=((32, 32, 512), (320, 224, 128)),
    timed_loss=8192,
    seconds=3.0,
)  # fmt: skip
SMALL = Sizes(
    views=((20, 16, 4),),
    widths=(0.125, 0),
    augmentations="crop,flip",  # colour and blur take most of the time to trace
    head_layers=2,
    images=8,
    loss_images=16,
    networks=("r18_w1_cifar",),
    training=("linear",),
    steps=((18, 0, 16, 8),),
    compiled=("bfloat16",),
    timed_views=((16, 16, 8),),
    timed_loss=64,
    seconds=0.02,
)


class Setting(NamedTuple):
    """The device that is checked, and how.

    Attributes:
        device: `GPU:0`, or `CPU:1` where there is no GPU.
        sizes: Small ones without a GPU.
    """

    device: str
    sizes: Sizes

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("GPU")

    def on_device(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context for the device: none for a GPU, which is what TensorFlow takes."""
        return contextlib.nullcontext() if self.is_gpu else tf.device(f"/{self.device}")

    def both(self, function: Callable[[], Any]) -> tuple[Any, Any]:
        """Returns what a function returns on the device, and on the CPU."""
        with self.on_device():
            ours = function()
        with tf.device("/CPU:0"):
            return ours, function()


def find_device(allow_cpu: bool) -> Setting:
    """Returns the first GPU with full sizes, or a second logical CPU with small ones.

    Raises:
        UserError: There is no GPU, and no leave to do without.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[0], "GPU")
        return Setting("GPU:0", FULL)
    if not allow_cpu:
        raise UserError(
            "Expected a GPU that TensorFlow sees; received: none. Install its CUDA libraries with "
            "pip install -e '.[gpu]', or pass --allow_cpu, which tries the script itself."
        )
    _trace_quickly()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return Setting("CPU:1", SMALL)


def _trace_quickly() -> None:
    """Leaves out what takes longer than it saves where small graphs run a few times.

    Rewriting them, and looking for garbage among the millions of objects that tracing keeps.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pictures(count: int, pixels: int, seed: int) -> np.ndarray:
    """Returns images of bytes: sixteen patches of different colours each, with grain.

    Images of noise alone look all alike to a network, and batch norm magnifies what is left.

    Args:
        count: N.
        pixels: Side, a multiple of 4.
        seed: One seed, the same images.
    """
    random = np.random.RandomState(seed)
    patches = random.randint(0, 200, (count, 4, 4, 3))
    patches = patches.repeat(pixels // 4, axis=1).repeat(pixels // 4, axis=2)
    return (patches + random.randint(0, 56, patches.shape)).astype("uint8")


def make_encoder(width: float, depth: int = 18, pixels: int = 32) -> keras.Model:
    """Returns a ResNet; of width 0 two convolutions, for small sizes."""
    if width:
        return ResNet(depth, width, cifar_stem=pixels <= 32)
    images = keras.Input((pixels, pixels, 3))
    x = keras.layers.Conv2D(8, 3, 4, padding="same", use_bias=False)(images)
    x = keras.layers.ReLU()(BatchNorm()(x))
    x = keras.layers.Conv2D(16, 3, 2, padding="same")(x)
    # Not averaged: what tells small images apart would hardly be seen in half precision.
    return keras.Model(images, keras.layers.Flatten()(x))
