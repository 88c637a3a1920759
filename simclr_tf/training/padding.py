"""Batches that replicas cannot share equally: filled up, with a mask of what counts.

What a strategy makes of a last batch leaves some replicas fewer images, or none. For an evaluation
each replica gets as many rows: those that fill up repeat the batch's last image (a real one, so
that nothing downstream meets what it never sees else) and are marked to be left out. What is
distributed already, and what `fit` hands out, keeps its sizes; there a replica without images gets
one row that does not count, since a network can't be run on none: on a CPU, TensorFlow's
convolution returns a batch of no images in the shape that it came in.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.devices.replicas import several

_BATCH_SIZE = 32  # Keras's own, where none is given
# Of an axis whose length a replica without images can't know: large enough for any network.
_SIDE = 64


class Padded(NamedTuple):
    """One replica's batch.

    Attributes:
        element: Images, or images and labels, as the data set delivers them.
        mask: (N,) bool, False for the rows that fill up.
    """

    element: Any
    mask: tf.Tensor


def for_replicas(
    x: Any, y: Any, batch_size: int | None, strategy: tf.distribute.Strategy
) -> tuple[Any, Any, int | None]:
    """Returns what `evaluate` or `predict` was given, in batches that replicas share equally.

    A batch of the data set is one step, as without padding.

    Args:
        x: A `tf.data.Dataset` of batches, or arrays (N, ...), nested or not.
        y: Labels that go with arrays, or None.
        batch_size: Images of all replicas in a batch of arrays.
        strategy: The model's.

    Returns:
        x, y and batch_size for Keras: a data set of `Padded`, None, None. Unchanged for one
        replica, and for what can't be filled up here: data sets that are distributed already,
        generators.

    Example:
        >>> data, _, _ = for_replicas(images, None, 32, tf.distribute.MirroredStrategy())
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return x, y, batch_size
    if isinstance(x, tf.data.Dataset) and _has_rows(x.element_spec):
        return _filled_up(x, replicas, _static_rows(x.element_spec)), None, batch_size
    if _are_arrays(x) and (y is None or _are_arrays(y)):
        size = batch_size or _BATCH_SIZE
        data = tf.data.Dataset.from_tensor_slices((x,) if y is None else (x, y)).batch(size)
        return _filled_up(data, replicas, size), None, None
    return x, y, batch_size


def split(data: Any, rows: int = 1) -> tuple[Any, tf.Tensor | None]:
    """Returns what a step was given as rows to compute with, and which of them count.

    Args:
        data: `Padded`, or an element of a data set: images, (images,) or (images, labels).
        rows: Rows for a replica that has no images.

    Returns:
        The element and a mask, (N,) bool; None where all count, as is plain on one replica and
        where batch sizes are known before the step.
    """
    if isinstance(data, Padded):
        return data.element, data.mask
    leaves = tf.nest.flatten(data)
    if not several() or not leaves or leaves[0].shape[0]:
        return data, None
    images = tf.shape(leaves[0])[0]
    missing = tf.where(tf.equal(images, 0), rows, 0)

    def fill(value: Any, own: tf.Tensor) -> tf.Tensor:
        sides = [
            tf.where(tf.equal(tf.shape(own)[axis], 0), _SIDE, tf.shape(own)[axis])
            if length is None
            else length
            for axis, length in enumerate(own.shape)
            if axis > 0
        ]
        shape = [None, *own.shape[1:]]
        # A replica that has images gets no row; its images' size is kept.
        filling = tf.fill([missing, *sides], tf.cast(value, own.dtype))
        return tf.ensure_shape(tf.cond(missing > 0, lambda: filling, lambda: own), shape)

    tuple_given = isinstance(data, tuple)
    first, *rest = data if tuple_given else (data,)
    # Ones are valid pixels in every format; class 0 exists for any number of classes.
    filled = tf.nest.map_structure(lambda own: fill(1, own), first)
    others = [tf.nest.map_structure(lambda own: fill(0, own), part) for part in rest]
    mask = tf.fill([tf.maximum(images, missing)], images > 0)
    return ((filled, *others) if tuple_given else filled), mask


def only_real(outputs: Any, mask: tf.Tensor | None) -> Any:
    """Returns outputs (N, ...), nested or not, without the rows that fill up."""
    if mask is None:
        return outputs
    return tf.nest.map_structure(lambda rows: tf.boolean_mask(rows, mask), outputs)


def _filled_up(data: tf.data.Dataset, replicas: int, size: int | None) -> tf.data.Dataset:
    """Fills up every batch to a multiple of the replicas.

    Args:
        data: Batches.
        replicas: How many share one.
        size: Images of a full batch, to which all are filled up; None: not known.
    """
    rows = None if size is None else math.ceil(size / replicas) * replicas

    def fill(*batch: Any) -> tf.data.Dataset:
        element = batch if isinstance(data.element_spec, tuple) else batch[0]
        images = tf.shape(tf.nest.flatten(element)[0])[0]
        needed = (images + replicas - 1) // replicas * replicas if rows is None else rows
        places = tf.range(needed)
        inside = tf.minimum(places, images - 1)
        chosen = tf.nest.map_structure(lambda x: tf.gather(x, inside), element)
        return tf.data.Dataset.from_tensors(Padded(chosen, places < images))

    # A flat map: behind a plain one TensorFlow finds the batch size as it was before, and hands
    # out as many rows of it.
    filled = data.flat_map(fill)
    length = data.cardinality()
    if length >= 0:
        filled = filled.apply(tf.data.experimental.assert_cardinality(length))
    return filled.prefetch(tf.data.AUTOTUNE)


def _are_arrays(values: Any) -> bool:
    leaves = tf.nest.flatten(values)
    arrays = all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in leaves)
    return bool(leaves) and arrays and all(len(leaf.shape) and leaf.shape[0] for leaf in leaves)


def _has_rows(spec: Any) -> bool:
    leaves = tf.nest.flatten(spec)
    return bool(leaves) and all(
        isinstance(leaf, (tf.TensorSpec, tf.RaggedTensorSpec)) and leaf.shape.rank != 0
        for leaf in leaves
    )


def _static_rows(spec: Any) -> int | None:
    """Returns the batch size where all of an element's tensors tell the same, else None."""
    sizes = {leaf.shape[0] if leaf.shape.rank else None for leaf in tf.nest.flatten(spec)}
    return sizes.pop() if len(sizes) == 1 else None
