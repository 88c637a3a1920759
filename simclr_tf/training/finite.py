"""NaN and infinity: finding them, and the error that says what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.errors import NotFiniteError
from simclr_tf.training.simclr import SimCLR


def failure(
    model: keras.Model, what: str, step: int, learning_rate: float, checkpoint: str | None
) -> NotFiniteError:
    """Returns the error that ends a run, with settings to try for this kind of model.

    Args:
        model: The model in training.
        what: Which number it is, as `the loss is nan`.
        step: The step at which it was seen.
        learning_rate: The rate of that step; NaN where it is not known.
        checkpoint: Prefix of the last healthy checkpoint, or None.
    """
    at = f" at learning rate {learning_rate:g}" if math.isfinite(learning_rate) else ""
    kept = (
        f"The last healthy checkpoint is kept: {checkpoint}. "
        if checkpoint
        else "No checkpoint was written before. "
    )
    return NotFiniteError(f"Stopped at step {step}{at}: {what}. {kept}Try {_what_to_try(model)}.")


def _what_to_try(model: keras.Model) -> str:
    ways = ["a smaller --learning_rate", "a longer --warmup_epochs"]
    if isinstance(model, SimCLR):  # fine-tuning has no temperature
        ways.append("a higher --temperature")
    if model.compute_dtype != "float32":
        ways.append("--mixed_precision=none")
    *first, last = ways
    return f"{', '.join(first)}{',' if len(first) > 1 else ''} or {last}"


def not_finite(variables: Mapping[str, tf.Variable | np.ndarray]) -> str | None:
    """Returns the name of the first variable that holds NaN or infinity; None if all are healthy.

    Args:
        variables: Name -> variable or array; integers are always healthy.
    """
    for name, variable in variables.items():
        value = tf.convert_to_tensor(variable)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return name
    return None
