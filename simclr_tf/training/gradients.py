"""From a loss to the update of the weights, on any optimizer and any number of replicas."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import (
    apply_gradients,
    batches_taken,
    kept_learning_rate,
    num_replicas,
    scaled_loss,
    unscaled_gradients,
)
from simclr_tf.typing import Variables


def minimize(
    model: keras.Model, gradients: Sequence[tf.Tensor | None], variables: Variables
) -> None:
    """Applies gradients of the loss that `loss_to_minimize` returns; None changes no variable."""
    gradients = unscaled_gradients(model.optimizer, gradients)
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    apply_gradients(model.optimizer, pairs)


def loss_to_minimize(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the mean loss (optimizers add gradients over replicas)."""
    return scaled_loss(model.optimizer, loss / num_replicas())


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns the learning rate of the current step, a float32 scalar."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = kept_learning_rate(inner)
    rate = inner.learning_rate if rate is None else rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(tf.convert_to_tensor(batches_taken(optimizer)))
    return tf.cast(tf.convert_to_tensor(rate), tf.float32)
