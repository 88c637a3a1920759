"""Weight decay, split between the optimizer and a term of the loss."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import all_layers
from simclr_tf.optim.lars import LARS, excluded_variables
from simclr_tf.typing import Variables


def set_up_decay(
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,
    supervised_head: keras.layers.Layer | None,
) -> list[tf.Variable]:
    """Splits weight decay between optimizer and loss, as the release does.

    LARS decays everything but batch norm, biases and the supervised head, whose kernel is decayed
    by the loss. With other optimizers the loss decays all trainable variables but batch norm's.

    Returns:
        The variables whose squares enter the loss.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, LARS):
        inner.exclude(excluded_variables(model, supervised_head=supervised_head))
        return [supervised_head.kernel] if supervised_head is not None else []
    batch_norm = {
        id(variable)
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.weights
    }
    return [v for v in model.trainable_variables if id(v) not in batch_norm]


def decay_loss(variables: Variables, weight_decay: float) -> tf.Tensor:
    """Returns weight_decay * sum of squares / 2, a float32 scalar."""
    if not variables or not weight_decay:
        return tf.constant(0.0)
    squares = [tf.nn.l2_loss(tf.cast(tf.convert_to_tensor(v), tf.float32)) for v in variables]
    return weight_decay * tf.add_n(squares)
