"""Penalties on weights, split between the optimizer and a term of the loss."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import all_layers
from simclr_tf.errors import UserError
from simclr_tf.losses.names import PENALTIES
from simclr_tf.optim.lars import LARS, excluded_variables
from simclr_tf.typing import Variables

# Below it smooth L1 is a parabola, so that small weights do not jump around zero.
SMOOTH_L1_WIDTH = 0.01


def check_penalty(penalty: str) -> None:
    """Raises a UserError unless there is such a penalty."""
    if penalty not in PENALTIES:
        raise UserError(
            f"Expected weight_penalty to be one of {', '.join(PENALTIES)}; received: {penalty!r}."
        )


def set_up_decay(
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,
    supervised_head: keras.layers.Layer | None,
    penalty: str = "l2",
    weight_decay: float = 0.0,
) -> list[tf.Variable]:
    """Splits weight decay between optimizer and loss, as the release does.

    LARS decays everything but batch norm, biases and the supervised head, whose kernel is decayed
    by the loss. With other optimizers the loss decays all trainable variables but batch norm's; or,
    `decoupled`, the optimizer does so apart from its gradients.

    Args:
        optimizer: Not yet built.
        model: What is trained.
        supervised_head: Its linear head.
        penalty: One of `PENALTIES`.
        weight_decay: Of the optimizer, where the penalty is decoupled.

    Returns:
        The variables whose penalty enters the loss.

    Raises:
        UserError: The optimizer does not know this penalty, or has another decay than the model.

    Source: the release; decoupled: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    batch_norm = {
        id(variable): variable
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.trainable_weights
    }
    if penalty == "decoupled":
        exclude = getattr(inner, "exclude_from_weight_decay", None)
        if isinstance(inner, LARS) or exclude is None:
            raise UserError(
                "Expected an optimizer of Keras such as SGD or Adam (momentum or adam) for "
                f"decoupled weight decay; received: {type(inner).__name__}. Pass another optimizer "
                "or penalty."
            )
        given = getattr(inner, "weight_decay", None)
        if given and given != weight_decay:
            raise UserError(
                f"Expected the optimizer's weight_decay to be the model's, {weight_decay}; "
                f"received: {given}. Set it in the model alone."
            )
        inner.weight_decay = weight_decay or None
        # An optimizer takes exclusions before it is built; one that is used again has its own.
        excluded = frozenset(batch_norm)
        if getattr(inner, "_simclr_tf_excluded", None) != excluded and batch_norm:
            exclude(var_list=list(batch_norm.values()))
            object.__setattr__(inner, "_simclr_tf_excluded", excluded)
        return []
    if penalty == "smooth_l1" and isinstance(inner, LARS):
        raise UserError(
            "Expected another optimizer than LARS for weight_penalty=smooth_l1: LARS decays "
            "squares itself. Pass SGD or Adam, or another penalty."
        )
    if isinstance(inner, LARS):
        inner.exclude(excluded_variables(model, supervised_head=supervised_head))
        return [supervised_head.kernel] if supervised_head is not None else []
    return [v for v in model.trainable_variables if id(v) not in batch_norm]


def decay_loss(variables: Variables, weight_decay: float, penalty: str = "l2") -> tf.Tensor:
    """Returns weight_decay times the penalty of all variables, a float32 scalar.

    Args:
        variables: What `set_up_decay` returned.
        weight_decay: At least 0.
        penalty: `l2`: sum of w^2 / 2. `smooth_l1`: sum of |w| - b / 2 where |w| > b, else of
            w^2 / 2b, with b = 0.01. `decoupled`: 0, as the optimizer does it.

    Source: smooth L1: Girshick 2015 (arXiv 1504.08083), equation 3, of width b.
    """
    if not variables or not weight_decay:
        return tf.constant(0.0)
    values = [tf.cast(tf.convert_to_tensor(variable), tf.float32) for variable in variables]
    terms = [tf.nn.l2_loss(v) if penalty == "l2" else _smooth_l1(v) for v in values]
    return weight_decay * tf.add_n(terms)


def _smooth_l1(values: tf.Tensor) -> tf.Tensor:
    size, width = tf.abs(values), SMOOTH_L1_WIDTH
    return tf.reduce_sum(tf.where(size > width, size - width / 2, values**2 / (2 * width)))
