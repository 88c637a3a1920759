"""Features of a whole data set, of several encoders at once, within a limit of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from simclr_tf.evaluation.linear import fit_side_by_side

# Copies that scikit-learn makes of one kind of features at a time, or of small ones together: the
# training and validation parts, their standardised copy, and one more while it fits.
_COPIES = 3
_FLOAT_BYTES = 4


def has_equal_channels(images: np.ndarray) -> bool:
    """Returns whether all images, (N, h, w, 3), are grey: three equal channels."""
    if images.ndim != 4 or images.shape[-1] != 3:
        return False
    blocks = (images[start : start + 256] for start in range(0, len(images), 256))
    return all(
        np.array_equal(x[..., 0], x[..., 1]) and np.array_equal(x[..., 0], x[..., 2])
        for x in blocks
    )


class FeatureCollection:
    """Reads data sets and keeps each kind of feature, as far as they fit.

    Grey images are kept with one channel, unless others in the same kind are in colour.

    Args:
        infer: Name -> function from images (B, h, w, c) to features (B, ...).
        max_bytes: Limit for what is kept and for scikit-learn's copies; None: no limit.

    Attributes:
        notes: A line for each kind that was left out.
    """

    def __init__(
        self,
        infer: Mapping[str, Callable[[tf.Tensor], tf.Tensor]],
        max_bytes: int | None = None,
    ) -> None:
        self._infer, self._max_bytes = dict(infer), max_bytes
        self._rows = 0
        self._row_size = dict.fromkeys(infer, 0)
        self.notes: list[str] = []

    @property
    def names(self) -> list[str]:
        """The kinds that are still kept."""
        return list(self._infer)

    def read(self, dataset: tf.data.Dataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns name -> (N, ...) float32 features and the labels (N,) of a data set.

        Raises:
            ValueError: Nothing fits into `max_bytes`.
        """
        kept: dict[str, list[np.ndarray]] = {name: [] for name in self._infer}
        labels = []
        for images, batch_labels in dataset:
            labels.append(np.asarray(batch_labels))
            self._rows += len(labels[-1])
            for name in self.names:
                values = np.asarray(tf.cast(self._infer[name](images), tf.float32))
                if has_equal_channels(values):
                    values = np.ascontiguousarray(values[..., :1])
                size = math.prod(values.shape[1:])
                self._row_size[name] = max(size, self._row_size[name])
                kept[name].append(values)
            self._keep_below_limit(kept)
        return {name: _joined(parts) for name, parts in kept.items()}, np.concatenate(labels)

    def _keep_below_limit(self, kept: dict[str, list[np.ndarray]]) -> None:
        while self._max_bytes is not None and self._needed() > self._max_bytes:
            largest = max(self._infer, key=lambda name: self._row_size[name])
            need = f"{self._rows} images or more need {_size(self._needed())}"
            allowed = f"{_size(self._max_bytes)} are allowed"
            del self._infer[largest], self._row_size[largest]
            kept.pop(largest, None)
            if not self._infer:
                raise ValueError(f"{need}, and {allowed}; compare fewer images.")
            self.notes.append(f"Left out of the comparison: {largest}; with it {need}, {allowed}.")

    def _needed(self) -> int:
        sizes = self._row_size.values()
        together = fit_side_by_side(self._rows * sum(sizes))
        copied = sum(sizes) if together else max(sizes, default=0)
        return self._rows * _FLOAT_BYTES * (sum(sizes) + _COPIES * copied)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Joins batches, freeing each once it is copied: the whole is never in memory twice."""
    if parts[0].ndim == 4:
        shape = (*parts[0].shape[1:-1], max(part.shape[-1] for part in parts))
    else:
        shape = parts[0].shape[1:]
    place = sum(map(len, parts))
    joined = np.empty((place, *shape), np.float32)
    while parts:
        part = parts.pop()
        place -= len(part)
        joined[place : place + len(part)] = part
    return joined


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
