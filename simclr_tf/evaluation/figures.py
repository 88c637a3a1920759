"""The figures that a table of an evaluation shows, in words and in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from simclr_tf.typing import Json

_NAMES = {
    "top_1": "top-1",
    "top_5": "top-5",
    "f1": "F1",
    "area_under_curve": "area under the ROC",
    "true_accept_rate": "true accepts at 1% false",
}
_CLASSIFIER = ("top_1", "top_5", "mean_per_class", "f1")
_MEASURES = {
    "logistic_regression": _CLASSIFIER,
    "ridge": _CLASSIFIER,
    "sgd_probe": _CLASSIFIER,
    "verification": ("area_under_curve", "equal_error_rate", "true_accept_rate", "accuracy"),
    "health": (
        "effective_rank",
        "alpha",
        "uniformity",
        "spread",
        "alignment",
        "contrastive_accuracy",
    ),
}


class Figure(NamedTuple):
    """One cell of the table.

    Attributes:
        protocol: What was done, in words.
        measure: What was measured.
        value: The figure.
        spread: Standard deviation over draws; None of a single one.
    """

    protocol: str
    measure: str
    value: float
    spread: float | None = None


def headline(results: Json) -> Iterator[Figure]:
    """Yields what the table shows of the results.

    Args:
        results: What `evaluate_features` returned.
    """
    for name, found in results.items():
        if "skipped" not in found:
            for figure in _figures(name, found):
                yield figure._replace(
                    protocol=figure.protocol.replace("_", " "),
                    measure=_NAMES.get(figure.measure, figure.measure.replace("_", " ")),
                )


def _figures(name: str, found: Json) -> list[Figure]:
    if name == "knn":
        return [
            Figure(f"kNN, k = {row['k']}, T = {row['T']:g}", "top_1", row["top_1"])
            for row in found["rows"]
        ]
    if name == "few_labels":
        return [
            Figure(f"logistic regression, {kind}", "top_1", row["mean"], row["spread"])
            for kind, row in found["rows"].items()
        ]
    measures: Sequence[str] = _MEASURES.get(name, list(found))
    return [Figure(name, m, found[m]) for m in measures if found.get(m) is not None]
