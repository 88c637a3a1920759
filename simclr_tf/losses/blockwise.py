"""NT-Xent's rows, block by block: memory grows linearly with the batch.

The plain form keeps four (N, M) matrices of similarities, their softmax and its gradient. Here a
block of rows is computed, reduced to a few numbers a row and discarded; the backward pass computes
it again. Tensors of sizes (N,) and (M, d) are kept. Every op has a GPU kernel and compiles under
XLA.

Positives are kept apart from negatives: when a positive has nearly all of a row's probability, as
late in training, neither loss nor gradient is the small difference of two large numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from simclr_tf.losses.blocks import MASKED, Blocks, State
from simclr_tf.losses.contrastive_output import entropies, hits


class RowStatistics(NamedTuple):
    """One number for each of this replica's N images.

    Attributes:
        first: (N,) loss of the first view: minus the log probability of its own second view among
            the other 2M - 1 views.
        second: (N,) the same for the second view.
        hit: (N,) 1.0 where a first view is nearest to its own second view, else 0.0.
        entropy: (N,) entropy in nats of the softmax over second views.
    """

    first: tf.Tensor
    second: tf.Tensor
    hit: tf.Tensor
    entropy: tf.Tensor


def row_statistics(
    first: tf.Tensor,
    second: tf.Tensor,
    all_first: tf.Tensor,
    all_second: tf.Tensor,
    labels: tf.Tensor,
    block_size: int | tf.Tensor,
    mask: tf.Tensor | None = None,
) -> RowStatistics:
    """Returns the losses and metrics of NT-Xent's rows.

    Args:
        first: (N, d) float32 first views of this replica, divided by the temperature.
        second: (N, d) second views, likewise.
        all_first: (M, d) float32 first views of all replicas, not divided.
        all_second: (M, d).
        labels: (N,) int32 in [0, M): indices of this replica's images among all.
        block_size: Images whose two rows are computed at a time, >= 1.
        mask: (M,) bool, False for images that are not used as negatives; None: all are used.

    Returns:
        A `RowStatistics`; gradients of `first` and `second` reach the four inputs.

    Source: Chen et al. 2020 (arXiv 2002.05709), equation 1; the recomputation of Chen et al. 2016,
    "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).

    Example:
        >>> rows = row_statistics(z1 / 0.1, z2 / 0.1, z1, z2, tf.range(n), block_size=512)
        >>> loss = tf.reduce_mean(rows.first + rows.second)
    """
    blocks = Blocks(tf.shape(first)[0], block_size)
    places = blocks.split(tf.stack([labels, labels], axis=1))  # (blocks, B, 2)
    penalty = None if mask is None else tf.tile(tf.where(mask, 0.0, MASKED), [2])  # (2M,)

    @tf.custom_gradient
    def statistics(
        *inputs: tf.Tensor,
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., list[tf.Tensor]]]:
        own_first, own_second, keys_first, keys_second = inputs
        queries = blocks.split(tf.stack([own_first, own_second], axis=1))  # (blocks, B, 2, d)
        keys = tf.concat([keys_first, keys_second], axis=0)  # (2M, d)

        def forward(index: tf.Tensor, *kept: tf.TensorArray) -> State:
            own = _rows(places, index)
            reduced = _reduce(*_similarities(_rows(queries, index), keys, own, penalty), own[::2])
            pairs = zip(kept, reduced, strict=True)
            return [index + 1, *(array.write(index, rows) for array, rows in pairs)]

        kept = [array.stack() for array in blocks.loop(forward, blocks.arrays(6))]
        largest, negative, total, losses, hit, entropy = (
            kept  # (blocks, 2B); the last two: (blocks, B)
        )

        def backward(*gradients: tf.Tensor) -> list[tf.Tensor]:
            # The gradient of a similarity is its probability; of the positive's, that minus one.
            weights = blocks.split(tf.stack(gradients[:2], axis=1))
            weights = tf.reshape(weights, tf.shape(total)) / total

            def step(index: tf.Tensor, written: tf.TensorArray, of_keys: tf.Tensor) -> State:
                query, weight = _rows(queries, index), _column(weights, index)
                negatives, *_ = _similarities(query, keys, _rows(places, index), penalty)
                share = tf.exp(negatives - _column(largest, index))  # (2B, 2M)
                of_keys += tf.matmul(share, query * weight, transpose_a=True)
                return [index + 1, written.write(index, tf.matmul(share, keys) * weight), of_keys]

            written, of_keys = blocks.loop(step, [*blocks.arrays(1), tf.zeros_like(keys)])
            of_queries = blocks.join(tf.reshape(written.stack(), tf.shape(queries)))
            of_positives = blocks.join_pairs(weights * negative)[:, :, tf.newaxis]  # (N, 2, 1)
            return _with_positives(of_queries, of_keys, of_positives, inputs, labels)

        first_loss, second_loss = tf.unstack(blocks.join_pairs(losses), axis=1)
        return (first_loss, second_loss, blocks.join(hit), blocks.join(entropy)), backward

    first_loss, second_loss, hit, entropy = statistics(first, second, all_first, all_second)
    return RowStatistics(first_loss, second_loss, tf.stop_gradient(hit), tf.stop_gradient(entropy))


def _similarities(
    query: tf.Tensor, keys: tf.Tensor, places: tf.Tensor, penalty: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the similarities of one block of B images.

    Args:
        query: (2B, d), both views of an image after each other.
        keys: (2M, d), all first views before all second views.
        places: (2B,) index of each row's image among the M.
        penalty: (2M,) added to the similarities with each key; None: nothing.

    Returns:
        (2B, 2M), -inf where a view meets itself or its positive; the positives, (2B,); and the
        similarities of first with second views, (B, M), positives included.
    """
    rows, images = tf.range(tf.shape(query)[0]), tf.shape(keys)[0] // 2
    view = rows % 2
    itself = tf.stack([rows, places + view * images], axis=1)
    other_view = tf.stack([rows, places + (1 - view) * images], axis=1)
    every = tf.matmul(query, keys, transpose_b=True)
    if penalty is not None:
        every += penalty
    positive = tf.gather_nd(every, other_view)
    between = tf.reshape(every, [-1, 2, 2, images])[:, 0, 1]
    # A scatter, because a mask would be as large as the similarities; it comes last, so that
    # TensorFlow can update the similarities in place.
    with tf.control_dependencies([positive, between]):
        excluded = tf.fill([2 * tf.shape(query)[0]], -float("inf"))
        both = tf.concat([itself, other_view], axis=0)
        return tf.tensor_scatter_nd_update(every, both, excluded), positive, between


def _reduce(
    negatives: tf.Tensor, positive: tf.Tensor, between: tf.Tensor, places: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """Reduces a block of B images to what is kept; `places`, (B,), are their indices among the M.

    Returns:
        For each of its rows, (2B,): the largest similarity; the sums of exp(similarity - largest)
        over negatives and over all; the loss. For each image, (B,): hit and entropy.
    """
    largest = tf.maximum(tf.reduce_max(negatives, axis=1), positive)
    negative = tf.reduce_sum(tf.exp(negatives - largest[:, tf.newaxis]), axis=1)
    of_positive = tf.exp(positive - largest)
    # log(total) + largest - positive, exact even where the positive is nearly all of the total.
    losses = tf.math.log1p(negative + (of_positive - 1.0)) + (largest - positive)
    hit, entropy = hits(places, between), entropies(between)
    return largest, negative, negative + of_positive, losses, hit, entropy


def _with_positives(
    of_queries: tf.Tensor,
    of_keys: tf.Tensor,
    weights: tf.Tensor,
    inputs: tuple[tf.Tensor, ...],
    labels: tf.Tensor,
) -> list[tf.Tensor]:
    """Adds the gradient of the positives to that of the negatives, for each of the four inputs.

    A row's probabilities add up to one: the positive's gradient is minus the sum of its negatives'.
    """
    own_first, own_second, keys_first, keys_second = inputs
    of_first_keys, of_second_keys = tf.split(of_keys, 2)
    at = labels[:, tf.newaxis]
    return [
        of_queries[:, 0] - weights[:, 0] * tf.gather(keys_second, labels),
        of_queries[:, 1] - weights[:, 1] * tf.gather(keys_first, labels),
        tf.tensor_scatter_nd_sub(of_first_keys, at, weights[:, 1] * own_second),
        tf.tensor_scatter_nd_sub(of_second_keys, at, weights[:, 0] * own_first),
    ]


def _rows(blocks: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Returns one block's rows, (2B, ...), of (blocks, B, 2, ...)."""
    return tf.reshape(tf.gather(blocks, index), [-1, *blocks.shape[3:]])


def _column(blocks: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Returns one block's (2B, 1) of (blocks, 2B)."""
    return tf.gather(blocks, index)[:, tf.newaxis]
