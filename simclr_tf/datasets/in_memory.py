"""Decoded images in memory, by index: the embedded digits, arrays, and what a cache has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.datasets.callbacks import call_python
from simclr_tf.datasets.positions import only_at
from simclr_tf.datasets.source import IndexedSource
from simclr_tf.images import pixel_values


class InMemorySource(IndexedSource):
    """Decoded images in memory.

    Args:
        images: array (N, h, w, c), uint8, uint16 or float in [0, 1], or a list of N such images of
            different sizes.
        labels: int class ids (N,), or None.
        sizes: int32 (N, 2), the original heights and widths, where they are not those of `images`.
        **description: `name`, `split`, `num_classes`, `class_names`.

    Raises:
        UserError: images of another type or out of range.

    Example:
        >>> InMemorySource(np.zeros((8, 28, 28, 3), np.uint8), None, name="zeros", split="train")
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray | None,
        *,
        sizes: np.ndarray | None = None,
        **description: Any,
    ) -> None:
        height: int | None = None
        width: int | None = None
        stacked = isinstance(images, np.ndarray)
        if isinstance(images, np.ndarray):
            height, width = images.shape[1:3]
        super().__init__(
            num_examples=len(images),
            image_shape=(height, width, images[0].shape[-1]),
            **description,
        )
        self.decodes_batches = stacked
        for part in [images] if stacked else images:
            pixel_values.check_values(part)
        if isinstance(images, np.ndarray) and images.dtype.kind == "f":
            images = images.astype(np.float32, copy=False)
        # Kept as NumPy arrays: tf.data copies a tensor that its functions read, once for each
        # pipeline, and it may not fit on a device.
        self._images = images
        with tf.device("CPU:0"):
            self._labels = None if labels is None else tf.constant(labels, tf.int64)
            self._sizes = None if sizes is None else tf.constant(sizes, tf.int32)

    def decode(
        self, key: tf.Tensor, *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Looks up one index, or, where all images share a size, a vector of indices."""
        del min_side, replace_bad  # images are in memory already, and none is broken
        key = tf.convert_to_tensor(key, tf.int64)
        image = call_python(self._at, [key], tf.as_dtype(self._images[0].dtype))
        image = tf.ensure_shape(image, [*key.shape, *self.image_shape])
        size = tf.shape(image)[-3:-1] if self._sizes is None else tf.gather(self._sizes, key)
        size = tf.broadcast_to(size, tf.concat([tf.shape(key), [2]], 0))
        example = {"image": image, "size": size, "ok": tf.ones_like(key, tf.bool)}
        if self._labels is not None:
            example["label"] = tf.gather(self._labels, key)
        return example

    def _at(self, key: np.ndarray) -> np.ndarray:
        """Returns the image of one index, or the images of a vector of indices."""
        if isinstance(self._images, np.ndarray):
            return np.take(self._images, key, axis=0)
        return self._images[int(key)]

    def _read_labels(self) -> np.ndarray:
        assert self._labels is not None
        return self._labels.numpy()

    def subset(self, positions: np.ndarray) -> InMemorySource:
        """Returns a source of only the images at these positions."""
        chosen = copy.copy(self)
        chosen.num_examples = len(positions)
        chosen._choose_images(positions)
        with tf.device("CPU:0"):
            for name in ("_labels", "_sizes"):
                values = getattr(self, name)
                setattr(chosen, name, None if values is None else tf.gather(values, positions))
        return chosen

    def _choose_images(self, positions: np.ndarray) -> None:
        """Keeps only the images at these positions."""
        if isinstance(self._images, np.ndarray):
            self._images = self._images[positions]
        else:
            self._images = [self._images[i] for i in positions]

    def hide_labels(self, shown: np.ndarray) -> InMemorySource:
        """Returns a source of the same images whose labels are -1 but at these positions."""
        hidden = copy.copy(self)
        with tf.device("CPU:0"):
            hidden._labels = tf.constant(only_at(self.read_labels(), shown))
        return hidden
