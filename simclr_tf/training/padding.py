"""Batches that replicas cannot share equally: padded, with a mask of the rows that count.

When a strategy splits a last batch, some replicas get fewer images, or none. For an evaluation each
replica gets the same number of rows: padding repeats the batch's last image (a real one, so that
the network sees nothing unusual) and is masked. Data sets that are distributed already, and batches
of `fit`, keep their sizes; there a replica without images gets one row that does not count, since a
network can't run on none: on a CPU, TensorFlow's convolution returns an empty batch in the shape of
its input.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.datasets.tuning import untuned
from simclr_tf.devices.replicas import several

_BATCH_SIZE = 32  # Keras's default
# For axes of unknown length on a replica without images: large enough for any network.
_SIDE = 64


class Padded(NamedTuple):
    """One replica's batch.

    Attributes:
        element: Images, or images and labels, in the structure of the data set.
        mask: (N,) bool, False for padding.
    """

    element: Any
    mask: tf.Tensor


def for_replicas(
    x: object, y: object, batch_size: int | None, strategy: tf.distribute.Strategy
) -> tuple[object, object, int | None]:
    """Returns the data of `evaluate` or `predict` in batches that replicas share equally.

    A batch of the data set is one step, as without padding.

    Args:
        x: A `tf.data.Dataset` of batches, or arrays (N, ...), nested or not.
        y: Labels that go with arrays, or None.
        batch_size: Images of all replicas in a batch of arrays.
        strategy: The model's strategy.

    Returns:
        x, y and batch_size for Keras: a data set of `Padded`, None, None. Unchanged for one
        replica, and for what can't be padded here: data sets that are distributed already, and
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
    """Returns the rows of a step's data, and which of them count.

    Args:
        data: `Padded`, or an element of a data set: images, (images,) or (images, labels).
        rows: Rows for a replica without images.

    Returns:
        The element and a mask, (N,) bool; None where all rows count, as on one replica and where
        batch sizes are known before the step.
    """
    if isinstance(data, Padded):
        return data.element, data.mask
    leaves = tf.nest.flatten(data)
    if not several() or not leaves or leaves[0].shape[0]:
        return data, None
    images = tf.shape(leaves[0])[0]
    missing = tf.where(tf.equal(images, 0), rows, 0)

    def fill(value: int, part: tf.Tensor) -> tf.Tensor:
        sides = [
            tf.where(tf.equal(tf.shape(part)[axis], 0), _SIDE, tf.shape(part)[axis])
            if length is None
            else length
            for axis, length in enumerate(part.shape)
            if axis > 0
        ]
        shape = [None, *part.shape[1:]]
        # A replica with images gets no row and keeps its images' size.
        filling = tf.fill([missing, *sides], tf.cast(value, part.dtype))
        return tf.ensure_shape(tf.cond(missing > 0, lambda: filling, lambda: part), shape)

    tuple_given = isinstance(data, tuple)
    first, *rest = data if tuple_given else (data,)
    # Ones are valid pixels in every format; class 0 exists for any number of classes.
    filled = tf.nest.map_structure(lambda x: fill(1, x), first)
    others = [tf.nest.map_structure(lambda x: fill(0, x), part) for part in rest]
    mask = tf.fill([tf.maximum(images, missing)], images > 0)
    return ((filled, *others) if tuple_given else filled), mask


def only_real(outputs: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Returns outputs (N, ...), nested or not, without padding."""
    if mask is None:
        return outputs
    return tf.nest.map_structure(lambda rows: tf.boolean_mask(rows, mask), outputs)


def _filled_up(data: tf.data.Dataset, replicas: int, size: int | None) -> tf.data.Dataset:
    """Pads every batch to a multiple of the replicas.

    Args:
        data: Batches.
        replicas: Number of replicas that share a batch.
        size: Images of a full batch, to which all are padded; None: not known.
    """
    rows = None if size is None else math.ceil(size / replicas) * replicas

    def fill(*batch: object) -> tf.data.Dataset:
        element = batch if isinstance(data.element_spec, tuple) else batch[0]
        images = tf.shape(tf.nest.flatten(element)[0])[0]
        needed = (images + replicas - 1) // replicas * replicas if rows is None else rows
        places = tf.range(needed)
        inside = tf.minimum(places, images - 1)
        chosen = tf.nest.map_structure(lambda x: tf.gather(x, inside), element)
        return tf.data.Dataset.from_tensors(Padded(chosen, places < images))

    # A flat map: after a plain map TensorFlow would still find the old batch size, and distribute
    # that many rows.
    filled = data.flat_map(fill)
    length = data.cardinality()
    if length >= 0:
        filled = filled.apply(tf.data.experimental.assert_cardinality(length))
    return untuned(filled.prefetch(tf.data.AUTOTUNE))


def _are_arrays(values: object) -> bool:
    leaves = tf.nest.flatten(values)
    arrays = all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in leaves)
    return bool(leaves) and arrays and all(len(leaf.shape) and leaf.shape[0] for leaf in leaves)


def _has_rows(spec: object) -> bool:
    leaves = tf.nest.flatten(spec)
    return bool(leaves) and all(
        isinstance(leaf, (tf.TensorSpec, tf.RaggedTensorSpec)) and leaf.shape.rank != 0
        for leaf in leaves
    )


def _static_rows(spec: object) -> int | None:
    """Returns the batch size on which all specifications of an element agree, else None."""
    sizes = {leaf.shape[0] if leaf.shape.rank else None for leaf in tf.nest.flatten(spec)}
    return sizes.pop() if len(sizes) == 1 else None
