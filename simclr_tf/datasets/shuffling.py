"""Shuffled orders that are fixed by the seed and the epoch, so that a run can resume anywhere."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_GRAPH_SEED = 87654321  # TensorFlow's default, used where no global seed is set


def random_order(length: int | None, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns a permutation of 0..length-1, int32, fixed by seed and epoch alone.

    Args:
        length: number of elements.
        seed: the run's seed.
        epoch: int64 scalar; may be symbolic.
    """
    # Sorting random numbers, because tf.random.shuffle is stateful.
    draws = tf.random.stateless_uniform(
        [length], [seed % 2**31, epoch % 2**31], None, None, tf.int32, alg="philox"
    )
    return tf.argsort(draws)


def balanced_order(labels: np.ndarray, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns as many indices as there are labels, int64, drawn so that classes are as frequent.

    Each is drawn by itself: a class, then one of its images. So some images of a large class do not
    occur in an epoch, and those of a small one several times.

    Args:
        labels: Class ids (N,); images below 0, without a label, do not occur.
        seed: the run's seed.
        epoch: int64 scalar; may be symbolic.

    Example:
        >>> balanced_order(np.array([0, 0, 0, 1]), seed=0, epoch=tf.constant(0, tf.int64)).shape
        TensorShape([4])
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    by_class = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    starts = np.cumsum(counts) - counts
    draws = tf.random.stateless_uniform(
        [2, len(labels)], [seed % 2**31, epoch % 2**31], 0, 2**31 - 1, tf.int32, alg="philox"
    )
    which = draws[0] % len(classes)
    within = draws[1] % tf.gather(tf.constant(counts, tf.int32), which)
    place = tf.gather(tf.constant(starts, tf.int32), which) + within
    return tf.gather(tf.constant(by_class, tf.int64), place)


def shuffle_for_epoch(
    data: tf.data.Dataset, buffer: int, seed: int, epoch: tf.Tensor
) -> tf.data.Dataset:
    """Shuffles through a buffer, in an order fixed by seed and epoch alone.

    Args:
        data: what to shuffle.
        buffer: length of the buffer, in elements.
        seed: the run's seed.
        epoch: int64 scalar; may be symbolic.
    """
    if not tf.executing_eagerly():
        # tf.data mixes the global seed into the order, and fails if that is 0 and the seed
        # symbolic (it compares both with zero). This sets it for the traced function only.
        tf.compat.v1.set_random_seed(_GRAPH_SEED)
    seed_of_epoch = tf.constant(seed % 2**31 * 1_000_003, tf.int64) + epoch
    return data.shuffle(buffer, seed=seed_of_epoch, reshuffle_each_iteration=False)
