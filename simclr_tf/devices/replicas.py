"""Means over the images of all replicas, however many each of them has.

A batch that replicas cannot share equally leaves some of them fewer images than others, or none. A
mean of the replicas' own means would then count images unequally, and be NaN where one is empty.
So every replica computes its *share*,

    replicas * (sum over its own images) / (images of all replicas).

The mean of the shares is the mean over all images; and since optimizers add up gradients,
`share / replicas` is what each replica minimises to take one device's step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf


class ImageCount(NamedTuple):
    """Which images of a replica's batch count, and how many all replicas have.

    Attributes:
        mask: (N,) bool, False for padding rows; None: all count.
        total: Float32 scalar: the images that count, of all replicas.
    """

    mask: tf.Tensor | None
    total: tf.Tensor


def several() -> bool:
    """Returns whether this runs, or is traced, as one of several replicas."""
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def sum_over_replicas(values: tf.Tensor) -> tf.Tensor:
    """Returns the sum over replicas; `values` itself where there is only one. Differentiable."""
    if not several():
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def sum_each_over_replicas(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the sums of several tensors over replicas, in as few messages as the strategy can."""
    if not several() or not values:
        return values
    context = tf.distribute.get_replica_context()
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, values))


def count_images(images: int | tf.Tensor, mask: tf.Tensor | None = None) -> ImageCount:
    """Counts the images of a step over all replicas.

    Args:
        images: N, rows of this replica's batch.
        mask: (N,) bool, which of them count; None: all.

    Example:
        >>> count_images(3, tf.constant([True, True, False])).total
        <tf.Tensor: shape=(), dtype=float32, numpy=2.0>
    """
    own = tf.cast(images, tf.float32)
    if mask is not None:
        own = tf.reduce_sum(tf.cast(mask, tf.float32))
    return ImageCount(mask, sum_over_replicas(own))


def share_of_mean(values: tf.Tensor, count: ImageCount, copies: int = 1) -> tf.Tensor:
    """Returns this replica's share of the mean over all images: see the module's docstring.

    Args:
        values: (copies * N,) float32, one for each view of an image, copy after copy.
        count: What `count_images` returned.
        copies: Views of an image.

    Returns:
        Float32 scalar; zero for a replica without images.
    """
    if count.mask is None and not several():
        return tf.reduce_mean(values)
    if count.mask is not None:
        # `where`, not a product: the values of padding rows need not be finite.
        values = tf.where(tf.concat([count.mask] * copies, 0), values, 0.0)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync if several() else 1
    return tf.reduce_sum(values) * (replicas / copies) / tf.maximum(count.total, 1.0)


def mean_of_shares(shares: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the means of named float32 scalars over replicas, the same on each of them."""
    if not several() or not shares:
        return dict(shares)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    means = sum_over_replicas(tf.stack(list(shares.values()))) / replicas
    return dict(zip(shares, tf.unstack(means), strict=True))
