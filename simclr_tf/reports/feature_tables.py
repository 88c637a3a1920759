"""Files of features as the two parts of an evaluation, and whether parts share images."""

from __future__ import annotations

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.evaluation.linear import validation_part
from simclr_tf.evaluation.neighbours import unit_rows
from simclr_tf.features.reading import FeatureTable, read_features
from simclr_tf.reports.image_features import drawn


def read_parts(
    path: str, test_path: str | None, most: int, seed: int
) -> tuple[FeatureTable, FeatureTable]:
    """Returns the features that classifiers are fitted to, and those that are scored.

    Args:
        path: File of features.
        test_path: File of those to score; None: a fifth of `path`.
        most: Images of each part at most, drawn; 0: all.
        seed: Of the draws.

    Raises:
        UserError: A file can't be read, or the two do not mean the same classes.
    """
    table = read_features(path)
    if test_path is None:
        train, test = _halves(table, seed)
    else:
        train, test = table, read_features(test_path)
        _check_names(train, test)
    return _at_most(train, most, seed), _at_most(test, most, seed)


def count_shared(train: np.ndarray, test: np.ndarray) -> int:
    """Returns how many test images have the features of a training image: are they the same?

    0 where most test images have equal features among themselves: that says nothing.

    Args:
        train: (N, d).
        test: (M, d).

    Example:
        >>> count_shared(np.eye(4), np.eye(4)[:2])
        2
    """
    if train.ndim != 2 or train.shape[1:] != test.shape[1:]:
        return 0
    known, asked = _as_bytes(train), _as_bytes(test)
    if 2 * len(set(asked)) < len(asked):
        return 0
    known_rows = set(known)
    return sum(row in known_rows for row in asked)


def _as_bytes(features: np.ndarray) -> list[bytes]:
    # Rounded: the same image in another batch gives other last bits. + 0: no negative zero.
    return [row.tobytes() for row in np.round(unit_rows(features), 4) + 0.0]


def _check_names(train: FeatureTable, test: FeatureTable) -> None:
    """Checks that the class ids that both files hold mean the same."""
    if train.labels is None or test.labels is None or not (train.class_names and test.class_names):
        return
    for i in np.intersect1d(train.labels, test.labels).tolist():
        if i >= 0 and train.class_names[i] != test.class_names[i]:
            raise UserError(
                f"Expected the same classes in both files; received: class {i} is "
                f"{train.class_names[i]!r} and {test.class_names[i]!r}. Embed both with one data "
                "set."
            )


def _halves(table: FeatureTable, seed: int) -> tuple[FeatureTable, FeatureTable]:
    count = len(table.features)
    if count < 2:
        raise UserError(f"Expected two images or more in the file; received: {count}.")
    labels = np.zeros(count, np.int64) if table.labels is None else table.labels
    fit, held = validation_part(labels, seed)
    return _rows(table, fit), _rows(table, held)


def _rows(table: FeatureTable, rows: np.ndarray) -> FeatureTable:
    labels = None if table.labels is None else table.labels[rows]
    return FeatureTable(table.features[rows], labels, table.class_names)


def _at_most(table: FeatureTable, most: int, seed: int) -> FeatureTable:
    chosen = drawn(len(table.features), most, seed)
    return table if chosen is None else _rows(table, chosen)
