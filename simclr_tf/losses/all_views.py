"""The views of all replicas, with which each replica compares its own."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from simclr_tf.compat import num_replicas
from simclr_tf.devices import replicas
from simclr_tf.losses.blocks import default_block_size


class AllViews(NamedTuple):
    """Embeddings of all replicas' M images; rows that only fill up are among the M.

    Attributes:
        first: (M, d) float32.
        second: (M, d).
        places: (N,) int32, where this replica's images stand among the M.
        mask: (M,) bool, False for rows that only fill up; None: all count.
        classes: (M,) int32; None where none were given.
    """

    first: tf.Tensor
    second: tf.Tensor
    places: tf.Tensor
    mask: tf.Tensor | None
    classes: tf.Tensor | None

    def image_count(self, own_mask: tf.Tensor | None) -> replicas.ImageCount:
        """Counts the images; `own_mask` is this replica's part of `mask`."""
        if self.mask is None:
            total = tf.shape(self.first)[0]
        else:
            total = tf.reduce_sum(tf.cast(self.mask, tf.int32))
        return replicas.ImageCount(own_mask, tf.cast(total, tf.float32))

    def default_block_size(self, own: tf.Tensor) -> int | tf.Tensor:
        """Returns `default_block_size` for this replica's embeddings, (N, d)."""
        if own.shape[0] is None:
            return default_block_size(tf.shape(own)[0], tf.shape(self.first)[0])
        # The static shape of a gather has no number of rows.
        return default_block_size(own.shape[0], own.shape[0] * num_replicas())


def gather_views(
    first: tf.Tensor,
    second: tf.Tensor,
    mask: tf.Tensor | None = None,
    classes: tf.Tensor | None = None,
) -> AllViews:
    """Gathers embeddings over replicas. Gradients flow through it, back to each replica's own.

    Args:
        first: (N, d) float32, of this replica's first views.
        second: (N, d), of its second views.
        mask: (N,) bool, False for rows that only fill up; None: all count.
        classes: (N,) int32 below 2 ** 24, or None.
    """
    rows = tf.range(tf.shape(first)[0])  # (N,)
    if not replicas.several():
        return AllViews(first, second, rows, mask, classes)
    context = tf.distribute.get_replica_context()
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    # Side by side on the feature axis: one collective, and both views stay in the same order. Each
    # row names its replica, since replicas may have different numbers of rows: in float32, as not
    # every device gathers int32.
    owner = tf.fill([tf.shape(first)[0], 1], tf.cast(replica, tf.float32))
    beside = [part for part in (mask, classes) if part is not None]
    columns = [tf.cast(part, tf.float32)[:, tf.newaxis] for part in beside]
    width = first.shape[1]
    gathered = context.all_gather(tf.concat([first, second, owner, *columns], axis=1), axis=0)
    gathered.set_shape([None, 2 * width + 1 + len(columns)])  # a gather forgets all of it
    owners = tf.cast(gathered[:, 2 * width], tf.int32)  # (M,), in the replicas' order
    before = tf.reduce_sum(tf.cast(owners < replica, tf.int32))
    everyone, every_class = mask, classes
    if mask is not None:
        everyone = gathered[:, 2 * width + 1] > 0.5
    if classes is not None:
        every_class = tf.cast(gathered[:, -1], tf.int32)
    return AllViews(
        gathered[:, :width], gathered[:, width : 2 * width], rows + before, everyone, every_class
    )
