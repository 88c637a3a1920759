"""Models of two convolutions, and what they are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.training.simclr import SimCLR


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four images in [0, 1] of 32 pixels."""
    return np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)


def small_encoder(channels: int = 3) -> keras.Model:
    """Two convolutions: most tests ask about the model around the encoder."""
    images = keras.Input((None, None, channels))
    x = keras.layers.Conv2D(8, 3, 2, use_bias=False)(images)
    x = keras.layers.ReLU()(BatchNorm()(x))
    x = keras.layers.Conv2D(64, 3, 2)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def small_resnet() -> ResNet:
    return ResNet(18, 0.125, cifar_stem=True)


def small_model(**settings: Any) -> SimCLR:
    defaults = {
        "encoder": small_encoder(),
        "projection_head": ProjectionHead(out_dim=8, num_layers=2),
        "augment": SimCLRAugment(16, augmentations="crop,flip"),
        "num_classes": 3,
    }
    return SimCLR(**{**defaults, **settings})


def every_view() -> SimCLRAugment:
    """Colour and blur too, which are most of a step's graph: for tests of the whole step."""
    return SimCLRAugment(16)


def batch(count: int = 8, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3)) -> Any:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (count, *shape)).astype("uint8")
    return images, random.randint(0, 3, count)


def dataset(labelled: bool = True, count: int = 16) -> tf.data.Dataset:
    images, labels = batch(count)
    data = tf.data.Dataset.from_tensor_slices((images, labels) if labelled else images)
    return data.batch(8, drop_remainder=True)


def comparable(config: Any) -> Any:
    """A config without what Keras adds of its own (tuples or lists, shapes it was built with)."""
    if isinstance(config, dict):
        return {k: comparable(v) for k, v in config.items() if k != "build_config"}
    return [comparable(v) for v in config] if isinstance(config, (list, tuple)) else config


METRICS = {"contrast_loss", "contrast_acc", "contrast_entropy", "supervised_loss",
           "supervised_acc", "weight_decay", "total_loss", "learning_rate",
           "gradient_norm"}  # fmt: skip
