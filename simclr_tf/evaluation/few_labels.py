"""How few labels suffice: logistic regression on a share of them, or on some of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from simclr_tf.evaluation.linear import MOST_ITERATIONS, blas_threads

SHARES = (0.01, 0.1)
SHOTS = (1, 5, 10)
SEEDS = (0, 1, 2, 3, 4)
# With so few labels no validation part can choose; weak enough to separate, strong enough for one.
PENALTY = 1.0


class FewLabels(TypedDict):
    """Accuracy with few labels over several draws of them."""

    labels: int
    mean: float
    spread: float
    accuracies: list[float]


def few_label_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    shares: Sequence[float] = SHARES,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    penalty: float = PENALTY,
) -> dict[str, FewLabels]:
    """Test accuracy of logistic regression that sees few of the labels.

    Features are standardised by all training images: that takes no labels.

    Args:
        train_features: (N, d).
        train_labels: (N,) class ids.
        test_features: (M, d).
        test_labels: (M,).
        shares: Shares of the labels, of the same shares of classes, at least one a class.
        shots: Labels of each class.
        seeds: Of the draws.
        penalty: Of the squared norm, see `logistic_regression`; no validation part can choose it.

    Returns:
        By name (`1%`, `10%`, `1 shot`, `5 shots`, ...) the number of labels, mean, standard
        deviation over the seeds, and each accuracy. What the training images can't give is left
        out: more shots than a class has images, or a share that leaves fewer than one a class.

    Raises:
        ValueError: One class only.

    Source: SimCLR, section 6 and table 7 (1% and 10%); shots as in big_vision and DINOv2.

    Example:
        >>> few_label_accuracy(features, labels, test_features, test_labels)["1 shot"]["mean"]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from simclr_tf.datasets.labelled import choose_labelled  # it brings TensorFlow

    classes, counts = np.unique(train_labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError("Expected two classes or more; received: one. Nothing to tell apart.")
    scaler = StandardScaler().fit(train_features)
    known, unknown = scaler.transform(train_features), scaler.transform(test_features)
    draws: dict[str, list[np.ndarray]] = {}
    for share in shares:
        if share * len(train_labels) >= len(classes):
            draws[f"{100 * share:g}%"] = [choose_labelled(train_labels, share, s) for s in seeds]
    for shot in shots:
        if shot <= counts.min():
            name = f"{shot} shot{'s' if shot > 1 else ''}"
            draws[name] = [_some_of_each(train_labels, shot, s) for s in seeds]
    results: dict[str, FewLabels] = {}
    for name, drawn in draws.items():
        accuracies = []
        with blas_threads(known):
            for chosen in drawn:
                probe = LogisticRegression(C=1 / penalty, max_iter=MOST_ITERATIONS)
                probe.fit(known[chosen], train_labels[chosen])
                accuracies.append(float(probe.score(unknown, test_labels)))
        results[name] = {
            "labels": len(drawn[0]),
            "mean": float(np.mean(accuracies)),
            "spread": float(np.std(accuracies)),
            "accuracies": accuracies,
        }
    return results


def _some_of_each(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)]
    return np.sort(np.concatenate(chosen))
