"""Frozen features on a few labels: a pretrained encoder beside the untrained one and a baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices.process_state import isolated
from simclr_tf.errors import UserError
from simclr_tf.evaluation.linear import logistic_regression
from simclr_tf.evaluation.scores import top_k
from simclr_tf.examples.pretraining import pretrain
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


class Labelled(NamedTuple):
    """Inputs and their labels.

    Attributes:
        inputs: An array (N, ...), or a dictionary of such arrays.
        labels: int64 (N,).
    """

    inputs: Any
    labels: np.ndarray


def compare_features(
    encoder: Callable[[], keras.Model],
    baseline: tuple[str, Callable[[Any], np.ndarray]],
    train: Labelled,
    test: Labelled,
    *,
    labelled: int,
    steps: int,
    batch_size: int,
    seed: int,
    **settings: Any,
) -> dict[str, float]:
    """Pretrains without labels; scores features by logistic regression on a few labels.

    Args:
        encoder: Makes an encoder of the inputs.
        baseline: Name, and function from inputs to features, of what needs no training.
        train: What is trained on; the labels of `labelled` rows are used afterwards.
        test: What is scored on.
        labelled: Rows that logistic regression learns from.
        steps: Training steps.
        batch_size: Rows a step.
        seed: Draws weights, order, views and the labelled rows.
        **settings: Of `SimCLR`: `augment`, `temperature`, `loss`.

    Returns:
        Accuracy on the test rows, in [0, 1]: `pretrained`, `untrained`, and the baseline's.

    Raises:
        UserError: Too few labelled rows.

    Example:
        >>> words, test = (Labelled(log_mel(c.waves, c.rate), c.labels) for c in clips)
        >>> compare_features(make_encoder, ("spectrograms", np.asarray), words, test, labelled=40,
        ...                  steps=200, batch_size=96, seed=0, augment=spectrogram_views)
    """
    chosen = some_of_each(train.labels, labelled, seed)
    parts = (tf.nest.map_structure(lambda rows: rows[chosen], train.inputs), test.inputs)
    with isolated(seed=seed):
        untrained = encoder()
        keras.utils.set_random_seed(seed)  # both begin with the same weights
        head = ProjectionHead(out_dim=64, num_layers=2)
        model = SimCLR(encoder(), head, seed=seed, input_kind="any", **settings)
        pretrain(model, train.inputs, steps=steps, batch_size=batch_size, seed=seed)
        features = {
            "pretrained": [model.predict(part, verbose=0) for part in parts],
            "untrained": [untrained.predict(part, verbose=0) for part in parts],
            baseline[0]: [baseline[1](part) for part in parts],
        }
    return {
        name: accuracy(ours, train.labels[chosen], theirs, test.labels, seed)
        for name, (ours, theirs) in features.items()
    }


def accuracy_line(what: str, count: int, labelled: int, found: dict[str, float]) -> str:
    """Returns what `compare_features` found, in a line.

    Args:
        what: What was scored, in the plural.
        count: How many were scored.
        labelled: Rows that the classifier learned from.
        found: Accuracies by name.
    """
    scores = ", ".join(f"{score:.3f} {name}" for name, score in found.items())
    return (
        f"Accuracy on {count} test {what}, logistic regression on {labelled} labelled "
        f"ones: {scores}."
    )


def accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    seed: int,
) -> float:
    """Returns the test accuracy of logistic regression on frozen features.

    The penalty is chosen on a fifth of the labelled rows, from six; see `logistic_regression`.

    Args:
        features: (N, ...), flattened here.
        labels: (N,) class ids.
        test_features: (M, ...).
        test_labels: (M,).
        seed: Chooses the fifth.
    """
    known, unknown = (rows.reshape(len(rows), -1) for rows in (features, test_features))
    classes = int(max(labels.max(), test_labels.max())) + 1
    found = logistic_regression(known, labels, unknown, _PENALTIES, classes, seed)
    return top_k(test_labels, found.class_scores, 1)


def some_of_each(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns positions of `count` rows, as many of each class as can be, in random order.

    Raises:
        UserError: Fewer than two rows of each class, or one class only.
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    # The n-th of each class before the (n+1)-th of any.
    nth = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        nth[members] = np.arange(len(members))
    chosen = order[np.argsort(nth[order], kind="stable")][:count]
    sizes = np.bincount(labels[chosen], minlength=int(labels.max()) + 1)
    present = np.unique(labels)
    if len(present) < 2 or sizes[present].min() < 2:
        raise UserError(
            f"Expected --labelled of at least two of each of {len(present)} classes (and two "
            f"classes or more); received: {count}. Pass a larger --labelled, or more data."
        )
    return chosen
