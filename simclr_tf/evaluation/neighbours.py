"""k nearest neighbours on frozen features, as DINO, lightly and VISSL evaluate them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

NEIGHBOURS = (1, 5, 20, 200)
TEMPERATURES = (0.07, 0.1)  # DINO and solo-learn; lightly and VISSL
_QUERIES = 1024  # votes of so many queries are counted at a time


def knn_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperatures: Sequence[float] = TEMPERATURES,
    num_classes: int | None = None,
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Scores of each class by weighted votes of the nearest training images.

    Features are scaled to length 1. The `k` training images of largest cosine `s` vote for their
    class with weight exp(s / T). Results can't be compared without k and T. One search serves all
    of them; scikit-learn works through it in blocks, so that memory grows with
    N + M * max(neighbours), never with N * M.

    Args:
        train_features: (N, d).
        train_labels: (N,) class ids from 0 on.
        test_features: (M, d).
        neighbours: Values of k, each from 1 to N.
        temperatures: Values of T, above 0.
        num_classes: Number of classes; None: from the labels.

    Yields:
        k, T and the shares of the votes, float32 (M, num_classes), each row of sum 1.

    Raises:
        ValueError: A `k` above N.

    Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4; DINO's `eval_knn.py` for T.

    Example:
        >>> for k, T, votes in knn_scores(features, labels, test_features, [20], [0.07]):
        ...     print(k, T, (votes.argmax(axis=1) == test_labels).mean())
    """
    most = max(neighbours)
    if most > len(train_features) or min(neighbours) < 1:
        raise ValueError(
            f"Expected k from 1 to the {len(train_features)} training images; received: "
            f"{', '.join(map(str, neighbours))}."
        )
    classes = int(train_labels.max()) + 1 if num_classes is None else num_classes
    similarity, nearest = nearest_by_cosine(train_features, test_features, most)
    votes_for = train_labels[nearest]
    for k in neighbours:
        for temperature in temperatures:
            # exp(s / T) overflows for small T: the largest is taken off, which votes do not see.
            scaled = (similarity[:, :k] - similarity[:, :1]) / temperature
            shares = _vote(np.exp(scaled), votes_for[:, :k], classes)
            yield k, temperature, shares


def nearest_by_cosine(
    train_features: np.ndarray, test_features: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and positions, each (M, count), of the nearest training rows, nearest first.

    Args:
        train_features: (N, d).
        test_features: (M, d).
        count: Neighbours of each, at most N.

    Example:
        >>> nearest_by_cosine(np.eye(2), np.array([[3.0, 0.1]]), 1)[1]
        array([[0]])
    """
    from sklearn.neighbors import NearestNeighbors

    # On vectors of length 1 the Euclidean distance ranks as the cosine does: |a - b|^2 = 2 - 2 s.
    # scikit-learn's Euclidean search works in blocks of a fixed size.
    search = NearestNeighbors(n_neighbors=count, metric="euclidean", algorithm="brute")
    known, asked = unit_rows(train_features), unit_rows(test_features)
    if not known.any(axis=1).all() or not asked.any(axis=1).all():
        # A row of zeros has no direction: a cosine of 0 to all, also to another row of zeros.
        known = np.concatenate([known, _is_zero(known), np.zeros((len(known), 1), "f")], axis=1)
        asked = np.concatenate([asked, np.zeros((len(asked), 1), "f"), _is_zero(asked)], axis=1)
    search.fit(known)
    distance, nearest = search.kneighbors(asked)
    return (1 - np.square(distance) / 2).astype(np.float32), nearest


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Returns float32 rows of length 1; a row of zeros stays one."""
    rows = np.asarray(features, np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, np.finfo(np.float32).tiny)


def _is_zero(rows: np.ndarray) -> np.ndarray:
    return (~rows.any(axis=1, keepdims=True)).astype(np.float32)


def _vote(weights: np.ndarray, voted: np.ndarray, classes: int) -> np.ndarray:
    shares = np.zeros((len(weights), classes), np.float32)
    for start in range(0, len(weights), _QUERIES):
        part = slice(start, start + _QUERIES)
        rows = np.broadcast_to(np.arange(len(voted[part]))[:, None], voted[part].shape)
        np.add.at(shares[part], (rows, voted[part]), weights[part])
    return shares / shares.sum(axis=1, keepdims=True)
