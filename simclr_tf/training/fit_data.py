"""The data that `fit`, `evaluate` and `predict` accept, checked before anything is traced.

They accept what Keras accepts in both generations: arrays and tensors, `tf.data`, generators, and
`keras.utils.Sequence` and the like (`PyDataset`, the flows of `ImageDataGenerator`). Arrays are
checked as a whole, at once (`fit_batch`); of the others the first batch or the element's
specification is checked at once, later batches as they are made.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.training import labels, structures
from simclr_tf.training.fit_batch import (
    AS_DATA_SET,
    Rules,
    check_rank,
    empty,
    form_of,
    image_parts,
    prepare_arrays,
    unpack,
)

_TAKEN = (
    "a tf.data.Dataset, arrays, a generator or a keras.utils.Sequence of images or (images, labels)"
)


def prepare(x: Any, y: object, rules: Rules) -> tuple[object, object]:
    """Checks data as far as they exist yet, and arranges that later batches are checked.

    Args:
        x: What the user passed as `x`.
        y: What the user passed as `y`.
        rules: What the call takes.

    Returns:
        x and y to pass to Keras. A batch that was taken for the check is still part of x.

    Raises:
        UserError: Data that do not fit, that are empty, or that Keras does not take.
    """
    if _is_array_like(x):
        return prepare_arrays(x, y, rules)
    _refuse_other_kinds(x)
    if y is not None:
        raise UserError(
            f"Expected labels within the {type(x).__name__}, as (images, labels); received: y "
            "beside it. Zip them: tf.data.Dataset.zip((images, labels))."
        )
    if isinstance(x, tf.data.Dataset):
        return checked_dataset(x, rules), None
    if hasattr(x, "element_spec") and not hasattr(x, "__next__"):  # a distributed data set
        images, classes = unpack(x.element_spec)
        rules.check(form_of(images, rules), classes is not None)
        return x, None
    if isinstance(x, keras.utils.Sequence):
        return CheckedSequence(x, rules), None
    first = next(x, None)
    if first is None:
        raise empty(f"a {type(x).__name__} that gives nothing")
    return _checked_batches(_checked_batch(first, rules), x, rules), None


def prepare_validation(data: object, rules: Rules) -> object:
    """Returns `validation_data` of `fit`, checked as `prepare` does.

    Raises:
        UserError: As `prepare`; or weights as a third part.
    """
    if isinstance(data, (tuple, list)):
        x, y = unpack(data)
        x, y = prepare(x, y, rules)
        return (x,) if y is None else (x, y)
    return prepare(data, None, rules)[0]


def checked_dataset(data: tf.data.Dataset, rules: Rules) -> tf.data.Dataset:
    """Returns a data set whose pipeline raises an error at a batch that does not fit.

    Args:
        data: Batches of images or (images, labels).
        rules: What the call takes.

    Raises:
        UserError: Its element specification does not fit, or it is known to be empty.
    """
    if int(data.cardinality()) == 0:
        raise empty("an empty data set; fewer images than a batch with drop_remainder=True?")
    images, classes = unpack(data.element_spec)
    form = form_of(images, rules)
    rules.check(form, classes is not None)
    if rules.structure is not None:
        structures.check_batch(images, rules.structure)
        parts = tf.nest.flatten(images)
    else:
        parts = image_parts(images)
        for part in parts:
            _check_spec(part, rules)
    needs_check = any(part.dtype.is_floating for part in parts)
    if classes is not None and rules.labels is not None:
        if not isinstance(classes, tf.TensorSpec):
            raise UserError(f"Expected labels as one tensor; received: {classes}.")
        labels.check_form(classes.shape, classes.dtype, rules.labels)
        needs_check = True
    if not needs_check:
        return untuned(data)

    def checked(*element: Any) -> Any:  # in the structure of the data set
        batch = element[0] if len(element) == 1 else element
        if len(element) == 1 and isinstance(data.element_spec, (tuple, list)):
            batch = element
        images, classes = unpack(batch)
        images = tf.nest.map_structure(lambda part: _checked_part(part, rules), images)
        if classes is None:
            return (images,) if isinstance(batch, tuple) else images
        return images, classes if rules.labels is None else labels.checked(classes, rules.labels)

    return untuned(data.map(checked, num_parallel_calls=tf.data.AUTOTUNE))


class CheckedSequence(keras.utils.Sequence):
    """A `keras.utils.Sequence` whose batches are checked as they are made.

    Args:
        batches: The user's sequence.
        rules: What the call takes.

    Raises:
        UserError: It is empty, or its first batch does not fit.
    """

    def __init__(self, batches: keras.utils.Sequence, rules: Rules) -> None:
        # No super().__init__(): Keras 3's settings for workers are those of the user's sequence.
        self.batches = batches
        self.rules = rules
        if self.num_batches == 0:
            raise empty(f"a {type(batches).__name__} of no batches")
        self._first: tuple[object, ...] | None = _checked_batch(batches[0], rules)

    def __getattr__(self, name: str) -> Any:
        if name in ("batches", "_first", "rules"):  # not set yet while being unpickled
            raise AttributeError(name)
        return getattr(self.batches, name)

    @property
    def num_batches(self) -> int | None:
        """Number of batches; None: endless."""
        return self.batches.num_batches if hasattr(self.batches, "num_batches") else len(self)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[object, ...]:
        if index == 0 and self._first is not None:
            first, self._first = self._first, None
            return first
        return _checked_batch(self.batches[index], self.rules)

    def on_epoch_begin(self) -> None:
        if hasattr(self.batches, "on_epoch_begin"):  # Keras 3
            self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


def _is_array_like(x: object) -> bool:
    if isinstance(x, (tf.data.Dataset, keras.utils.Sequence)) or hasattr(x, "element_spec"):
        return False
    if isinstance(x, (np.ndarray, list, tuple, Mapping)) or tf.is_tensor(x):
        return True
    # h5py's data sets, for example.
    return hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "__getitem__")


def _refuse_other_kinds(x: object) -> None:
    if isinstance(x, tf.data.Dataset) or hasattr(x, "element_spec") or hasattr(x, "__next__"):
        return
    if isinstance(x, keras.utils.Sequence):
        return
    kind = "nothing" if x is None else f"a {type(x).__module__}.{type(x).__name__}"
    remedy = f"Pass {AS_DATA_SET}"
    if hasattr(x, "__iter__") and not isinstance(x, (str, bytes)):
        remedy = "Pass a generator of NumPy batches: (batch for batch in data)"
    if hasattr(x, "to_numpy"):
        remedy = "Pass table.to_numpy(), reshaped to (N, height, width, channels)"
    raise UserError(f"Expected {_TAKEN}; received: {kind}. {remedy}.")


def _check_spec(part: tf.TypeSpec, rules: Rules) -> None:
    if not isinstance(part, tf.TensorSpec):
        raise UserError(
            f"Expected images as a dense tensor; received: {part}. Pad or resize them to one size."
        )
    pixel_values.check_type(part.dtype)
    check_rank(part.shape, rules)


def _checked_part(part: tf.Tensor, rules: Rules) -> tf.Tensor:
    if rules.structure is not None:
        return structures.checked(part)
    return pixel_values.checked(part, rules.value_range) if part.dtype.is_floating else part


def _checked_batch(batch: object, rules: Rules) -> tuple[object, ...]:
    """Returns a generator's batch as (images,) or (images, labels), checked."""
    images, classes = prepare_arrays(*unpack(batch), rules)
    return (images,) if classes is None else (images, classes)


def _checked_batches(
    first: tuple[object, ...], rest: Iterator[object], rules: Rules
) -> Iterator[tuple[object, ...]]:
    yield from itertools.chain([first], (_checked_batch(batch, rules) for batch in rest))
