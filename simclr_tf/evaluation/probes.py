"""Probes of frozen features: trained ones beside untrained ones and raw pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from simclr_tf.evaluation.collected import FeatureCollection, has_equal_channels
from simclr_tf.evaluation.linear import MOST_ITERATIONS, logistic_regression, side_by_side
from simclr_tf.evaluation.scores import top_k
from simclr_tf.models.processor_batch_norm import runs_here

NEIGHBOURS = 5


def evaluate_model(
    model: keras.Model, dataset: tf.data.Dataset, steps: int | None = None
) -> dict[str, float]:
    """Evaluates a `SimCLR` or `Classifier`.

    Args:
        model: The model, compiled.
        dataset: Batches of (images, labels) or images, as `evaluation_dataset` makes them.
        steps: Batches to use; None: all.

    Returns:
        The release's names to values: `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`,
        `eval/regularization_loss`; without labels `eval/contrast_loss`, `eval/contrast_acc`,
        `eval/contrast_entropy`, or of a `Distiller` `eval/distill_loss`, `eval/teacher_agreement`.
    """
    results = model.evaluate(dataset, steps=steps, verbose=0, return_dict=True)
    kinds: tuple[tuple[str, ...], ...] = (
        ("label_top_1_accuracy", "label_top_5_accuracy", "regularization_loss"),
        ("contrast_loss", "contrast_acc", "contrast_entropy"),
        ("distill_loss", "teacher_agreement"),
    )
    wanted = next(names for names in kinds if names[0] in results)
    return {f"eval/{name}": float(np.mean(np.asarray(results[name]))) for name in wanted}


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
) -> float:
    """Test accuracy of logistic regression on frozen features; see `logistic_regression`.

    Args:
        train_features: (N, d).
        train_labels: (N,) class ids from 0 on.
        test_features: (M, d).
        test_labels: (M,).
        seed: Chooses the fifth of the training images that chooses the penalty.

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: One class only.

    Source: SimCLR section 4.2 and appendix B.8 (L-BFGS logistic regression).

    Example:
        >>> linear_probe(features, labels, test_features, test_labels)
    """
    found = logistic_regression(train_features, train_labels, test_features, seed=seed)
    if not found.converged:
        text = "Logistic regression stopped at %d iterations: its accuracy is approximate."
        logging.log_first_n(logging.WARNING, text, 1, MOST_ITERATIONS)
    return top_k(test_labels, found.class_scores, 1)


def nearest_neighbours(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    cosine: bool = True,
) -> float:
    """Test accuracy of a vote of the 5 nearest training images.

    Args:
        train_features: (N, d).
        train_labels: (N,) class ids.
        test_features: (M, d).
        test_labels: (M,).
        cosine: Cosine instead of Euclidean distance.

    Returns:
        Accuracy in [0, 1].

    Example:
        >>> nearest_neighbours(features, labels, test_features, test_labels)
    """
    from sklearn.neighbors import KNeighborsClassifier

    count = min(NEIGHBOURS, len(train_features))
    voters = KNeighborsClassifier(count, metric="cosine" if cosine else "euclidean")
    return float(voters.fit(train_features, train_labels).score(test_features, test_labels))


def compare_features(
    train: Mapping[str, np.ndarray],
    train_labels: np.ndarray,
    test: Mapping[str, np.ndarray],
    test_labels: np.ndarray,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compares kinds of features by linear probe and nearest neighbours.

    Args:
        train: Name -> (N, ...) features of the training images; images are flattened.
        train_labels: (N,) class ids.
        test: Name -> (M, ...) features of the test images.
        test_labels: (M,).
        seed: Chooses the held-out fifth of the probe.

    Returns:
        Name -> {`logistic_regression`: accuracy, `5_nearest_neighbours`: accuracy}.
    """
    names = sorted(train, key=lambda name: train[name].size, reverse=True)  # longest first

    def scores(name: str) -> dict[str, float]:
        return _scores(train[name], train_labels, test[name], test_labels, seed)

    with side_by_side([train[name] for name in names]) as pool:
        found = dict(zip(names, pool.map(scores, names), strict=True))
    return {name: found[name] for name in train}


def _scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Returns what `compare_features` does, of one kind of features."""
    grey = has_equal_channels(train) and has_equal_channels(test)
    known, unknown = _as_vectors(train, grey), _as_vectors(test, grey)
    return {
        "logistic_regression": linear_probe(known, train_labels, unknown, test_labels, seed),
        f"{NEIGHBOURS}_nearest_neighbours": nearest_neighbours(
            known, train_labels, unknown, test_labels, cosine=train.ndim != 4
        ),
    }


def compare_encoders(
    encoders: Mapping[str, keras.Model | None],
    train_data: tf.data.Dataset,
    test_data: tf.data.Dataset,
    seed: int = 0,
    max_bytes: int | None = None,
    notes: list[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Compares encoders by their features of the same images; see `compare_features`.

    Args:
        encoders: Name -> encoder of images (B, h, w, c); None stands for the raw pixels.
        train_data: Batches (images, labels), float32 (B, h, w, c) and integers (B,).
        test_data: Likewise.
        seed: Chooses the held-out fifth of the probe.
        max_bytes: Limit for features, pixels and the copies that scikit-learn makes; where they
            need more, the kind with the longest rows is left out. None: no limit.
        notes: Gets one line for each kind that was left out.

    Returns:
        As `compare_features`, without what was left out.

    Raises:
        ValueError: One class only, a feature that is not a number, or nothing fits into
            `max_bytes`.
    """
    collected = FeatureCollection({name: _inference(e) for name, e in encoders.items()}, max_bytes)
    (train, train_labels), (test, test_labels) = (
        collected.read(train_data),
        collected.read(test_data),
    )
    if notes is not None:
        notes += collected.notes
    train, test = ({name: part[name] for name in collected.names} for part in (train, test))
    return compare_features(train, train_labels, test, test_labels, seed=seed)


def _inference(encoder: keras.Model | None) -> Callable[[tf.Tensor], tf.Tensor]:
    if encoder is None:
        return lambda images: images

    def infer(images: tf.Tensor) -> tf.Tensor:
        with runs_here():
            return encoder(images, training=False)

    return tf.function(infer, reduce_retracing=True)


def _as_vectors(features: np.ndarray, grey: bool) -> np.ndarray:
    """Returns rows of float32 vectors; of grey images only one of three equal channels."""
    features = features[..., :1] if grey else features
    rows = features.reshape(len(features), math.prod(features.shape[1:]))
    return rows.astype(np.float32, copy=False)


def comparison_table(
    results: Mapping[str, Mapping[str, float]], online_name: str, online_accuracy: float
) -> str:
    """Returns the comparison as text, one row for each kind of features.

    Args:
        results: What `compare_features` returned.
        online_name: The row of the online linear head; it is added where the comparison left that
            kind out.
        online_accuracy: The test accuracy of the online linear head.
    """
    rows: dict[str, Mapping[str, float]] = {**results}
    rows.setdefault(online_name, {})
    width = max(len(name) for name in rows) + 2
    lines = [
        f"{'test accuracy':<{width}}{'online linear head':>20}"
        f"{'logistic regression':>21}{'5 nearest neighbours':>22}"
    ]
    for name, row in rows.items():
        online = f"{online_accuracy:.3f}" if name == online_name else "-"
        first, second = [f"{value:.3f}" for value in row.values()] or ["-", "-"]
        lines.append(f"{name:<{width}}{online:>20}{first:>21}{second:>22}")
    return "\n".join(lines)
