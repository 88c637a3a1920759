"""Images of four pixels a side, a dense encoder for them, and models compiled to run eagerly."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

CLASSES = 3


def encoder() -> keras.Model:
    images = keras.Input((4, 4, 3))
    return keras.Model(images, keras.layers.Dense(4)(keras.layers.Flatten()(images)))


def identity(images: tf.Tensor) -> tf.Tensor:
    return images


def compiled(model: Any, **settings: Any) -> Any:
    # Eagerly: tracing a step takes longer than all of these steps together.
    model.compile(optimizer=keras.optimizers.SGD(0.01), run_eagerly=True, **settings)
    return model


def batch(count: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (count, 4, 4, 3)).astype("uint8")
    return images, random.randint(0, CLASSES, count)


def data_set(images: Any, labels: Any = None, size: int = 4) -> tf.data.Dataset:
    parts = images if labels is None else (images, labels)
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)
