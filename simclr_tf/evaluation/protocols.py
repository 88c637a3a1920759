"""The field's protocols on frozen features: which there are, and all that are asked for in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.evaluation import few_labels, health, linear, neighbours, pairs
from simclr_tf.evaluation.scores import classification_scores
from simclr_tf.typing import Json

# What each gives, in the order of the table. `sgd_probe` needs images, the others features.
PROTOCOLS = {
    "logistic_regression": "logistic regression, 45 penalties, chosen on a validation part",
    "ridge": "ridge regression in closed form, 45 penalties",
    "knn": "k nearest neighbours by the cosine, votes exp(s / T)",
    "few_labels": "logistic regression on 1%, 10%, and 1, 5, 10 labels a class",
    "verification": "same or different class, by the cosine of pairs",
    "retrieval": "precision@k and mean average precision",
    "health": "rank, spectrum, uniformity, spread; needs no labels",
    "sgd_probe": "the release's linear evaluation: SGD on augmented images",
}
DEFAULT = tuple(name for name in PROTOCOLS if name != "sgd_probe")
_MOST_CLASSES = 100_000
_NEED_TRAINING = ("logistic_regression", "ridge", "knn", "few_labels")


class FeatureSplit(NamedTuple):
    """Features of one split.

    Attributes:
        features: float32 (N, d).
        labels: int64 (N,) class ids, -1 where unknown; None where none are.
    """

    features: np.ndarray
    labels: np.ndarray | None = None

    def known(self) -> FeatureSplit:
        """Returns the part whose labels are known."""
        if self.labels is None:
            return FeatureSplit(self.features[:0], np.zeros(0, np.int64))
        chosen = self.labels >= 0
        return self if chosen.all() else FeatureSplit(self.features[chosen], self.labels[chosen])


def parse_protocols(text: str) -> list[str]:
    """Returns the protocols that a comma-separated list names.

    Raises:
        UserError: One is unknown, or none is named.

    Example:
        >>> parse_protocols("knn,health")
        ['knn', 'health']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names:
        received = repr(unknown[0]) if unknown else "none"
        raise UserError(f"Expected protocols among {', '.join(PROTOCOLS)}; received: {received}.")
    return list(dict.fromkeys(names))


def evaluate_features(
    train: FeatureSplit,
    test: FeatureSplit,
    protocols: Sequence[str] = DEFAULT,
    *,
    seed: int = 0,
    views: tuple[np.ndarray, np.ndarray] | None = None,
    on_protocol: Callable[[str], None] | None = None,
) -> Json:
    """Evaluates features by several protocols.

    Images of unknown class (-1) are left out of all but `health`.

    Args:
        train: Features that classifiers are fitted to.
        test: Features that are scored; they choose nothing.
        protocols: Names among `PROTOCOLS`, without `sgd_probe`.
        seed: Of every draw.
        views: Features of two augmented views of the same images, for `health`.
        on_protocol: Called with the name of each before it begins.

    Returns:
        By protocol its settings and scores, or `skipped`: why it is not possible.

    Raises:
        UserError: Features that are not numbers, of two widths, or no image.

    Example:
        >>> train = FeatureSplit(features, labels)
        >>> test = FeatureSplit(test_features, test_labels)
        >>> evaluate_features(train, test)["logistic_regression"]["top_1"]
    """
    for name, split in (("training", train), ("test", test)):
        _check(name, split)
    if train.features.shape[1] != test.features.shape[1] and len(train.features):
        raise UserError(
            f"Expected training and test features of one width; received: "
            f"{train.features.shape[1]} and {test.features.shape[1]}. Embed both with one model."
        )
    known = (train.known(), test.known())
    most = max(int(split.labels.max(initial=0)) for split in known if split.labels is not None)
    if most >= _MOST_CLASSES:
        raise UserError(
            f"Expected class ids from 0, below {_MOST_CLASSES:,}; received: {most:,}. "
            "Number the classes from 0."
        )
    results: Json = {}
    for name in protocols:
        if on_protocol is not None:
            on_protocol(name)
        if name == "health":
            results[name] = _health(test, seed, views)
            continue
        reason = _impossible(name, *known)
        if reason is None:
            results[name] = _PROTOCOL_FUNCTIONS[name](*known, seed)
        else:
            results[name] = {"skipped": reason}
    return results


def _check(name: str, split: FeatureSplit) -> None:
    if split.features.ndim != 2:
        raise UserError(
            f"Expected one vector an image; received: {name} features of shape "
            f"{split.features.shape}. Choose an endpoint of vectors, such as final_avg_pool."
        )
    bad = ~np.isfinite(split.features).all(axis=1)
    if bad.any():
        raise UserError(
            f"Expected features that are numbers; received: NaN or infinity in {int(bad.sum())} of "
            f"{len(bad)} {name} images, first in number {int(np.argmax(bad))}. The model that "
            "made them is broken: take an earlier checkpoint."
        )


def _impossible(name: str, train: FeatureSplit, test: FeatureSplit) -> str | None:
    """Returns why a protocol that needs labels can't be done; None where it can."""
    assert train.labels is not None and test.labels is not None
    if not len(test.labels):
        return "no test image has a label"
    if name in _NEED_TRAINING:
        if not len(train.labels):
            return "no training image has a label"
        if len(np.unique(train.labels)) < 2:
            return "the training images are of one class"
        return None
    counts = np.unique(test.labels, return_counts=True)[1]
    if counts.max() < 2:
        return "no two test images are of one class"
    if name == "verification" and len(counts) < 2:
        return "the test images are of one class"
    return None


def _classes(train: FeatureSplit, test: FeatureSplit) -> int:
    assert train.labels is not None and test.labels is not None
    return int(max(train.labels.max(), test.labels.max())) + 1


def _linear(kind: str) -> Callable[[FeatureSplit, FeatureSplit, int], Json]:
    def run(train: FeatureSplit, test: FeatureSplit, seed: int) -> Json:
        assert train.labels is not None and test.labels is not None
        data = (train.features, train.labels, test.features)
        classes = _classes(train, test)
        if kind == "ridge":
            found = linear.ridge(*data, num_classes=classes, seed=seed)
        else:
            found = linear.logistic_regression(*data, num_classes=classes, seed=seed)
        grid = linear.PENALTIES
        settings = {
            "penalty": found.penalty,
            "penalties": f"{len(grid)} from {min(grid):g} to {max(grid):g}",
            "features": "standardised",
            "chosen_by": "a fifth of the training images",
            "validation_accuracy": found.validation_accuracy,
            "converged": found.converged,
        }
        return {"settings": settings, **classification_scores(test.labels, found.class_scores)}

    return run


def _knn(train: FeatureSplit, test: FeatureSplit, seed: int) -> Json:
    assert train.labels is not None and test.labels is not None
    ks = [k for k in neighbours.NEIGHBOURS if k <= len(train.features)]
    rows = []
    for k, temperature, votes in neighbours.knn_scores(
        train.features, train.labels, test.features, ks, num_classes=_classes(train, test)
    ):
        scores = dict(classification_scores(test.labels, votes))
        row = {name: scores[name] for name in ("top_1", "top_5", "mean_per_class", "f1")}
        rows.append({"k": k, "T": temperature, **row})
    left_out = [k for k in neighbours.NEIGHBOURS if k not in ks]
    note = {"left_out": f"k of {', '.join(map(str, left_out))}: too few images"} if left_out else {}
    return {"settings": {"similarity": "cosine", "votes": "exp(s / T)"}, "rows": rows, **note}


def _few_labels(train: FeatureSplit, test: FeatureSplit, seed: int) -> Json:
    assert train.labels is not None and test.labels is not None
    seeds = [seed + i for i in few_labels.SEEDS]
    rows = few_labels.few_label_accuracy(
        train.features, train.labels, test.features, test.labels, seeds=seeds
    )
    settings = {"penalty": few_labels.PENALTY, "seeds": seeds, "features": "standardised"}
    return {"settings": settings, "rows": rows}


def _verification(train: FeatureSplit, test: FeatureSplit, seed: int) -> Json:
    assert test.labels is not None
    return dict(pairs.verification(test.features, test.labels, seed))


def _retrieval(train: FeatureSplit, test: FeatureSplit, seed: int) -> Json:
    assert test.labels is not None
    at = [k for k in pairs.PRECISION_AT if k < len(test.labels)]
    return pairs.retrieval_scores(test.features, test.labels, at)


def _health(test: FeatureSplit, seed: int, views: tuple[np.ndarray, np.ndarray] | None) -> Json:
    if len(test.features) < 2:
        return {"skipped": "fewer than two test images"}
    found = health.feature_health(test.features, views, seed)
    collapsed, line = health.verdict(found)
    values = {n: v if _is_number(v) else None for n, v in found._asdict().items()}
    return {**values, "collapsed": collapsed, "verdict": line}


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


_PROTOCOL_FUNCTIONS: dict[str, Callable[[FeatureSplit, FeatureSplit, int], Json]] = {
    "logistic_regression": _linear("logistic_regression"),
    "ridge": _linear("ridge"),
    "knn": _knn,
    "few_labels": _few_labels,
    "verification": _verification,
    "retrieval": _retrieval,
}
