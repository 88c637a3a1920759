"""A whole source decoded into memory, if there is enough of it."""

from __future__ import annotations

import math
import time

import numpy as np
import tensorflow as tf
from absl import logging

from simclr_tf.datasets.canvas import squash
from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.source import ImageSource, Key
from simclr_tf.datasets.tuning import untuned
from simclr_tf.devices.memory import available_memory, in_words
from simclr_tf.errors import UserError

_CACHE_SHARE = 0.8  # of the memory that is free when the cache is filled
_BYTES_BESIDE = 128  # an image's label and size, and Python's overhead for an array


def in_memory(source: ImageSource, canvas: int | None = None) -> InMemorySource:
    """Decodes a whole source into memory, in parallel.

    Args:
        source: the images. Unreadable ones are left out.
        canvas: squash the images to this side, and remember their sizes; None keeps them.

    Returns:
        A source that needs no decoding. One that is in memory already is returned as it is.

    Raises:
        UserError: the images take more than 80% of the memory that is free now, or none is
            readable.

    Example:
        >>> in_memory(open_source("/path/to/images", "train"), canvas=320)
    """
    if isinstance(source, InMemorySource):
        return source
    data = decoded_examples(source, canvas)
    logging.info("Decoding %d images of '%s' into memory ...", source.num_examples, source.name)
    started = time.monotonic()
    images, labels, sizes = _collect(source, data)
    logging.info("... done in %.1f s.", time.monotonic() - started)
    cached = InMemorySource(
        images,
        np.array(labels) if source.labelled else None,
        sizes=np.array(sizes),
        name=source.name,
        split=source.split,
        num_classes=source.num_classes,
        class_names=source.class_names,
    )
    cached.bad_images = source.bad_images
    return cached


def decoded_examples(source: ImageSource, canvas: int | None) -> tf.data.Dataset:
    """Returns all images, decoded in parallel, in the fixed order; unreadable ones are not 'ok'.

    Args:
        source: the images.
        canvas: squash them to this side; None keeps them.

    Returns:
        Elements as of `ImageSource.decode`.

    Raises:
        UserError: their number is unknown.
    """
    if source.num_examples is None:
        raise UserError(
            f"Expected a data set of known length to cache; received: '{source.name}', whose "
            "length is unknown. Pass num_examples, or do not cache."
        )

    def load(key: Key) -> dict[str, tf.Tensor]:
        min_side = None if canvas is None else 2 * canvas
        example = source.decode(key, min_side=min_side)
        if canvas is not None:
            example["image"] = squash(example["image"], canvas)
        return example

    return untuned(source.ordered_keys().map(load, tf.data.AUTOTUNE, deterministic=True))


def none_readable(source: ImageSource) -> UserError:
    """Returns the error of a source without any image that can be decoded."""
    return UserError(f"Expected readable images in '{source.name}'; received: none.")


def _collect(
    source: ImageSource, data: tf.data.Dataset
) -> tuple[np.ndarray | list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Returns the readable images, their labels and sizes; no image is in memory twice.

    Raises:
        UserError: they take more than their share of the free memory: before the first is decoded
            where all have one size, else at the image that is too many; or none is readable.
    """
    spec = data.element_spec["image"]
    free = available_memory()
    limit = math.inf if free is None else _CACHE_SHARE * free
    count = source.num_examples
    assert count is not None
    labels: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    whole: np.ndarray | None = None
    images: list[np.ndarray] = []
    held = 0
    if spec.shape.is_fully_defined():
        need = count * (spec.shape.num_elements() * spec.dtype.size + _BYTES_BESIDE)
        if need > limit:
            raise _too_large(source, f"{count} images that need {in_words(need)}", limit)
        whole = np.empty([count, *spec.shape], spec.dtype.as_numpy_dtype)
    with source.user_errors():
        for example in data.prefetch(8).as_numpy_iterator():
            if not example["ok"]:
                continue
            if whole is None:
                held += example["image"].nbytes + _BYTES_BESIDE
                if held > limit:
                    so_far = f"{len(images) + 1} of {count} images that take {in_words(held)}"
                    raise _too_large(source, so_far, limit)
                images.append(example["image"])
            else:
                whole[len(sizes)] = example["image"]
            sizes.append(example["size"])
            if source.labelled:
                labels.append(example["label"])
    if not sizes:
        raise none_readable(source)
    if whole is None and len({image.shape for image in images}) == 1:
        whole = np.empty([len(images), *images[0].shape], images[0].dtype)
        for index in range(len(images)):
            whole[index], images[index] = images[index], images[0][:0]
    return (images if whole is None else whole[: len(sizes)]), labels, sizes


def _too_large(source: ImageSource, received: str, limit: float) -> UserError:
    return UserError(
        f"Expected the decoded images of '{source.name}' to fit in memory ({in_words(limit)}, "
        f"{_CACHE_SHARE:.0%} of what is free); received: {received}. Do not pass --cache_dataset."
    )
