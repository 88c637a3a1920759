"""Inputs of any kind: token ids, spectrograms, a dictionary or tuple of several tensors.

A model with `input_kind="any"` gives them to augmentation and encoder as they are. What the encoder
takes tells two views from one input of two parts: a pair is two views where each of its two has the
encoder's structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.images.batch_errors import stop_unless
from simclr_tf.images.pixel_values import to_float

INPUT_KINDS = ("images", "any")

Structure: TypeAlias = "Any"
"""Arrays, tensors or specifications, in dictionaries and tuples at any depth."""

_ROWS_AT_A_TIME = 1024  # of an array, in the search for values that are not finite
_NOT_FINITE = (
    "Expected inputs of finite numbers; received: values that are not a number, or infinite. Fix "
    "or leave out those rows (np.isfinite finds them); the logarithm of silence is -inf."
)


def check_input_kind(kind: str) -> None:
    """Raises a UserError unless a kind of inputs is one that there is."""
    if kind not in INPUT_KINDS:
        raise UserError(
            f"Expected input_kind to be one of {', '.join(INPUT_KINDS)}; received: {kind!r}."
        )


def as_taken(inputs: Structure, kind: str) -> Structure:
    """Returns what an encoder gets: images as floats, in [0, 1] from integers; others as they are.

    Args:
        inputs: One batch.
        kind: One of `INPUT_KINDS`.
    """
    return to_float(inputs) if kind == "images" else inputs


def structure_of(encoder: keras.Model) -> Structure:
    """Returns the specifications of what a functional model takes, with an unknown batch size."""

    def spec(part: Any) -> Structure:
        if isinstance(part, Mapping):
            return {name: spec(value) for name, value in part.items()}
        if isinstance(part, (tuple, list)):
            return spec(part[0]) if len(part) == 1 else tuple(spec(value) for value in part)
        return tf.TensorSpec((None, *part.shape[1:]), part.dtype)

    return spec(encoder.input)


def alike(one: Structure, other: Structure) -> bool:
    """Returns whether two structures have the same keys and lengths at every depth."""
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        mappings = isinstance(one, Mapping) and isinstance(other, Mapping)
        return mappings and set(one) == set(other) and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, (tuple, list)) or isinstance(other, (tuple, list)):
        sequences = isinstance(one, (tuple, list)) and isinstance(other, (tuple, list))
        return (
            sequences
            and len(one) == len(other)
            and all(alike(a, b) for a, b in zip(one, other, strict=True))
        )
    return True


def are_views(inputs: Structure, structure: Structure) -> bool:
    """Returns whether inputs are (view1, view2), each in the encoder's structure."""
    pair = isinstance(inputs, (tuple, list)) and len(inputs) == 2
    return pair and all(alike(view, structure) for view in inputs)


def arrays(x: object, structure: Structure, as_array: Callable[[object], Any]) -> Structure:
    """Returns what a user passed with an array or tensor at each place.

    Dictionaries and tuples stay. A list is one array, but for a list of arrays that are the
    encoder's several inputs, or two views.

    Args:
        x: What the user passed.
        structure: The encoder's.
        as_array: Makes an array of one part.
    """
    if isinstance(x, Mapping):
        return {name: arrays(value, structure, as_array) for name, value in x.items()}
    if isinstance(x, list) and _is_tuple(x, structure):
        x = tuple(x)
    if isinstance(x, tuple):
        return tuple(arrays(part, structure, as_array) for part in x)
    return as_array(x)


def _is_tuple(x: list[object], structure: Structure) -> bool:
    if not all(hasattr(part, "shape") or isinstance(part, (Mapping, tuple)) for part in x):
        return False
    if isinstance(structure, (tuple, Mapping)):
        return alike(x, structure) or are_views(x, structure)
    return len(x) == 2 and all(_shape_of(part).rank == structure.shape.rank for part in x)


def check_batch(inputs: Structure, structure: Structure) -> None:
    """Refuses what is no batch of numbers: specifications, arrays or tensors.

    Args:
        inputs: One batch, two views, or their specifications.
        structure: The encoder's.

    Raises:
        UserError: Text or a ragged tensor, a single number, one example for a batch of them, or
            views that the encoder can't take.
    """
    for part in tf.nest.flatten(inputs):
        if not hasattr(part, "shape") or isinstance(
            part, (tf.RaggedTensorSpec, tf.SparseTensorSpec, tf.RaggedTensor, tf.SparseTensor)
        ):
            raise UserError(
                f"Expected inputs as dense tensors; received: {part}. Pad them to one size, with a "
                "mask of what counts beside them."
            )
        dtype = tf.as_dtype(part.dtype)
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex):
            raise UserError(
                f"Expected inputs as numbers; received: type {dtype.name}. Turn text into ids "
                "(keras.layers.TextVectorization)."
            )
        if tf.TensorShape(part.shape).rank == 0:
            raise UserError("Expected a batch of inputs; received: a single number.")
    if alike(inputs, structure) and all(
        _shape_of(part).rank == spec.shape.rank - 1
        for part, spec in zip(tf.nest.flatten(inputs), tf.nest.flatten(structure), strict=True)
    ):
        raise UserError(
            f"Expected batches of {describe(structure)}; received: {describe(inputs)}, one example."
            " Batch them: dataset.batch(256), or array[np.newaxis]."
        )
    if are_views(inputs, structure):
        for view in inputs:
            check_fits(view, structure, "views")


def count_rows(inputs: Structure) -> int:
    """Returns the rows of a batch of arrays.

    Raises:
        UserError: The arrays have different numbers of rows.
    """
    counts = {int(part.shape[0]) for part in tf.nest.flatten(inputs)}
    if len(counts) != 1:
        raise UserError(
            "Expected inputs with one row for each example; received: "
            f"{describe(inputs)}. Bring them to the same number of rows."
        )
    return counts.pop()


def check_finite(inputs: Structure) -> None:
    """Refuses arrays and eager tensors of floats that are NaN or infinite.

    Raises:
        UserError: Some are.
    """
    for part in tf.nest.flatten(inputs):
        if not tf.as_dtype(part.dtype).is_floating:
            continue
        for start in range(0, int(part.shape[0]), _ROWS_AT_A_TIME):
            rows = part[start : start + _ROWS_AT_A_TIME]
            if tf.as_dtype(rows.dtype) in (tf.bfloat16, tf.float16):
                rows = np.asarray(rows).astype(np.float32)
            if not np.isfinite(np.asarray(rows)).all():
                raise UserError(_NOT_FINITE)


def checked(part: tf.Tensor) -> tf.Tensor:
    """Returns a tensor of a data set's pipeline, with an assertion that its floats are finite."""
    if not part.dtype.is_floating:
        return part
    finite = tf.reduce_all(tf.math.is_finite(part))
    with tf.control_dependencies([stop_unless(finite, _NOT_FINITE)]):
        return tf.identity(part)


def check_fits(
    inputs: Structure, structure: Structure, what: str = "inputs", advice: str = ""
) -> None:
    """Refuses what an encoder can't take.

    Args:
        inputs: One batch, as it reaches the encoder: arrays or tensors.
        structure: The encoder's.
        what: What they are, for the message.
        advice: The message's last sentence.

    Raises:
        UserError: Another structure or shape.
    """
    fits = alike(inputs, structure)
    if fits:
        pairs = zip(tf.nest.flatten(inputs), tf.nest.flatten(structure), strict=True)
        fits = all(spec.shape.is_compatible_with(_shape_of(part)) for part, spec in pairs)
    if not fits:
        raise UserError(
            f"Expected {what} as the encoder takes them, {describe(structure)}; received: "
            f"{describe(inputs)}. {advice or 'Bring them to these shapes.'}"
        )


def _shape_of(part: Any) -> tf.TensorShape:
    """Returns the shape of an array or tensor; of anything else that of `np.asarray` of it."""
    return tf.TensorShape(part.shape if hasattr(part, "shape") else np.shape(part))


def joined(parts: tuple[Structure, ...] | list[Structure]) -> Structure:
    """Returns batches of one structure as one batch, one after the other."""
    return tf.nest.map_structure(lambda *rows: tf.concat(rows, 0), *parts)


def describe(inputs: Structure) -> str:
    """Returns shapes in the user's structure, such as `{'ids': (N, 16), 'mask': (N, 16)}`."""
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(describe(part) for part in inputs) + ")"
    shape = _shape_of(inputs)
    if shape.rank is None:
        return "(?)"
    sizes = [
        "N" if axis == 0 and n is None else "any" if n is None else str(n)
        for axis, n in enumerate(shape)
    ]
    return f"({', '.join(sizes)})"
