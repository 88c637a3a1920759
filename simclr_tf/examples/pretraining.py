"""The pretraining that the examples of other modalities share."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.training.simclr import SimCLR

_RATE = 2e-3  # Adam's, at the start of a cosine


def pretrain(model: SimCLR, inputs: Any, *, steps: int, batch_size: int, seed: int) -> None:
    """Trains without labels: Adam, a cosine, batches in random order.

    Args:
        model: Not compiled yet.
        inputs: Arrays as the model's augmentation takes them; for a `DualEncoder` a pair.
        steps: Training steps.
        batch_size: Rows a step.
        seed: Draws the order.

    Example:
        >>> pretrain(SimCLR(encoder, augment=views, input_kind="any"), spectrograms, steps=200,
        ...          batch_size=96, seed=0)
    """
    rows = len(tf.nest.flatten(inputs)[0])
    data = tf.data.Dataset.from_tensor_slices((inputs,)).shuffle(rows, seed=seed).repeat()
    data = data.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    schedule = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    model.compile(keras.optimizers.Adam(schedule))
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)
