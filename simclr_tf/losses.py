"""NT-Xent, the contrastive loss of SimCLR, and the cross-entropy of the linear head.

Both compute in float32 whatever the network's precision: at temperature 0.1 a bfloat16 similarity
has an error of several per cent in the probability. Every op has a GPU kernel and compiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from simclr_tf.compat import num_replicas
from simclr_tf.contrastive_blocks import default_block_size, row_statistics
from simclr_tf.errors import UserError

# Subtracted from an image's similarity with itself: exp(-1e9) is exactly zero in float32.
SELF_SIMILARITY_PENALTY = 1e9


class ContrastiveOutput(NamedTuple):
    """What `nt_xent` returns; N images on this replica, M images on all replicas.

    Attributes:
        loss: scalar, this replica's loss.
        logits_ab: (N, M) similarities of first views with every second view, over temperature;
            None where they were computed in blocks and not kept.
        labels: (N,) int32 in [0, M), the column of `logits_ab` that is the positive.
        accuracy: scalar in [0, 1], share of first views nearest to their own second view.
        entropy: scalar in nats, mean entropy of softmax(logits_ab).
    """

    loss: tf.Tensor
    logits_ab: tf.Tensor | None
    labels: tf.Tensor
    accuracy: tf.Tensor
    entropy: tf.Tensor


def nt_xent(
    hidden: tf.Tensor,
    temperature: float | tf.Tensor = 0.1,
    hidden_norm: bool = True,
    block_size: int | None = None,
) -> ContrastiveOutput:
    """Normalised temperature-scaled cross-entropy between two views of each image.

    For each view the softmax runs over the 2M - 1 other views of all M images, and the other view
    of the same image is the right answer. As in the release the loss is
    mean over N of (loss of first view + loss of second view): twice the mean over the 2N rows
    that the paper's equation writes.

    In a replica context the embeddings of all replicas are gathered, so that every replica's
    images are negatives; each replica computes the rows of its own images only. Gradients flow
    through the gather: the sum of the replicas' gradients of `loss / num_replicas` is the
    gradient of one device holding all images. Replicas must hold the same N for the mean over
    replicas to be the mean over images.

    Args:
        hidden: (2N, d) outputs of the projection head: N first views, then the N second views of
            the same images in the same order. Any float type.
        temperature: > 0; divides the similarities.
        hidden_norm: whether to scale each row to unit length (cosine similarity).
        block_size: images whose similarities are computed at a time, each block forgotten and
            computed again in the backward pass, so that memory grows with M and not with N * M;
            0: all at once, keeping `logits_ab`; None: blocks where N * M is above 2 ** 20 (1,024
            images on one replica) or N is not known before the step.

    Returns:
        A `ContrastiveOutput`; `accuracy` and `entropy` carry no gradient.

    Raises:
        UserError: if `hidden` is not (2N, d), `temperature` is not positive or `block_size` is
            negative.

    Source: Chen et al. 2020, equation 1 and algorithm 1 (arXiv 2002.05709); scale, masking and
    metrics as the release.

    Example:
        >>> output = nt_xent(tf.concat([view_1, view_2], axis=0), temperature=0.5)
        >>> gradients = tape.gradient(output.loss / num_replicas, variables)
    """
    hidden = tf.convert_to_tensor(hidden)
    _check_arguments(hidden, temperature, block_size)
    hidden = tf.cast(hidden, tf.float32)
    if hidden_norm:
        hidden = tf.math.l2_normalize(hidden, axis=-1)
    first, second = tf.split(hidden, 2, axis=0)  # (N, d) each
    all_first, all_second, labels = _gather_views(first, second)  # (M, d), (M, d), (N,)

    temperature = tf.cast(temperature, tf.float32)
    if block_size is None:
        # A gather forgets how many rows it returns.
        images = tf.shape(first)[0] if first.shape[0] is None else first.shape[0]
        known = first.shape[0] is not None
        all_images = images * num_replicas() if known else tf.shape(all_first)[0]
        block_size = default_block_size(images, all_images)
    if not isinstance(block_size, int) or block_size > 0:
        rows = row_statistics(
            first / temperature, second / temperature, all_first, all_second, labels, block_size
        )
        return ContrastiveOutput(
            loss=tf.reduce_mean(rows.first + rows.second),
            logits_ab=None,
            labels=labels,
            accuracy=tf.reduce_mean(rows.hit),
            entropy=tf.reduce_mean(rows.entropy),
        )
    is_self = tf.one_hot(labels, tf.shape(all_first)[0])  # (N, M)
    logits_ab = tf.matmul(first, all_second, transpose_b=True) / temperature
    logits_ba = tf.matmul(second, all_first, transpose_b=True) / temperature
    logits_aa = tf.matmul(first, all_first, transpose_b=True) / temperature
    logits_bb = tf.matmul(second, all_second, transpose_b=True) / temperature
    logits_aa -= is_self * SELF_SIMILARITY_PENALTY
    logits_bb -= is_self * SELF_SIMILARITY_PENALTY

    # The other view stands first in each row of 2M logits, so its column is the image's own id.
    loss_a = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels, tf.concat([logits_ab, logits_aa], axis=1)
    )
    loss_b = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels, tf.concat([logits_ba, logits_bb], axis=1)
    )
    return ContrastiveOutput(
        loss=tf.reduce_mean(loss_a + loss_b),
        logits_ab=logits_ab,
        labels=labels,
        accuracy=_accuracy(labels, logits_ab),
        entropy=_entropy(logits_ab),
    )


def supervised_loss(labels: Any, logits: tf.Tensor, per_example: bool = False) -> tf.Tensor:
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


def _check_arguments(
    hidden: tf.Tensor, temperature: float | tf.Tensor, block_size: int | None
) -> None:
    shape = hidden.shape
    if shape.rank != 2 or (shape[0] is not None and (shape[0] == 0 or shape[0] % 2)):
        raise UserError(
            "Expected hidden of shape (2N, d): N first views, then N second views; "
            f"received: {tuple(shape)}. Concatenate the two views on axis 0."
        )
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise UserError(
            f"Expected temperature > 0; received: {temperature}. Pass one such as 0.1 or 0.5."
        )
    if block_size is not None and block_size < 0:
        raise UserError(
            f"Expected block_size >= 0; received: {block_size}. Pass None to have it chosen."
        )


def _gather_views(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns first and second views of all replicas, (M, d) each, and this one's rows in them."""
    rows = tf.range(tf.shape(first)[0])  # (N,)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return first, second, rows
    # Side by side on the feature axis: one collective, and no replica's order can get mixed up.
    both = context.all_gather(tf.concat([first, second], axis=1), axis=0)  # (M, 2d)
    all_first, all_second = tf.split(both, 2, axis=1)
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    if first.shape[0] is not None:
        return all_first, all_second, rows + replica * first.shape[0]
    # A last batch may be split unevenly. float32: collectives have no int32 kernel everywhere.
    sizes = context.all_gather(tf.cast(tf.shape(first)[:1], tf.float32), axis=0)  # (replicas,)
    before = tf.cumsum(sizes, exclusive=True)[replica]
    return all_first, all_second, rows + tf.cast(before, tf.int32)


def _accuracy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    nearest = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.reduce_mean(tf.cast(tf.equal(nearest, labels), tf.float32))


def _entropy(logits: tf.Tensor) -> tf.Tensor:
    probability = tf.nn.softmax(tf.stop_gradient(logits))
    # 1e-8 as the release: a probability that underflows to zero adds nothing.
    return -tf.reduce_mean(tf.reduce_sum(probability * tf.math.log(probability + 1e-8), axis=-1))
