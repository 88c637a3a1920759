"""Scores of a classification: top-1, top-5, per class, precision, recall, F1, confusion."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

MOST_LISTED = 1000  # classes; a larger confusion matrix is no text file any more


class Scores(TypedDict):
    """What `classification_scores` returns; per class in the order of the class ids."""

    top_1: float
    top_5: float
    mean_per_class: float
    precision: float
    recall: float
    f1: float
    per_class: dict[str, list[float]]
    confusion: list[list[int]] | None


def classification_scores(labels: np.ndarray, class_scores: np.ndarray) -> Scores:
    """Scores predictions as the field reports them.

    Args:
        labels: (N,) class ids from 0 on.
        class_scores: (N, num_classes) one score a class, larger is likelier: probabilities, votes
            or logits.

    Returns:
        `top_1`, `top_5` (the class is among the five of highest score; with five classes or fewer
        always 1), `mean_per_class` (mean of the accuracies within each class that occurs),
        `precision`, `recall` and `f1` (macro means over the classes that occur or are predicted,
        0 where undefined), the same for each class with its number of images (`support`), and the
        `confusion` matrix, counts by true class (rows) and predicted class (columns); None of more
        than 1,000 classes.

    Raises:
        ValueError: No image, or shapes that do not fit.

    Source: scikit-learn's `precision_recall_fscore_support`, `confusion_matrix` and
    `balanced_accuracy_score`.

    Example:
        >>> scores = classification_scores(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
        >>> scores["top_1"], scores["confusion"]
        (0.5, [[1, 0], [1, 0]])
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    if class_scores.ndim != 2 or len(labels) != len(class_scores) or not len(labels):
        raise ValueError(
            f"Expected scores (N, classes) of N labelled images; received: scores "
            f"{class_scores.shape} and {len(labels)} labels."
        )
    classes = class_scores.shape[1]
    predicted = class_scores.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), zero_division=0
    )
    occurs = (support + np.bincount(predicted, minlength=classes)) > 0
    confusion = None
    if classes <= MOST_LISTED:
        matrix = confusion_matrix(labels, predicted, labels=np.arange(classes))
        confusion = matrix.tolist()
    return {
        "top_1": float(np.mean(predicted == labels)),
        "top_5": top_k(labels, class_scores, 5),
        "mean_per_class": float(np.mean(recall[support > 0])),
        "precision": float(np.mean(precision[occurs])),
        "recall": float(np.mean(recall[occurs])),
        "f1": float(np.mean(f1[occurs])),
        "per_class": {
            "precision": [float(x) for x in precision],
            "recall": [float(x) for x in recall],
            "f1": [float(x) for x in f1],
            "support": [int(x) for x in support],
        },
        "confusion": confusion,
    }


def top_k(labels: np.ndarray, class_scores: np.ndarray, k: int) -> float:
    """Returns the share of images whose class is among the `k` of highest score.

    Classes of equal score share their ranks by class id, as `argmax` does, so that `top_k(..., 1)`
    equals the accuracy of `argmax`.

    Args:
        labels: (N,) class ids.
        class_scores: (N, classes).
        k: At least 1.

    Example:
        >>> top_k(np.array([1]), np.array([[0.5, 0.3, 0.2]]), 2)
        1.0
    """
    own = np.take_along_axis(class_scores, labels[:, None], axis=1)
    before = np.arange(class_scores.shape[1]) < labels[:, None]
    better = (class_scores > own) | ((class_scores == own) & before)
    return float(np.mean(better.sum(axis=1) < k))
