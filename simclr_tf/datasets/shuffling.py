"""Shuffled orders that are fixed by the seed and the epoch, so that a run can resume anywhere."""

from __future__ import annotations

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
