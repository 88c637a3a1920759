"""The cross-entropies of linear heads and of classifiers, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.typing import Labels


def supervised_loss(
    labels: Labels,
    logits: tf.Tensor,
    per_example: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> tf.Tensor:
    """Softmax cross-entropy of a classifier's logits, in float32.

    Args:
        labels: int class ids (N,) or (N, 1) in [0, C), or class probabilities (N, C).
        logits: (N, C), any float type.
        per_example: whether to return (N,) losses instead of their mean.
        label_smoothing: e in [0, 1): the loss is (1 - e) times that of the labels plus e times that
            of uniform probabilities.
        class_weights: C factors, one for each class; with probabilities, their mean under these.
            None: 1 for all.

    Returns:
        The mean over this replica's N examples (scalar, as the release), or the (N,) losses.

    Raises:
        UserError: if the shapes do not fit each other.

    Source: the release's supervised loss; smoothing: Szegedy et al. 2016 (arXiv 1512.00567),
    section 7.

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
    if label_smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * uniform
    if class_weights is not None:
        weights = tf.constant(class_weights, tf.float32)
        if labels.shape.rank == 1:
            losses *= tf.gather(weights, tf.cast(labels, tf.int32))
        else:
            losses *= tf.linalg.matvec(tf.cast(labels, tf.float32), weights)
    return losses if per_example else tf.reduce_mean(losses)


def multi_label_loss(
    labels: tf.Tensor,
    logits: tf.Tensor,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> tf.Tensor:
    """Binary cross-entropy of each class, averaged over the classes, in float32.

    Args:
        labels: (N, C), from 0 to 1.
        logits: (N, C), any float type.
        label_smoothing: e in [0, 1): labels y become (1 - e) y + e / 2.
        class_weights: C factors of the classes' terms; None: 1 for all.

    Returns:
        (N,) losses.

    Example:
        >>> multi_label_loss(tf.constant([[1.0, 0.0, 1.0]]), tf.zeros([1, 3]))  # log(2)
    """
    logits, labels = tf.cast(logits, tf.float32), tf.cast(labels, tf.float32)
    labels = (1.0 - label_smoothing) * labels + label_smoothing / 2.0
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    if class_weights is not None:
        losses *= tf.constant(class_weights, tf.float32)
    return tf.reduce_mean(losses, axis=-1)
