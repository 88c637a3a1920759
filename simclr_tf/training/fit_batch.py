"""A batch of images, or of images and labels: its parts, its form, and checks of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.training import labels, structures

AS_DATA_SET = "tf.data.Dataset.from_tensor_slices((images, labels)).batch(256)"

Array: TypeAlias = "tf.Tensor | np.ndarray"
Arrays: TypeAlias = "Array | tuple[Array, ...] | dict[str, Array]"
"""Images as an array, two views, or a canvas with sizes."""


class Rules(NamedTuple):
    """What one call of one model takes.

    Attributes:
        check: Called as `check(form, labelled)` with 'images', 'views' (a pair), 'canvas'
            (`{'image', 'size'}`), or 'inputs' of any kind; raises a UserError where the model can't
            use that.
        labels: Which labels are right; None: they are not checked.
        value_range: Of float images; see `simclr_tf.images.pixel_values`.
        rank: Of a batch of images, as the encoder takes them.
        structure: Of inputs of any kind, as the encoder takes them; None: images.
    """

    check: Callable[[str, bool], None]
    labels: labels.LabelRule | None
    value_range: pixel_values.Range | None
    rank: int
    structure: structures.Structure = None


def unpack(data: object) -> tuple[Any, Any]:
    """Returns (images, labels or None) of a batch, or of its specification.

    `(view1, view2)` alone would read as (images, labels): views come as `((view1, view2),)` or
    `((view1, view2), labels)`.

    Raises:
        UserError: There are three parts, with sample weights.
    """
    if not isinstance(data, (tuple, list)):
        return data, None
    parts = [None if type(part).__name__ == "NoneTensorSpec" else part for part in data]
    if len(parts) == 3 and parts[2] is None:
        parts = parts[:2]
    if len(parts) not in (1, 2):
        raise UserError(
            f"Expected batches of images or (images, labels); received: a tuple of {len(parts)}. "
            "Sample weights are not supported: filter the data set instead."
        )
    return parts[0], parts[1] if len(parts) == 2 else None


def prepare_arrays(x: object, y: object, rules: Rules) -> tuple[Arrays, Array | None]:
    """Checks arrays; lists become arrays.

    Raises:
        UserError: As `fit_data.prepare`.
    """
    images = _images(x, rules)
    classes = None if y is None else as_array(y, "labels")
    rules.check(form_of(images, rules), classes is not None)
    count = _check_images(images, rules)
    if classes is None:
        return images, None
    if rules.labels is not None:
        labels.check_form(classes.shape, classes.dtype, rules.labels)
    if len(classes.shape) and int(classes.shape[0]) != count:
        raise UserError(
            f"Expected one label per image; received: {count} images and {classes.shape[0]} labels."
        )
    if rules.labels is not None:
        labels.check_labels(classes, rules.labels)
    return images, classes


def empty(received: str) -> UserError:
    """Returns the error for data without a batch."""
    return UserError(
        f"Expected at least one batch; received: {received}. Pass more images, a smaller batch, or "
        "drop_remainder=False."
    )


def form_of(images: object, rules: Rules) -> str:
    """Returns 'images', 'views' for a pair, 'canvas' for `{'image', 'size'}`; or, of inputs of any
    kind, 'views' or 'inputs'.

    Raises:
        UserError: Another structure.
    """
    if rules.structure is not None:
        return "views" if structures.are_views(images, rules.structure) else "inputs"
    if isinstance(images, Mapping):
        if set(images) == {"image", "size"}:
            return "canvas"
        keys = [str(key) for key in images]
        pair = "(d['image'], d['label'])" if set(keys) >= {"image", "label"} else "(d[...], d[...])"
        raise UserError(
            f"Expected images or (images, labels); received: a dictionary of {', '.join(keys)}. "
            f"Take out what is meant: dataset.map(lambda d: {pair})."
        )
    if isinstance(images, (tuple, list)):
        if len(images) != 2:
            raise UserError(
                f"Expected images, or two views (view1, view2); received: {len(images)} arrays. "
                "Stack single images: np.stack(images)."
            )
        return "views"
    return "images"


def as_array(values: object, what: str) -> Array:
    """Returns arrays and tensors unchanged, lists and pandas' columns as arrays.

    Raises:
        UserError: They make no array, as lists of images of different sizes.
    """
    if tf.is_tensor(values) and not isinstance(values, (tf.RaggedTensor, tf.SparseTensor)):
        return values if hasattr(values, "shape") else tf.convert_to_tensor(values)
    if isinstance(values, (tf.RaggedTensor, tf.SparseTensor)):
        raise UserError(
            f"Expected {what} as a dense array; received: {type(values).__name__}. Pad or resize "
            "them to one size."
        )
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError:  # of different sizes
        array = None
    if array is None or array.dtype.kind in "OSU":
        kind = "different sizes" if array is None else f"type {array.dtype}"
        raise UserError(
            f"Expected {what} as one array of numbers; received: {kind}. Bring images to one size "
            f"and stack them, number the classes, or pass {AS_DATA_SET}."
        )
    return array


def _images(x: object, rules: Rules) -> Arrays:
    """Returns an array, a pair of arrays, or a canvas; of inputs of any kind their structure."""
    if rules.structure is not None:
        return structures.arrays(x, rules.structure, lambda part: as_array(part, "inputs"))
    if isinstance(x, Mapping):
        form_of(x, rules)
        return {name: as_array(value, f"'{name}'") for name, value in x.items()}
    if not isinstance(x, (list, tuple)):
        return as_array(x, "images")
    ranks = [len(np.shape(part)) for part in x if hasattr(part, "shape")]
    if len(ranks) == len(x) == 2 and ranks[0] == rules.rank:
        if ranks[1] != rules.rank:
            raise UserError(
                "Expected images as x and labels as y; received: both as x. Pass them apart, as "
                "fit(images, labels)."
            )
        return tuple(as_array(part, "views") for part in x)
    if any(tf.is_tensor(part) for part in x):
        x = [np.asarray(part) for part in x]
    return as_array(x, "images")


def image_parts(images: Any) -> list[Any]:
    """Returns the arrays, or specifications, that hold pixels of images."""
    if isinstance(images, Mapping):
        return [images["image"]]
    return list(images) if isinstance(images, (tuple, list)) else [images]


def _check_images(images: Arrays, rules: Rules) -> int:
    """Checks arrays of images, or of inputs of any kind; returns how many there are."""
    if rules.structure is not None:
        structures.check_batch(images, rules.structure)
        count = structures.count_rows(images)
        if count == 0:
            raise empty("arrays of no rows")
        structures.check_finite(images)
        return count
    counts = set()
    for part in image_parts(images):
        pixel_values.check_type(part.dtype)
        check_rank(part.shape, rules)
        counts.add(int(part.shape[0]))
    if len(counts) > 1:
        raise UserError(
            f"Expected two views of the same images; received: {sorted(counts)} images."
        )
    count = counts.pop()
    if count == 0:
        raise empty("an array of no images")
    for part in image_parts(images):
        pixel_values.check_values(part, rules.value_range)
    return count


def check_rank(shape: tf.TensorShape | tuple[int, ...], rules: Rules) -> None:
    """Raises a UserError where images of this shape are no batch."""
    rank = tf.TensorShape(shape).rank
    if rank == rules.rank - 1:
        raise UserError(
            f"Expected batches of images, {rules.rank} axes; received: shape {tuple(shape)}. Batch "
            "them (dataset.batch(256)), add the axis of channels to grey images "
            "(images[..., np.newaxis]), or the first axis to a single one (images[np.newaxis])."
        )
    if rank == 0:
        raise UserError("Expected a batch of images; received: a single number.")
