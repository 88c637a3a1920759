"""ImageSource: what the input pipeline needs to know about a set of images."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from absl import logging

from simclr_tf.datasets.canvas import resize_to_uint8, to_uint8
from simclr_tf.datasets.shuffling import random_order
from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError

Key: TypeAlias = "tf.Tensor | dict[str, tf.Tensor]"
"""What a source hands out before anything is decoded: an index, a record or an element."""

_NAMED_BAD_IMAGES = 20  # further ones are counted, not named, in the log


class ImageSource(abc.ABC):
    """A set of images, labelled or not, that `simclr_tf.datasets.pipeline` turns into batches.

    A source hands out keys (cheap: an index or an undecoded record) in a fixed or a shuffled
    order, and decodes a key into an example later. So a shuffle buffer holds no decoded images,
    and examples can be skipped or given to another worker before anything is decoded.

    Attributes:
        name: the data set's name or folder.
        split: the split expression that was asked for.
        num_examples: number of images, or None where it is unknown (a user's tf.data).
        num_classes: number of classes, or None for images without labels.
        class_names: names by class id, or None.
        image_shape: (height, width, channels); None where images differ.
        bad_images: (path, reason) of the unreadable images found so far.
        flat_images: paths of the files that were found to be one flat colour; they are kept.
        left_out: folders below the data set's that are not data: they hold a run, an export or
            features.
        described_by: files that say which images there are and what their labels are: a table, a
            list.
        error: the UserError to show if reading stopped on an unreadable image, else None.
        decodes_batches: whether `decode` also takes a vector of keys.

    Example:
        >>> source = open_source("mnist_5k", "train")
        >>> source.num_examples, source.num_classes, source.image_shape
        (4000, 10, (28, 28, 3))
    """

    decodes_batches = False

    def __init__(
        self,
        *,
        name: str,
        split: str,
        num_examples: int | None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        image_shape: tuple[int | None, int | None, int | None] = (None, None, 3),
    ) -> None:
        self.name = name
        self.split = split
        self.num_examples = num_examples
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names is not None else None
        self.image_shape = image_shape
        self.bad_images: list[tuple[str, str]] = []
        self._bad_paths: set[str] = set()
        self.flat_images: set[str] = set()
        self.left_out: list[str] = []
        self.described_by: list[str] = []
        self.error: UserError | None = None

    @property
    def labelled(self) -> bool:
        """Whether examples carry a label."""
        return self.num_classes is not None

    @property
    def static_shape(self) -> bool:
        """Whether all images share one height and width."""
        return None not in self.image_shape[:2]

    @abc.abstractmethod
    def ordered_keys(self) -> tf.data.Dataset:
        """Returns the key of every example once, always in the same order."""

    @abc.abstractmethod
    def shuffled_keys(self, epoch: tf.Tensor, seed: int, buffer_bytes: int) -> tf.data.Dataset:
        """Returns the key of every example once, in an order fixed by seed and epoch.

        Args:
            epoch: int64 scalar; may be symbolic.
            seed: the run's seed.
            buffer_bytes: memory that a shuffle buffer may take.
        """

    @abc.abstractmethod
    def decode(
        self, key: Key, *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Decodes one example.

        Args:
            key: an element of `ordered_keys()`.
            min_side: the caller needs no more than this height and width: a JPEG may be decoded
                at a half, a quarter or an eighth of its size. 'size' is still the original size.
            replace_bad: put the next readable image in the place of an unreadable one, so that
                the number of examples, and with it exact resuming, is unchanged.

        Returns:
            'image' (h, w, c), uint8 or float32 in [0, 1]; 'size' int32 (height, width) of the
            original; 'ok', False for an unreadable image; where labelled, 'label' int64.
        """

    def read_labels(self) -> np.ndarray:
        """Returns the labels, int64 (N,), in the fixed order.

        Raises:
            UserError: There are none.
        """
        self._require_labels()
        return self._read_labels()

    def _require_labels(self) -> None:
        if not self.labelled:
            raise UserError(
                f"Expected a data set with labels; received: '{self.name}', which has none. Sort "
                "its images into one folder per class, or leave out what asks for labels."
            )

    def _read_labels(self) -> np.ndarray:
        labels = self.ordered_keys().map(lambda key: self.decode(key)["label"], tf.data.AUTOTUNE)
        return np.fromiter(untuned(labels).as_numpy_iterator(), np.int64)

    @abc.abstractmethod
    def subset(self, positions: np.ndarray) -> ImageSource:
        """Returns a source of only the images at these positions of the fixed order.

        Args:
            positions: int64 (n,), ascending.
        """

    @abc.abstractmethod
    def hide_labels(self, shown: np.ndarray) -> ImageSource:
        """Returns a source of the same images whose labels are -1 but at these positions.

        Args:
            shown: int64 (n,), positions in the fixed order.

        Raises:
            UserError: There are no labels.
        """

    def file_names(self) -> list[str] | None:
        """Returns the images' files in the fixed order; None where an image is no file."""
        return None

    def files_behind(self) -> list[str]:
        """Returns the files that hold the images or say which there are, as far as they are known.

        Where one of them changes, the images may be others.
        """
        return []

    def image_key(self, *said: object) -> str | None:
        """Returns a checksum of what decides on the decoded images and their order.

        Labels are no part of it, nor is the name. A file counts by its path, size and time.

        Args:
            *said: what else decides.

        Returns:
            Hexadecimal digits; None where nothing tells whether the images have changed.
        """
        del said
        return None

    def findings(self) -> tuple[list[tuple[int, str]], list[int]]:
        """Returns what passes over the images have found, for `recall`.

        Returns:
            (position, reason) of unreadable images; positions of images of one flat colour.
        """
        return [], []

    def recall(self, bad: Sequence[tuple[int, str]], flat: Sequence[int]) -> None:
        """Takes up what an earlier pass over the same images has found; see `findings`."""
        del bad, flat

    def notices(self) -> list[str]:
        """Returns what a user should know of the images read so far, one line each."""
        lines = []
        for path, reason in self.bad_images[:1]:
            count = len(self.bad_images)
            lines.append(f"Skipped {count} unreadable image(s), as {path}: {reason}.")
        if self.flat_images:
            lines.append(flat_line(len(self.flat_images), min(self.flat_images)))
        return lines

    def raise_if_bad(self) -> None:
        """Raises the UserError of the unreadable image that stopped the run, if one did."""
        if self.error is not None:
            raise self.error

    @contextlib.contextmanager
    def user_errors(self) -> Iterator[None]:
        """Turns the failure of a pipeline that stopped on an unreadable image into its UserError.

        An exception raised while tf.data decodes arrives as some `tf.errors.OpError` with a long
        message. Put the loop that reads batches inside this context.

        Example:
            >>> with source.user_errors():
            ...     model.fit(training_dataset(source, ...))
        """
        try:
            yield
        except Exception as error:  # its class depends on the reader: tf.errors.* or Keras's
            if self.error is not None and not isinstance(error, UserError):
                raise self.error from error
            raise

    def as_numpy(
        self, limit: int | None = None, image_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the images as one array, for baselines on small sets.

        Args:
            limit: at most this many images, the first of the fixed order.
            image_size: resize (bicubic, antialiased, squashed to a square); needed where images
                differ in size.

        Returns:
            uint8 images (N, h, w, channels) and int64 labels (N,), or None without labels.

        Raises:
            UserError: the images differ in size and no `image_size` is given.
        """
        if image_size is None and not self.static_shape:
            raise UserError(
                f"Expected images of one size in '{self.name}'; received: images of several "
                "sizes. Pass image_size."
            )
        keys = self.ordered_keys() if limit is None else self.ordered_keys().take(limit)

        def decode(key: Key) -> dict[str, tf.Tensor]:
            example = self.decode(key)
            image = example["image"]
            if image_size is not None and image.shape[:2] != (image_size, image_size):
                image = resize_to_uint8(image, image_size)
            return {**example, "image": to_uint8(image)}

        with self.user_errors():
            data = untuned(keys.map(decode, tf.data.AUTOTUNE))
            examples = list(data.as_numpy_iterator())
        examples = [example for example in examples if example["ok"]]
        images = np.stack([example["image"] for example in examples])
        labels = np.stack([e["label"] for e in examples]) if self.labelled else None
        return images, labels

    def _note_bad_image(self, path: str, reason: str) -> None:
        """Counts an unreadable image, and names it in the log, once."""
        if len(self._bad_paths) != len(self.bad_images):  # a copy of a source has its own list
            self._bad_paths = {known for known, _ in self.bad_images}
        if path in self._bad_paths:
            return
        self._bad_paths.add(path)
        self.bad_images.append((path, reason))
        if len(self.bad_images) <= _NAMED_BAD_IMAGES:
            logging.warning("Skipped an unreadable image: %s (%s)", path, reason)
        elif len(self.bad_images) == _NAMED_BAD_IMAGES + 1:
            logging.warning("Further unreadable images are skipped without naming them here.")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, split={self.split!r}, "
            f"num_examples={self.num_examples}, num_classes={self.num_classes}, "
            f"image_shape={self.image_shape})"
        )


class IndexedSource(ImageSource):
    """A source whose keys are int64 indices: every epoch is a full permutation."""

    def ordered_keys(self) -> tf.data.Dataset:
        """Returns the indices in order."""
        return tf.data.Dataset.range(self.num_examples)

    def shuffled_keys(self, epoch: tf.Tensor, seed: int, buffer_bytes: int) -> tf.data.Dataset:
        """Returns all indices in an order fixed by seed and epoch; needs 8 bytes an image."""
        del buffer_bytes
        order = random_order(self.num_examples, seed, epoch)
        return tf.data.Dataset.from_tensor_slices(tf.cast(order, tf.int64))


def flat_line(count: int, first: str) -> str:
    """Returns the line that reports images of one flat colour.

    Args:
        count: how many there are.
        first: the first of them.
    """
    return (
        f"Kept {count} image(s) that are one flat colour, the first being {first}. If it is a "
        "drawing on a transparent ground, another --transparent shows it."
    )
