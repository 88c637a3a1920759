"""Optimizers by name."""

from __future__ import annotations

import warnings

from tensorflow import keras

from simclr_tf import compat
from simclr_tf.errors import UserError
from simclr_tf.optim.lars import LARS

OPTIMIZERS = ("lars", "momentum", "adam", "lamb")


def make_optimizer(
    name: str,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer by name.

    Args:
        name: 'lars'; 'momentum' (SGD with Nesterov momentum, as the release); 'adam'; 'lamb'
            (tensorflow-addons' on Keras 2, Keras's own on Keras 3, same rule and epsilon).
        learning_rate: a number or a schedule.
        momentum: for 'lars' and 'momentum'.
        weight_decay: for 'lars' only. With the others weight decay is a term of the loss, as in
            the release, so that it is not applied twice.

    Returns:
        A Keras optimizer.

    Raises:
        UserError: for an unknown name, or 'lamb' on Keras 2 without tensorflow-addons.

    Source: the release's optimizer table; LAMB: You et al. 2020 (arXiv 1904.00962).

    Example:
        >>> make_optimizer('lars', 0.3, weight_decay=1e-4).weight_decay
        0.0001
    """
    if name == "lars":
        return LARS(learning_rate, momentum=momentum, weight_decay=weight_decay)
    if name == "momentum":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True)
    if name == "adam":
        return keras.optimizers.Adam(learning_rate)
    if name == "lamb":
        return _lamb_class()(learning_rate, epsilon=1e-6)
    raise UserError(
        f"Expected optimizer one of {', '.join(OPTIMIZERS)}; received: {name!r}. Choose one."
    )


def _lamb_class() -> type[keras.optimizers.Optimizer]:
    if compat.KERAS_3:
        return keras.optimizers.Lamb
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorflow-addons' end-of-life notice
            from tensorflow_addons.optimizers import LAMB
    except ImportError as error:
        raise UserError(
            "Expected tensorflow-addons for optimizer=lamb on TensorFlow 2.15; received: "
            f"{error}. Run: pip install tensorflow-addons==0.23.0"
        ) from error
    return LAMB
