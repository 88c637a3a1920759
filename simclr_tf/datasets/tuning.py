"""A fixed number of elements made at a time, so that a data set's end need not be awaited."""

from __future__ import annotations

import os

import tensorflow as tf


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a data set that `tf.data` does not tune while it runs.

    `tf.data.AUTOTUNE` then stands for as many parallel calls as there are processors (TensorFlow
    2.15: 16 at most). The tuner's thread makes iterators end late: it sleeps for as long as it has
    run, at most a minute; an iterator that is deleted wakes it before the sign to end is set, so
    that it may sleep on, and Python waits for it.

    Args:
        data: Any data set; one whose options say whether it is tuned stays as it is.

    Returns:
        The same elements in the same order.

    Example:
        >>> untuned(tf.data.Dataset.range(3).map(lambda x: x, tf.data.AUTOTUNE))
    """
    if data.options().autotune.enabled is not None:
        return data
    options = tf.data.Options()
    options.autotune.enabled = False
    if hasattr(options.autotune, "initial_parallelism"):  # TensorFlow 2.15 has none
        options.autotune.initial_parallelism = os.cpu_count() or 1
    return data.with_options(options)
