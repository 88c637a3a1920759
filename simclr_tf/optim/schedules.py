"""Linear warm-up, then cosine decay: the learning rate of SimCLR, and the length of training."""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow import keras

from simclr_tf import compat
from simclr_tf.errors import UserError
from simclr_tf.typing import KerasConfig


def get_train_steps(
    num_examples: int, train_epochs: int, train_batch_size: int, train_steps: int = 0
) -> int:
    """Returns the number of training steps.

    Args:
        num_examples: images in the training split.
        train_epochs: passes over them; used when `train_steps` is 0.
        train_batch_size: images a step, on all replicas together.
        train_steps: overrides the epochs when > 0.

    Returns:
        `train_steps`, or num_examples * train_epochs // train_batch_size + 1 as the release: one
        step more than whole batches, so that a last partial batch is covered.

    Raises:
        UserError: if neither gives a length, or a size is not positive.

    Example:
        >>> get_train_steps(50_000, train_epochs=100, train_batch_size=512)
        9766
    """
    if train_steps < 0 or (train_steps == 0 and train_epochs <= 0):
        raise UserError(
            "Expected train_steps > 0 or train_epochs > 0; "
            f"received: train_steps={train_steps}, train_epochs={train_epochs}. Pass one of them."
        )
    if num_examples <= 0 or train_batch_size <= 0:
        raise UserError(
            "Expected num_examples > 0 and train_batch_size > 0; "
            f"received: {num_examples} and {train_batch_size}. Check the data set and the batch."
        )
    return int(train_steps or num_examples * train_epochs // train_batch_size + 1)


@compat.register
class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate scaled by the batch, linear warm-up from 0, cosine decay to 0.

        peak   = base_learning_rate * batch_size / 256      scaling='linear'
        peak   = base_learning_rate * sqrt(batch_size)      scaling='sqrt'
        warmup = floor(warmup_epochs * num_examples / batch_size)
        total  = get_train_steps(...)
        rate(step) = peak * step / warmup                                             step < warmup
                   = peak * (1 + cos(pi * (step - warmup) / (total - warmup))) / 2    step < total
                   = 0                                                                afterwards

    A warm-up longer than training is not shortened: the ramp continues past `total`.

    Args:
        base_learning_rate: rate for a batch of 256 (linear) or of 1 (sqrt).
        batch_size: images a step, on all replicas together.
        num_examples: images in the training split.
        epochs: passes over the training split; or give `train_steps`.
        train_steps: overrides `epochs` when > 0.
        warmup_epochs: length of the ramp, fractions allowed; 0 starts at the peak.
        scaling: 'linear' or 'sqrt'.
        name: optional name of the schedule.

    Raises:
        UserError: if the length of training is missing or a value is out of range.

    Source: Chen et al. 2020, section 2.2 and appendix B.6; ends and rounding as the release.

    Example:
        >>> rate = WarmUpCosine(0.3, batch_size=512, num_examples=50_000, epochs=100)
        >>> float(rate(rate.warmup_steps))  # 0.3 * 512 / 256
        0.6
    """

    def __init__(
        self,
        base_learning_rate: float,
        batch_size: int,
        num_examples: int,
        epochs: int = 0,
        train_steps: int = 0,
        warmup_epochs: float = 10,
        scaling: str = "linear",
        name: str | None = None,
    ) -> None:
        super().__init__()
        if scaling not in ("linear", "sqrt"):
            raise UserError(
                f"Expected scaling 'linear' or 'sqrt'; received: {scaling!r}. Choose one of them."
            )
        if warmup_epochs < 0:
            raise UserError(
                f"Expected warmup_epochs >= 0; received: {warmup_epochs}. 0 means no warm-up."
            )
        self.base_learning_rate = base_learning_rate
        self.batch_size = batch_size
        self.num_examples = num_examples
        self.epochs = epochs
        self.train_steps = train_steps
        self.warmup_epochs = warmup_epochs
        self.scaling = scaling
        self.name = name
        self.total_steps = get_train_steps(num_examples, epochs, batch_size, train_steps)
        self.warmup_steps = int(warmup_epochs * num_examples // batch_size)
        self.peak = base_learning_rate * (
            batch_size / 256.0 if scaling == "linear" else math.sqrt(batch_size)
        )

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns the float32 learning rate of the given step (scalar or any shape), from 0."""
        with tf.name_scope(self.name or "WarmUpCosine"):
            step = tf.cast(step, tf.float32)  # exact up to 2^24 steps
            ramp = step / max(self.warmup_steps, 1)
            # max: a warm-up as long as training leaves no steps to decay over.
            since_warmup = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
            done = tf.where(step < self.total_steps, since_warmup, 1.0)
            cosine = 0.5 * (1.0 + tf.cos(math.pi * done))
            return self.peak * tf.where(step < self.warmup_steps, ramp, cosine)

    def get_config(self) -> KerasConfig:
        """Returns the arguments of `__init__`."""
        return {
            "base_learning_rate": self.base_learning_rate,
            "batch_size": self.batch_size,
            "num_examples": self.num_examples,
            "epochs": self.epochs,
            "train_steps": self.train_steps,
            "warmup_epochs": self.warmup_epochs,
            "scaling": self.scaling,
            "name": self.name,
        }
