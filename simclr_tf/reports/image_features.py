"""Features of whole splits in memory, of an encoder, of its untrained twin, of raw pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.devices.memory import available_memory, in_words
from simclr_tf.errors import UserError
from simclr_tf.evaluation.collected import has_equal_channels
from simclr_tf.evaluation.protocols import FeatureSplit
from simclr_tf.features.extractor import Embeds, as_vectors, feature_batches
from simclr_tf.runs.building import view_options
from simclr_tf.typing import Json

_RAW_SIDE = 32  # pixels; what raw pixels are compared at
_VIEWED = 1024  # images whose views are compared
# Of the free memory; scikit-learn standardises a copy in float32 and fits in another.
_SHARE_OF_MEMORY, _COPIES = 0.8, 3


class RawPixels:
    """The images themselves as vectors, at most 32 pixels a side.

    Args:
        image_size: (height, width) in pixels of the images that are given.
        channels: Their channels.
    """

    def __init__(self, image_size: tuple[int, int], channels: int = 3) -> None:
        self.image_size = image_size
        self._side = (min(_RAW_SIDE, image_size[0]), min(_RAW_SIDE, image_size[1]))
        self.shape: tuple[int, ...] = (self._side[0] * self._side[1] * channels,)

    def __call__(self, images: Any) -> np.ndarray:
        small = tf.image.resize(images, self._side, "area").numpy()
        return small.reshape(len(small), -1)


def embed(source: ImageSource, extract: Embeds, batch_size: int, name: str) -> FeatureSplit:
    """Returns the features of all readable images of a source.

    Args:
        source: The images.
        extract: The encoder; maps (h, w, d) are averaged over space.
        batch_size: Images at a time.
        name: Of the progress bar.

    Raises:
        UserError: No image is readable, or the features do not fit into memory.
    """
    from tqdm import tqdm

    _check_memory(source, extract)
    features, labels = [], []
    with (
        source.user_errors(),
        tqdm(total=source.num_examples, desc=name, unit=" images", delay=2, leave=False) as bar,
    ):
        for columns, seen in feature_batches(source, extract, batch_size):
            features.append(as_vectors(columns["features"]))
            if "label" in columns:
                labels.append(columns["label"])
            bar.update(seen - bar.n)
    if not sum(map(len, features)):
        raise UserError(f"Expected readable images in '{source.name}'; received: none.")
    return FeatureSplit(np.concatenate(features), np.concatenate(labels) if labels else None)


def without_equal_channels(
    train: FeatureSplit, test: FeatureSplit
) -> tuple[FeatureSplit, FeatureSplit]:
    """Returns raw pixels of grey images with one channel in place of three equal ones."""
    parts = (train, test)
    pixels = [part.features.reshape(len(part.features), 1, -1, 3) for part in parts]
    if not all(map(has_equal_channels, pixels)):
        return train, test
    first, second = (np.ascontiguousarray(p[:, 0, :, 0]) for p in pixels)
    return FeatureSplit(first, train.labels), FeatureSplit(second, test.labels)


def two_views(
    source: ImageSource, extract: Embeds, settings: Json, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of two augmented views of some images, each (M, d).

    Args:
        source: The images; as many as 1,024 are drawn.
        extract: The encoder.
        settings: Of the run that trained it: its augmentation; empty: SimCLR's own.
        seed: Of the draws.
    """
    chosen = drawn(source.num_examples or 0, _VIEWED, seed)
    some = source if chosen is None else source.subset(chosen)
    count = some.num_examples or 0
    height, width = extract.image_size
    augment = SimCLRAugment(**_options(settings, (height, width)))
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    batch = min(64, count)
    batches = training_dataset(some, batch_size=batch, image_size=max(height, width), seed=seed)
    with some.user_errors():
        for number, (inputs, *_) in enumerate(batches.take(max(1, count // batch))):
            for view, part in enumerate(parts):
                drawn_by = tf.constant([seed, 2 * number + view], tf.int32)
                part.append(extract(augment(inputs, seed=drawn_by)))
    first, second = (as_vectors(np.concatenate(part)) for part in parts)
    return first, second


def drawn(count: int, most: int, seed: int) -> np.ndarray | None:
    """Returns ascending positions of `most` of `count` images; None where all are taken.

    Args:
        count: Images there are.
        most: Images at most; 0: all.
        seed: Of the draw.

    Example:
        >>> drawn(10, 0, seed=0) is None
        True
    """
    if not most or count <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _options(settings: Json, image_size: tuple[int, int]) -> Json:
    if "augmentations" not in settings:
        return {"image_size": image_size}
    return {**view_options(Config.from_settings(settings)), "image_size": image_size}


def _check_memory(source: ImageSource, extract: Embeds) -> None:
    free = available_memory()
    if free is None or not source.num_examples:
        return
    row = 4 * _COPIES * (extract.shape[-1] if len(extract.shape) == 3 else math.prod(extract.shape))
    needed = row * source.num_examples
    if needed > _SHARE_OF_MEMORY * free:
        fits = int(_SHARE_OF_MEMORY * free / row)
        raise UserError(
            f"Expected features that fit into memory; {source.num_examples:,} images need "
            f"{in_words(needed)} with their copies, {in_words(free)} are free. "
            f"Pass --max_images={fits}."
        )
