"""The cross-entropy of the linear head and of classifiers, in float32."""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.typing import Labels


def supervised_loss(labels: Labels, logits: tf.Tensor, per_example: bool = False) -> tf.Tensor:
    """Softmax cross-entropy of a classifier's logits, in float32.

    Args:
        labels: int class ids (N,) or (N, 1) in [0, C), or class probabilities (N, C).
        logits: (N, C), any float type.
        per_example: whether to return (N,) losses instead of their mean.

    Returns:
        The mean over this replica's N examples (scalar, as the release), or the (N,) losses.

    Raises:
        UserError: if the shapes do not fit each other.

    Source: the release's supervised loss.

    Example:
        >>> supervised_loss([2, 0], tf.zeros([2, 3]))  # log(3)
    """
    logits = tf.cast(logits, tf.float32)
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_integer and labels.shape.rank == 2 and labels.shape[-1] == 1:
        labels = tf.squeeze(labels, axis=-1)
    if labels.shape.rank == 1:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), logits)
    elif labels.shape.rank == 2 and labels.shape[-1:].is_compatible_with(logits.shape[-1:]):
        losses = tf.nn.softmax_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits)
    else:
        raise UserError(
            "Expected labels as class ids (N,) or probabilities (N, C) for logits (N, C); "
            f"received: labels {labels.shape} and logits {logits.shape}. Check num_classes."
        )
    return losses if per_example else tf.reduce_mean(losses)
