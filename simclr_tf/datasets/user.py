"""A user's `tf.data.Dataset` as a source."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.datasets.positions import flags_at, keep_flagged, on_host, only_at
from simclr_tf.datasets.shuffling import shuffle_for_epoch
from simclr_tf.datasets.source import ImageSource
from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values

_MOST_SLOTS = 100_000  # of the shuffle buffer, where the number of images is unknown
_GUESSED_IMAGE_BYTES = 512 * 512 * 3  # for a shuffle buffer over images of unknown size


def source_from_dataset(
    dataset: tf.data.Dataset,
    *,
    num_classes: int | None = None,
    num_examples: int | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "tf.data",
    split: str = "train",
) -> UserSource:
    """Wraps unbatched images, with or without labels, so that the pipelines here can use them.

    Args:
        dataset: elements `(image, label)`, `image`, `(image,)` or
            `{"image": ..., "label": ...}`; image (h, w, c), uint8, uint16 or float in
            [0, 1]; label an integer scalar. It must give the same elements each time to
            resume exactly.
        num_classes: number of classes; needed where there are labels.
        num_examples: number of images, where the data set does not know its own.
        class_names: names by class id.
        name: used in messages.
        split: used in messages.

    Returns:
        A source for `training_dataset` and `evaluation_dataset`.

    Raises:
        UserError: the elements are no single images, or labels come without `num_classes`.

    Example:
        >>> data = tf.data.Dataset.from_tensor_slices((images, labels))
        >>> source = source_from_dataset(data, num_classes=10)
    """
    spec = dataset.element_spec
    if isinstance(spec, dict):
        parts = [spec.get("image"), spec.get("label")]
    else:
        parts = list(spec) if isinstance(spec, (tuple, list)) else [spec]
        parts += [None] * (2 - len(parts))
    image, label = parts[0], parts[1]
    valid = (
        len(parts) == 2
        and isinstance(image, tf.TensorSpec)
        and image.shape.rank == 3
        and (image.dtype in (tf.uint8, tf.uint16) or image.dtype.is_floating)
        and (label is None or (isinstance(label, tf.TensorSpec) and label.dtype.is_integer))
        and (label is None or label.shape.rank == 0)
    )
    if not valid:
        raise UserError(
            "Expected unbatched elements (image, label) or image, image (height, width, channels) "
            f"uint8, uint16 or float, label an integer; received: {spec}. A batched data set needs "
            ".unbatch()."
        )
    if label is not None and num_classes is None:
        raise UserError("Expected num_classes for a data set with labels; received: None.")
    if num_examples is None:
        cardinality = int(dataset.cardinality())
        num_examples = cardinality if cardinality >= 0 else None
    return UserSource(
        dataset,
        has_label=label is not None,
        image=image,
        name=name,
        split=split,
        num_examples=num_examples,
        num_classes=num_classes if label is not None else None,
        class_names=class_names,
    )


class UserSource(ImageSource):
    """Elements of a user's data set; a key is the element itself."""

    def __init__(
        self, dataset: tf.data.Dataset, *, has_label: bool, image: tf.TensorSpec, **description: Any
    ) -> None:
        super().__init__(image_shape=tuple(image.shape.as_list()), **description)
        self._dataset = dataset.map(lambda *element: _flat(element, has_label))
        self._labels: np.ndarray | None = None  # int64 (N,), once they are read
        size = image.shape.num_elements()
        self._image_bytes = _GUESSED_IMAGE_BYTES if size is None else size * image.dtype.size

    def ordered_keys(self) -> tf.data.Dataset:
        """Returns the elements in the user's order."""
        return self._dataset

    def shuffled_keys(self, epoch: tf.Tensor, seed: int, buffer_bytes: int) -> tf.data.Dataset:
        """Returns the elements shuffled through a buffer of about `buffer_bytes`."""
        # tf.data allocates the whole buffer at once: tiny images must not ask for a billion slots.
        buffer = min(buffer_bytes // self._image_bytes, self.num_examples or _MOST_SLOTS)
        buffer = max(1, buffer)
        return shuffle_for_epoch(self._dataset, buffer, seed, epoch)

    def decode(
        self, key: dict[str, tf.Tensor], *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Names the parts of an element."""
        del min_side, replace_bad
        image = key["image"]
        if image.dtype.is_floating:
            image = tf.cast(pixel_values.checked(image), tf.float32)
        example = {"image": image, "size": tf.shape(image)[:2], "ok": tf.constant(True)}
        if self.labelled:
            example["label"] = tf.cast(key["label"], tf.int64)
        return example

    def _read_labels(self) -> np.ndarray:
        """Reads all elements once, at the first call."""
        if self._labels is None:
            labels = self._dataset.map(lambda element: tf.cast(element["label"], tf.int64))
            self._labels = np.fromiter(untuned(labels).as_numpy_iterator(), np.int64)
        return self._labels

    def subset(self, positions: np.ndarray) -> UserSource:
        """Returns a source of only the elements at these positions.

        Each pass reads the user's data set once, up to the last of them.
        """
        chosen = copy.copy(self)
        chosen._dataset = keep_flagged(self._dataset, flags_at(positions))
        chosen._labels = None if self._labels is None else self._labels[positions]
        chosen.num_examples = len(positions)
        return chosen

    def hide_labels(self, shown: np.ndarray) -> UserSource:
        """Returns a source of the same elements whose labels are -1 but at these positions."""
        self._require_labels()
        hidden = copy.copy(self)
        flags = on_host(flags_at(shown))
        count = tf.size(flags, tf.int64)

        def hide(position: tf.Tensor, element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            label = tf.cast(element["label"], tf.int64)
            kept = tf.cond(position < count, lambda: flags[position], lambda: False)
            return {**element, "label": tf.where(kept, label, -1)}

        hidden._dataset = self._dataset.enumerate().map(hide)
        hidden._labels = None if self._labels is None else only_at(self._labels, shown)
        return hidden


def _flat(
    element: tuple[tf.Tensor | dict[str, tf.Tensor], ...], has_label: bool
) -> dict[str, tf.Tensor]:
    """Returns an element of any of the allowed forms as a dict."""
    if isinstance(element[0], dict):
        element = (element[0]["image"], element[0].get("label"))
    return {"image": element[0], "label": element[1]} if has_label else {"image": element[0]}
