"""Figures of the representation while it is trained: nearest neighbours, rank, spread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.evaluation.health import feature_health
from simclr_tf.evaluation.neighbours import knn_scores
from simclr_tf.models.processor_batch_norm import runs_here
from simclr_tf.typing import Features, Images, Logs

NEIGHBOURS, TEMPERATURE = 20, 0.07
# Name -> whether larger is better: what early stopping may watch.
FIGURES = {"knn_top_1": True, "effective_rank": True, "spread": True, "uniformity": False}


def online_figures(
    encoder: Callable[[Images], Features],
    bank: tf.data.Dataset,
    queries: tf.data.Dataset,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> dict[str, float]:
    """Measures an encoder on a few images: cheap enough to repeat while it is trained.

    Args:
        encoder: Images (B, h, w, c) -> features (B, d), in inference mode.
        bank: Batches of (images, labels), or (images,) without labels: the neighbours.
        queries: Likewise: the images that are classified by their neighbours.
        neighbours: k; at most the images of the bank.
        temperature: T of the votes exp(s / T).

    Returns:
        `knn_top_1` (only where both have labels), and of the queries' features `effective_rank`,
        `spread` and `uniformity`, see `feature_health`. Features that are not numbers give none.

    Example:
        >>> online_figures(model.encoder, bank, queries)['knn_top_1']
        0.91
    """
    features, labels = _collect(encoder, queries)
    if len(features) < 2 or not np.isfinite(features).all():
        return {}
    health = feature_health(features)
    figures = {name: getattr(health, name) for name in ("effective_rank", "spread", "uniformity")}
    if labels is None or not (labels >= 0).any():
        return figures
    known, known_labels = _collect(encoder, bank)
    if known_labels is None or not np.isfinite(known).all() or not (known_labels >= 0).any():
        return figures
    # -1 is no class: the label is not known.
    features, labels = features[labels >= 0], labels[labels >= 0]
    known, known_labels = known[known_labels >= 0], known_labels[known_labels >= 0]
    k = min(neighbours, len(known))
    classes = int(max(known_labels.max(), labels.max())) + 1
    ((_, _, votes),) = knn_scores(known, known_labels, features, [k], [temperature], classes)
    return {"knn_top_1": float(np.mean(votes.argmax(axis=1) == labels)), **figures}


class FeatureMonitor(keras.callbacks.Callback):
    """Adds figures of the representation to the logs of `fit`, every few epochs.

    They are in the history, in TensorBoard and in reach of `keras.callbacks.EarlyStopping`, where
    that stands behind this callback. The first epoch is measured; between two measurements the
    logs repeat the last.

    Args:
        bank: Batches of (images, labels) whose neighbours vote; without labels only the figures
            that need none are measured. float32 in [0, 1], (B, h, w, c).
        queries: Likewise, of other images. It may be another data set than the training's.
        every: Epochs between measurements.
        neighbours: k.
        temperature: T of the votes.

    Example:
        >>> monitor = FeatureMonitor(bank, queries, every=5)
        >>> stop = keras.callbacks.EarlyStopping("knn_top_1", mode="max", patience=20)
        >>> model.fit(images, epochs=100, callbacks=[monitor, stop])
    """

    def __init__(
        self,
        bank: tf.data.Dataset,
        queries: tf.data.Dataset,
        every: int = 1,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"Expected every of at least 1 epoch; received: {every}.")
        self._bank, self._queries, self._every = bank, queries, every
        self._neighbours, self._temperature = neighbours, temperature
        self._encode: Callable[[Images], Features] | None = None
        self._last: dict[str, float] = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch % self._every == 0 or not self._last:
            self._last = self.measure()
        if logs is not None:
            logs.update(self._last)

    def measure(self) -> dict[str, float]:
        """Returns the figures of the model as it is."""
        if self._encode is None:
            self._encode = inference(self.model.encoder)
        return online_figures(
            self._encode, self._bank, self._queries, self._neighbours, self._temperature
        )


def inference(encoder: keras.Model) -> Callable[[Images], Features]:
    """Returns an encoder as a traced function in inference mode."""

    def infer(images: Images) -> Features:
        with runs_here():
            return tf.cast(encoder(images, training=False), tf.float32)

    return tf.function(infer, reduce_retracing=True, autograph=False)


def _collect(
    encoder: Callable[[Images], Features], batches: tf.data.Dataset
) -> tuple[np.ndarray, np.ndarray | None]:
    features, labels = [], []
    for images, *rest in batches:
        features.append(np.asarray(encoder(images)))
        if rest:
            labels.append(np.asarray(rest[0]))
    joined = np.concatenate(features) if features else np.zeros((0, 1), np.float32)
    return joined, np.concatenate(labels) if labels else None
