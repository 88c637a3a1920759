"""What every contrastive loss returns, and the two figures beside its value."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class ContrastiveOutput(NamedTuple):
    """What a contrastive loss returns; N images on this replica, M images on all replicas.

    Attributes:
        loss: scalar, this replica's share of the loss: the mean over replicas is the mean over
            images.
        logits_ab: (N, M) similarities of first views with every second view, over temperature;
            None where they were not kept, as in blocks.
        labels: (N,) int32 in [0, M), the column of `logits_ab` that is the positive.
        accuracy: scalar, this replica's share of the accuracy: a first view counts where it is
            nearest to its own second view.
        entropy: scalar in nats, this replica's share of the mean entropy of softmax(logits_ab).
    """

    loss: tf.Tensor
    logits_ab: tf.Tensor | None
    labels: tf.Tensor
    accuracy: tf.Tensor
    entropy: tf.Tensor


def hits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 where a row of `logits`, (N, M), is largest at its label, else 0.0."""
    nearest = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.cast(tf.equal(nearest, labels), tf.float32)


def entropies(logits: tf.Tensor) -> tf.Tensor:
    """Returns the entropy in nats of each row's softmax, (N,), without gradient."""
    probability = tf.nn.softmax(tf.stop_gradient(logits))
    # 1e-8 as the release: a probability that underflows to zero adds nothing.
    return -tf.reduce_sum(probability * tf.math.log(probability + 1e-8), axis=-1)
