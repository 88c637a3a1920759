"""Photographs in a folder, and their batches with and without a cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from image_files import noise
from numbered_images import N, options

from simclr_tf.datasets import ImageSource, open_source
from simclr_tf.datasets.disk_cache import OnDisk, on_disk
from simclr_tf.datasets.pipeline import training_dataset


def photos(
    root: Path, count: int = N, same: bool = False, classes: bool = True, ending: str = "png"
) -> Callable[[], ImageSource]:
    """Writes noise of one size or of many; returns what opens it."""
    for number in range(count):
        size = (40, 30) if same else (30 + number, 40 - number)
        noise(root / ("ab"[number % 2] if classes else "") / f"{number}.{ending}", number, size)
    return lambda **given: open_source(str(root), "all", eval_fraction=0.5, **given)


def taken(source: ImageSource, batches: int = 12, **changes: object) -> list[np.ndarray]:
    data = training_dataset(source, **options(**changes))
    return [part.numpy() for batch in data.take(batches) for part in tf.nest.flatten(batch)]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def kept(source: ImageSource, where: Path, canvas: int | None = 8) -> tuple[ImageSource, list[str]]:
    said: list[str] = []
    return on_disk(source, canvas, OnDisk(str(where), said.append)), said
