"""Losses that ask of each view how near its positives and its negatives are: one row a view.

A row holds the similarities of one view with all views of all replicas, and with a memory of
earlier ones. For large batches the rows are computed block by block, and again in the backward
pass, so that memory grows linearly with the batch. Every op has a GPU kernel and compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from simclr_tf.devices import replicas
from simclr_tf.losses.all_views import AllViews, gather_views
from simclr_tf.losses.blocks import MASKED, Blocks, State
from simclr_tf.losses.contrastive_loss import Batch, ContrastiveLoss, Memory
from simclr_tf.losses.contrastive_output import ContrastiveOutput, entropies, hits
from simclr_tf.losses.similarity import as_keys, as_queries


class Rows(NamedTuple):
    """The similarities of R views, each with K others; what is neither positive nor negative, as a
    view with itself, does not count.

    Attributes:
        similarity: (R, K) float32, not divided by a temperature.
        positive: (R, K) bool.
        negative: (R, K) bool.
    """

    similarity: tf.Tensor
    positive: tf.Tensor
    negative: tf.Tensor

    def of_positive(self) -> tf.Tensor:
        """Returns the similarity with the other view of the same image, (R,): the only positive."""
        return tf.reduce_sum(tf.where(self.positive, self.similarity, 0.0), axis=1)

    def mean_over_negatives(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the mean of (R, K) values over each row's negatives, (R,); 0 without any."""
        count = tf.reduce_sum(tf.cast(self.negative, tf.float32), axis=1)
        return tf.reduce_sum(tf.where(self.negative, values, 0.0), axis=1) / tf.maximum(count, 1.0)

    def has_negatives(self) -> tf.Tensor:
        """Returns (R,) bool."""
        return tf.reduce_any(self.negative, axis=1)


def log_sum_exp(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the log of the sum of exp over the chosen of (R, K) values, (R,)."""
    return tf.reduce_logsumexp(tf.where(mask, values, MASKED), axis=1)


class RowLoss(ContrastiveLoss):
    """A contrastive loss of one number a row. Subclasses give `row_losses`.

    As in the release, an image's loss is the sum over its two views, and the whole the mean over
    images.

    Example:
        >>> class Softest(RowLoss):
        ...     def row_losses(self, rows):
        ...         return rows.mean_over_negatives(rows.similarity) - rows.of_positive()
    """

    takes_memory = True
    across_only = False
    """Whether a first view's negatives are second views alone, and the other way round."""

    def row_losses(self, rows: Rows) -> tf.Tensor:
        """Returns the loss of each row, (R,)."""
        raise NotImplementedError

    def pair_losses(
        self, first: tf.Tensor, second: tf.Tensor, everyone: AllViews
    ) -> tf.Tensor | None:
        """Returns what is added to both rows of each image, (N,), or None.

        Args:
            first: (N, d) embeddings of the first views, scaled.
            second: (N, d) of the second views.
            everyone: Those of all replicas.
        """
        return None

    def output(self, batch: Batch) -> ContrastiveOutput:
        first, second = self._embeddings(batch.hidden)
        classes, memory, keys = None, None, (first, second)
        if self.needs_labels and batch.labels is not None:
            classes = tf.cast(tf.convert_to_tensor(batch.labels), tf.int32)
        if batch.memory is not None:
            memory = batch.memory._replace(keys=tf.stop_gradient(self._scaled(batch.memory.keys)))
            keys = self._embeddings(tf.stop_gradient(memory.current))
        everyone = gather_views(*keys, batch.mask, classes)
        count = everyone.image_count(batch.mask)
        block_size = batch.block_size
        if block_size is None:
            block_size = everyone.default_block_size(first)
        table = _Table(self, first, second, everyone, classes, memory)
        if isinstance(block_size, int) and block_size == 0:
            first_loss, second_loss, hit, entropy = table.whole()
        else:
            first_loss, second_loss, hit, entropy = table.in_blocks(block_size)
        losses = first_loss + second_loss
        pairs = self.pair_losses(first, second, everyone)
        if pairs is not None:
            losses += 2.0 * pairs
        return ContrastiveOutput(
            loss=replicas.share_of_mean(losses, count),
            logits_ab=None,
            labels=everyone.places,
            accuracy=replicas.share_of_mean(hit, count),
            entropy=replicas.share_of_mean(entropy, count),
        )


class _Table:
    """The rows of this replica's N images, against M images and a memory of K.

    Args:
        loss: What becomes of a row.
        first: (N, d) embeddings of the first views.
        second: (N, d) of the second views.
        everyone: What they are compared with, of all replicas.
        classes: (N,) int32 of this replica's images, or None.
        memory: Further negatives, scaled as the others.
    """

    def __init__(
        self,
        loss: RowLoss,
        first: tf.Tensor,
        second: tf.Tensor,
        everyone: AllViews,
        classes: tf.Tensor | None,
        memory: Memory | None,
    ) -> None:
        self._loss = loss
        self._everyone = everyone
        self._places = everyone.places
        self._classes = classes
        self._images = tf.shape(everyone.first)[0]  # M
        queries = [as_queries(view, loss.similarity) for view in (first, second)]
        self._queries = tf.stack(queries, axis=1)  # (N, 2, d)
        views = tf.concat([everyone.first, everyone.second], axis=0)
        self._keys = as_keys(views, loss.similarity)  # (2M, d)
        self._memory = None
        if memory is not None:
            self._memory = memory._replace(keys=as_keys(memory.keys, loss.similarity))

    def whole(self) -> tuple[tf.Tensor, ...]:
        """Returns losses of first and second views, hits and entropies, (N,) each."""
        losses, hit, entropy = self._reduce(
            self._similarities(self._queries, self._keys), self._places, self._classes
        )
        return (*tf.unstack(tf.reshape(losses, [-1, 2]), axis=1), hit, entropy)

    def in_blocks(self, block_size: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the same, `block_size` images at a time."""
        blocks = Blocks(tf.shape(self._queries)[0], block_size)
        places = blocks.split(self._places)
        classes = None if self._classes is None else blocks.split(self._classes)

        def reduced(index: tf.Tensor, similarity: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chosen = None if classes is None else tf.gather(classes, index)
            return self._reduce(similarity, tf.gather(places, index), chosen)

        @tf.custom_gradient
        def rows(
            queries: tf.Tensor, keys: tf.Tensor
        ) -> tuple[tuple[tf.Tensor, ...], Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
            cut = blocks.split(queries)  # (blocks, B, 2, d)

            def forward(index: tf.Tensor, *kept: tf.TensorArray) -> State:
                found = reduced(index, self._similarities(tf.gather(cut, index), keys))
                pairs = zip(kept, found, strict=True)
                return [index + 1, *(array.write(index, value) for array, value in pairs)]

            losses, hit, entropy = (
                array.stack() for array in blocks.loop(forward, blocks.arrays(3))
            )

            def backward(of_losses: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                shares = tf.reshape(blocks.split(of_losses), tf.shape(losses))  # (blocks, 2B)

                def step(index: tf.Tensor, written: tf.TensorArray, of_keys: tf.Tensor) -> State:
                    query = tf.gather(cut, index)
                    similarity = self._similarities(query, keys)
                    with tf.GradientTape() as tape:
                        tape.watch(similarity)
                        found = reduced(index, similarity)[0]
                    share = tf.gather(shares, index)
                    slope = tape.gradient(found, similarity, output_gradients=share)
                    of_query = tf.matmul(slope, self._with_memory(keys))
                    flat = tf.reshape(query, [-1, query.shape[-1]])
                    # Nothing flows into a memory.
                    of_keys += tf.matmul(slope[:, : tf.shape(keys)[0]], flat, transpose_a=True)
                    return [index + 1, written.write(index, of_query), of_keys]

                written, of_keys = blocks.loop(step, [*blocks.arrays(1), tf.zeros_like(keys)])
                of_queries = tf.reshape(written.stack(), tf.shape(cut))
                return blocks.join(of_queries), of_keys

            return (blocks.join_pairs(losses), blocks.join(hit), blocks.join(entropy)), backward

        losses, hit, entropy = rows(self._queries, self._keys)
        return (*tf.unstack(losses, axis=1), tf.stop_gradient(hit), tf.stop_gradient(entropy))

    def _with_memory(self, keys: tf.Tensor) -> tf.Tensor:
        return keys if self._memory is None else tf.concat([keys, self._memory.keys], axis=0)

    def _similarities(self, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Returns (2B, 2M + K) similarities of (B, 2, d) queries, both views after each other."""
        flat = tf.reshape(queries, [-1, queries.shape[-1]])
        return tf.matmul(flat, self._with_memory(keys), transpose_b=True)

    def _reduce(
        self, similarity: tf.Tensor, places: tf.Tensor, classes: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the losses of B images' rows, (2B,), and hits and entropies, (B,)."""
        losses = self._loss.row_losses(self._rows(similarity, places, classes))
        images = self._images
        between = tf.reshape(similarity, [-1, 2, tf.shape(similarity)[1]])
        between = tf.stop_gradient(between[:, 0, images : 2 * images]) / self._loss.temperature
        if self._everyone.mask is not None:
            between = tf.where(self._everyone.mask, between, MASKED)
        return losses, hits(places, between), entropies(between)

    def _rows(self, similarity: tf.Tensor, places: tf.Tensor, classes: tf.Tensor | None) -> Rows:
        """Says of each of (2B, 2M + K) similarities what it is."""
        everyone = self._everyone
        same = tf.range(self._images) == places[:, tf.newaxis]  # (B, M)
        nothing = tf.zeros_like(same)
        itself = _interleaved(tf.concat([same, nothing], 1), tf.concat([nothing, same], 1))
        positive = _interleaved(tf.concat([nothing, same], 1), tf.concat([same, nothing], 1))
        if classes is not None:
            alike = (everyone.classes == classes[:, tf.newaxis]) & (classes >= 0)[:, tf.newaxis]
            alike = tf.concat([alike, alike], 1)
            positive |= _interleaved(alike, alike) & ~itself
        negative = ~(positive | itself)
        if self._loss.across_only:
            every = tf.ones_like(same)
            negative &= _interleaved(tf.concat([nothing, every], 1), tf.concat([every, nothing], 1))
        if everyone.mask is not None:
            counted = tf.concat([everyone.mask, everyone.mask], 0)
            positive, negative = positive & counted, negative & counted
        if self._memory is not None:
            filled = tf.tile(self._memory.filled[tf.newaxis], [tf.shape(similarity)[0], 1])
            positive = tf.concat([positive, tf.zeros_like(filled)], 1)
            negative = tf.concat([negative, filled], 1)
        return Rows(similarity, positive, negative)


def _interleaved(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns the (B, K) rows of first and second views after each other, (2B, K)."""
    return tf.reshape(tf.stack([first, second], axis=1), [-1, tf.shape(first)[1]])
