"""Chosen positions of a data set: as a table of flags, one look-up an element, and in labels."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def flags_at(positions: np.ndarray, length: int | None = None) -> np.ndarray:
    """Returns a table that is True at the given positions.

    Comparing every element of a data set with every position would cost their product.

    Args:
        positions: int64 (n,), each at least 0, in any order.
        length: Length of the table; None: it ends with the last position.

    Returns:
        bool (length,).

    Example:
        >>> flags_at(np.array([0, 2]))
        array([ True, False,  True])
    """
    positions = np.asarray(positions, np.int64)
    flags = np.zeros(int(positions.max(initial=-1)) + 1 if length is None else length, bool)
    flags[positions] = True
    return flags


def keep_flagged(data: tf.data.Dataset, flags: np.ndarray) -> tf.data.Dataset:
    """Returns the elements whose flag is set, in order; nothing after the last one is read.

    Args:
        data: Elements in a fixed order.
        flags: bool (N,), by position; elements beyond are dropped.

    Example:
        >>> data = tf.data.Dataset.range(10, 20)
        >>> list(keep_flagged(data, flags_at(np.array([1, 3]))).as_numpy_iterator())
        [11, 13]
    """
    needed = int(np.flatnonzero(flags).max(initial=-1)) + 1
    chosen = on_host(flags[:needed])
    pairs = data.take(needed).enumerate().filter(lambda position, element: chosen[position])
    return pairs.map(lambda position, element: element)


def on_host(values: np.ndarray) -> tf.Tensor:
    """Returns a tensor in host memory, where `tf.data` reads it."""
    with tf.device("CPU:0"):
        return tf.constant(values)


def only_at(labels: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Returns labels (N,) with -1 everywhere but at the positions `shown`."""
    kept = np.full_like(labels, -1)
    kept[shown] = labels[shown]
    return kept
