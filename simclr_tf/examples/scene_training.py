"""Training on scenes: from a pretrained encoder, and the same network from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.datasets.tuning import untuned
from simclr_tf.devices.process_state import isolated

_RATE = 3e-3  # Adam's, at the start of a cosine

Result = TypeVar("Result")


def scene_side(digit_side: int) -> int:
    """Returns a scene's side in pixels: about three digits wide, and a multiple of 2**5."""
    return -(-3 * digit_side // 32) * 32


def beside_scratch(
    encoder: keras.Model, seed: int, train: Callable[[keras.Model], Result]
) -> tuple[Result, Result]:
    """Calls a function with a pretrained encoder and with a fresh one of the same architecture.

    Args:
        encoder: The pretrained one; what trains it further, does so in place.
        seed: Draws the fresh weights; both calls begin from it, so that what is built upon either
            starts from the same weights.
        train: Gets an encoder.

    Returns:
        What `train` returned of the pretrained one, and of the fresh one.

    Example:
        >>> beside_scratch(encoder, 0, lambda network: train_and_score(network))
        (0.7, 0.4)
    """
    with isolated(seed=seed):
        fresh = type(encoder).from_config(encoder.get_config())
        results = []
        for network in (encoder, fresh):
            keras.utils.set_random_seed(seed)
            results.append(train(network))
    return results[0], results[1]


def train_on_scenes(
    model: keras.Model,
    loss: keras.losses.Loss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    images: np.ndarray,
    *targets: np.ndarray,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Trains with Adam and a cosine; scenes in random order.

    Args:
        model: Images in [0, 1] to outputs; not compiled yet.
        loss: Of targets and outputs.
        images: uint8 (N, s, s, c).
        *targets: (N, ...), and perhaps weights (N, ...).
        steps: Training steps.
        batch_size: Scenes a step.
        seed: Draws the order.
    """
    data = tf.data.Dataset.from_tensor_slices((images, *targets)).shuffle(len(images), seed=seed)
    data = data.repeat().batch(batch_size)
    data = data.map(lambda x, *others: (tf.cast(x, tf.float32) / 255.0, *others))
    schedule = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss=loss)
    model.fit(untuned(data), steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)


def outputs_of(model: keras.Model, images: np.ndarray, batch_size: int) -> Iterator[tf.Tensor]:
    """Yields the outputs of images uint8 (N, s, s, c), a batch at a time."""
    for batch in untuned(tf.data.Dataset.from_tensor_slices(images).batch(batch_size)):
        yield model(tf.cast(batch, tf.float32) / 255.0, training=False)
