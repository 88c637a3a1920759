"""What `fit`, `evaluate` and `predict` take, and what is refused before anything is traced.

They take what Keras takes on both generations: arrays and tensors, `tf.data`, generators, and
`keras.utils.Sequence` with its kin (`PyDataset`, the flows of `ImageDataGenerator`). Arrays are
checked whole, at once; of the rest the first batch or the element's description is checked at once,
later batches where they are made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.training import labels

_TAKEN = (
    "a tf.data.Dataset, arrays, a generator or a keras.utils.Sequence of images or (images, labels)"
)
_AS_DATA_SET = "tf.data.Dataset.from_tensor_slices((images, labels)).batch(256)"


class Rules(NamedTuple):
    """What one call of one model takes.

    Attributes:
        check: Called as `check(form, labelled)` with 'images', 'views' (a pair) or 'canvas'
            (`{'image', 'size'}`); raises a UserError where the model can't do with that.
        labels: Which labels are right; None: they are not looked at.
        value_range: Of float images; see `simclr_tf.images.pixel_values`.
        rank: Of a batch of images, as the encoder takes them.
    """

    check: Callable[[str, bool], None]
    labels: labels.LabelRule | None
    value_range: pixel_values.Range | None
    rank: int


def unpack(data: Any) -> tuple[Any, Any]:
    """Returns (images, labels or None) of a batch, or of its description.

    `(view1, view2)` alone would read as (images, labels): views come as `((view1, view2),)` or
    `((view1, view2), labels)`.

    Raises:
        UserError: Three parts: sample weights.
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


def prepare(x: Any, y: Any, rules: Rules) -> tuple[Any, Any]:
    """Checks data as far as they are at hand, and makes later batches be checked.

    Args:
        x: What the user passed as `x`.
        y: What the user passed as `y`.
        rules: What the call takes.

    Returns:
        x and y to hand to Keras. The batch that was looked at is in x still.

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
        rules.check(form_of(images), classes is not None)
        return x, None
    if isinstance(x, keras.utils.Sequence):
        return CheckedSequence(x, rules), None
    first = next(x, None)
    if first is None:
        raise empty(f"a {type(x).__name__} that gives nothing")
    return _checked_batches(_checked_batch(first, rules), x, rules), None


def prepare_validation(data: Any, rules: Rules) -> Any:
    """Returns `validation_data` of `fit`, checked as `prepare` does.

    Raises:
        UserError: As `prepare`; or weights as a third part.
    """
    if isinstance(data, (tuple, list)):
        x, y = unpack(data)
        x, y = prepare(x, y, rules)
        return (x,) if y is None else (x, y)
    return prepare(data, None, rules)[0]


def prepare_arrays(x: Any, y: Any, rules: Rules) -> tuple[Any, Any]:
    """Checks arrays; lists become arrays.

    Raises:
        UserError: As `prepare`.
    """
    images = _images(x, rules)
    classes = None if y is None else as_array(y, "labels")
    rules.check(form_of(images), classes is not None)
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


def checked_dataset(data: tf.data.Dataset, rules: Rules) -> tf.data.Dataset:
    """Returns a data set, made to stop in its own pipeline at a batch that does not fit.

    Args:
        data: Batches of images or (images, labels).
        rules: What the call takes.

    Raises:
        UserError: Its elements' description does not fit, or it is known to be empty.
    """
    if int(data.cardinality()) == 0:
        raise empty("an empty data set; fewer images than a batch with drop_remainder=True?")
    images, classes = unpack(data.element_spec)
    form = form_of(images)
    rules.check(form, classes is not None)
    parts = _image_parts(images)
    for part in parts:
        _check_spec(part, rules)
    in_question = any(part.dtype.is_floating for part in parts)
    if classes is not None and rules.labels is not None:
        if not isinstance(classes, tf.TensorSpec):
            raise UserError(f"Expected labels as one tensor; received: {classes}.")
        labels.check_form(classes.shape, classes.dtype, rules.labels)
        in_question = True
    if not in_question:
        return data

    def checked(*element: Any) -> Any:
        batch = element[0] if len(element) == 1 else element
        if len(element) == 1 and isinstance(data.element_spec, (tuple, list)):
            batch = element
        images, classes = unpack(batch)
        images = tf.nest.map_structure(
            lambda part: (
                pixel_values.checked(part, rules.value_range) if part.dtype.is_floating else part
            ),
            images,
        )
        if classes is None:
            return (images,) if isinstance(batch, tuple) else images
        return images, classes if rules.labels is None else labels.checked(classes, rules.labels)

    return data.map(checked, num_parallel_calls=tf.data.AUTOTUNE)


class CheckedSequence(keras.utils.Sequence):
    """A `keras.utils.Sequence` whose batches are checked as they are made.

    Args:
        batches: The user's.
        rules: What the call takes.

    Raises:
        UserError: It is empty, or its first batch does not fit.
    """

    def __init__(self, batches: Any, rules: Rules) -> None:
        # Not the base class's: how Keras 3 fetches (workers, queue) is the user's sequence's.
        self.batches = batches
        self.rules = rules
        if self.num_batches == 0:
            raise empty(f"a {type(batches).__name__} of no batches")
        self._first: Any = _checked_batch(batches[0], rules)

    def __getattr__(self, name: str) -> Any:
        if name in ("batches", "_first", "rules"):  # it is being unpickled in another process
            raise AttributeError(name)
        return getattr(self.batches, name)

    @property
    def num_batches(self) -> int | None:
        """Number of batches; None: without end."""
        return self.batches.num_batches if hasattr(self.batches, "num_batches") else len(self)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        if index == 0 and self._first is not None:
            first, self._first = self._first, None
            return first
        return _checked_batch(self.batches[index], self.rules)

    def on_epoch_begin(self) -> None:
        if hasattr(self.batches, "on_epoch_begin"):  # Keras 3
            self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


def empty(received: str) -> UserError:
    """Returns the error of data without a batch."""
    return UserError(
        f"Expected at least one batch; received: {received}. Pass more images, a smaller batch, or "
        "drop_remainder=False."
    )


def form_of(images: Any) -> str:
    """Returns 'images', 'views' for a pair, 'canvas' for `{'image', 'size'}`.

    Raises:
        UserError: Another structure.
    """
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


def as_array(values: Any, what: str) -> Any:
    """Returns arrays and tensors as they are, lists and pandas' columns as arrays.

    Raises:
        UserError: They are none, as lists of images of different sizes.
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
            f"and stack them, number the classes, or pass {_AS_DATA_SET}."
        )
    return array


def _is_array_like(x: Any) -> bool:
    if isinstance(x, (tf.data.Dataset, keras.utils.Sequence)) or hasattr(x, "element_spec"):
        return False
    if isinstance(x, (np.ndarray, list, tuple, Mapping)) or tf.is_tensor(x):
        return True
    # h5py's data sets, for example.
    return hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "__getitem__")


def _refuse_other_kinds(x: Any) -> None:
    if isinstance(x, tf.data.Dataset) or hasattr(x, "element_spec") or hasattr(x, "__next__"):
        return
    if isinstance(x, keras.utils.Sequence):
        return
    kind = "nothing" if x is None else f"a {type(x).__module__}.{type(x).__name__}"
    remedy = f"Pass {_AS_DATA_SET}"
    if hasattr(x, "__iter__") and not isinstance(x, (str, bytes)):
        remedy = "Pass a generator of NumPy batches: (batch for batch in data)"
    if hasattr(x, "to_numpy"):
        remedy = "Pass table.to_numpy(), reshaped to (N, height, width, channels)"
    raise UserError(f"Expected {_TAKEN}; received: {kind}. {remedy}.")


def _images(x: Any, rules: Rules) -> Any:
    """Returns an array, a pair of arrays, or a canvas."""
    if isinstance(x, Mapping):
        form_of(x)
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


def _image_parts(images: Any) -> list[Any]:
    if isinstance(images, Mapping):
        return [images["image"]]
    return list(images) if isinstance(images, (tuple, list)) else [images]


def _check_images(images: Any, rules: Rules) -> int:
    """Checks arrays of images; returns how many there are."""
    counts = set()
    for part in _image_parts(images):
        pixel_values.check_type(part.dtype)
        _check_rank(part.shape, rules)
        counts.add(int(part.shape[0]))
    if len(counts) > 1:
        raise UserError(
            f"Expected two views of the same images; received: {sorted(counts)} images."
        )
    count = counts.pop()
    if count == 0:
        raise empty("an array of no images")
    for part in _image_parts(images):
        pixel_values.check_values(part, rules.value_range)
    return count


def _check_spec(part: Any, rules: Rules) -> None:
    if not isinstance(part, tf.TensorSpec):
        raise UserError(
            f"Expected images as a dense tensor; received: {part}. Pad or resize them to one size."
        )
    pixel_values.check_type(part.dtype)
    _check_rank(part.shape, rules)


def _check_rank(shape: Any, rules: Rules) -> None:
    rank = tf.TensorShape(shape).rank
    if rank == rules.rank - 1:
        raise UserError(
            f"Expected batches of images, {rules.rank} axes; received: shape {tuple(shape)}. Batch "
            "them (dataset.batch(256)), add the axis of channels to grey images "
            "(images[..., np.newaxis]), or the first axis to a single one (images[np.newaxis])."
        )
    if rank == 0:
        raise UserError("Expected a batch of images; received: a single number.")


def _checked_batch(batch: Any, rules: Rules) -> tuple[Any, ...]:
    """Returns a batch of a generator as (images,) or (images, labels), checked."""
    images, classes = prepare_arrays(*unpack(batch), rules)
    return (images,) if classes is None else (images, classes)


def _checked_batches(first: Any, rest: Iterator[Any], rules: Rules) -> Iterator[Any]:
    yield from itertools.chain([first], (_checked_batch(batch, rules) for batch in rest))
