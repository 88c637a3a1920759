"""Scores of features by their cosines: verification of pairs, and retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from simclr_tf.evaluation.neighbours import unit_rows

MOST_PAIRS = 200_000
FALSE_ACCEPT_RATE = 0.01  # at which `true_accept_rate` is given
PRECISION_AT = (1, 5, 10)
_BLOCK = 512


class Verification(TypedDict):
    """What `verification` returns."""

    pairs: int
    area_under_curve: float
    equal_error_rate: float
    true_accept_rate: float
    accuracy: float
    threshold: float


class Pairs(NamedTuple):
    """Pairs of images, in random order.

    Attributes:
        cosine: float (P,), the similarity of their features.
        same: bool (P,), whether they are of one class.
    """

    cosine: np.ndarray
    same: np.ndarray

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns shares of different and of same pairs accepted, at falling thresholds.

        Each rises from 0 to 1, with a point at each threshold that changes either.
        """
        from sklearn.metrics import roc_curve

        false_accepted, accepted, _ = roc_curve(self.same, self.cosine, drop_intermediate=False)
        return false_accepted, accepted


def verification(
    features: np.ndarray, labels: np.ndarray, seed: int = 0, most_pairs: int = MOST_PAIRS
) -> Verification:
    """Tells pairs of the same class from pairs of different classes by the cosine.

    Args:
        features: (N, d).
        labels: (N,) class ids.
        seed: Of the draw.
        most_pairs: Pairs at most.

    Returns:
        See `verification_scores`.

    Raises:
        ValueError: No two images of one class, or one class only.

    Example:
        >>> verification(np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))["area_under_curve"]
        1.0
    """
    return verification_scores(draw_pairs(features, labels, seed, most_pairs))


def draw_pairs(
    features: np.ndarray, labels: np.ndarray, seed: int = 0, most_pairs: int = MOST_PAIRS
) -> Pairs:
    """Draws as many pairs of the same class as of different classes, each pair once.

    The same labels and seed give the same pairs, whatever the features.

    Args:
        features: (N, d).
        labels: (N,) class ids.
        seed: Of the draw.
        most_pairs: Pairs at most.

    Raises:
        ValueError: No two images of one class, or one class only.
    """
    rows = unit_rows(features)
    first, second, same = _pairs(labels, most_pairs, np.random.default_rng(seed))
    cosine = np.concatenate(
        [
            np.sum(rows[first[i : i + 65536]] * rows[second[i : i + 65536]], axis=1)
            for i in range(0, len(first), 65536)
        ]
    )
    return Pairs(cosine, same)


def verification_scores(pairs: Pairs) -> Verification:
    """Scores the cosine as a judge of whether two images are of one class.

    The threshold is chosen on one half of the pairs and the accuracy measured on the other, as face
    recognition does it in folds.

    Args:
        pairs: As `draw_pairs` draws them.

    Returns:
        `pairs`, `area_under_curve` of the ROC, `equal_error_rate` (where as many same pairs are
        refused as different ones accepted), `true_accept_rate` (the most same pairs that are
        accepted where at most 1% of different ones are), `accuracy` at the chosen `threshold` of
        the cosine.

    Source: LFW (Huang et al. 2007), the image-restricted protocol with threshold chosen apart.

    Example:
        >>> verification_scores(draw_pairs(features, labels))["equal_error_rate"]
    """
    from sklearn.metrics import roc_auc_score

    cosine, same = pairs
    false_accepted, accepted = pairs.roc()
    chooses = np.arange(len(same)) % 2 == 0  # pairs are in random order
    threshold = _best_threshold(cosine[chooses], same[chooses])
    return {
        "pairs": len(same),
        "area_under_curve": float(roc_auc_score(same, cosine)),
        "equal_error_rate": _crossing(false_accepted, 1 - accepted),
        "true_accept_rate": float(accepted[false_accepted <= FALSE_ACCEPT_RATE].max()),
        "accuracy": float(np.mean((cosine[~chooses] >= threshold) == same[~chooses])),
        "threshold": threshold,
    }


def retrieval_scores(
    features: np.ndarray, labels: np.ndarray, precision_at: Sequence[int] = PRECISION_AT
) -> dict[str, float]:
    """Precision@k and mean average precision: every image asks for the others of its class.

    Args:
        features: (N, d).
        labels: (N,) class ids.
        precision_at: Values of k, each below N.

    Returns:
        `precision_at_K` for each k, the mean share of the k nearest others that are of the query's
        class, and `mean_average_precision` over the whole ranking; images alone in their class ask
        for nothing.

    Raises:
        ValueError: A k of N or more, or every image is alone in its class.

    Source: Manning et al., Introduction to Information Retrieval, section 8.4.

    Example:
        >>> retrieval_scores(np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), [1])
        {'precision_at_1': 1.0, 'mean_average_precision': 1.0}
    """
    if max(precision_at) >= len(features):
        raise ValueError(
            f"Expected k below the {len(features)} images; received: {max(precision_at)}."
        )
    ids, counts = np.unique(labels, return_counts=True)
    asks = np.flatnonzero(counts[np.searchsorted(ids, labels)] > 1)
    if not len(asks):
        raise ValueError("Expected two images of a class; received: each alone in its class.")
    rows = unit_rows(features)
    at: dict[int, list[np.ndarray]] = {k: [] for k in precision_at}
    average = []
    for start in range(0, len(asks), _BLOCK):
        queries = asks[start : start + _BLOCK]
        cosine = rows[queries] @ rows.T
        cosine[np.arange(len(queries)), queries] = -np.inf  # last: the image itself
        ranked = np.argsort(-cosine, axis=1, kind="stable")[:, :-1]
        right = labels[ranked] == labels[queries, None]
        found = np.cumsum(right, axis=1)
        precision = found / np.arange(1, right.shape[1] + 1)
        average.append((precision * right).sum(axis=1) / right.sum(axis=1))
        for k in precision_at:
            at[k].append(precision[:, k - 1])
    scores = {f"precision_at_{k}": float(np.mean(np.concatenate(at[k]))) for k in precision_at}
    return {**scores, "mean_average_precision": float(np.mean(np.concatenate(average)))}


def _pairs(
    labels: np.ndarray, most: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns positions and whether they are of one class: half of each kind, in random order."""
    order = np.argsort(labels, kind="stable")
    position = np.arange(len(order))
    # In the order of classes an image's partners after it are first its class, then all others.
    end = np.searchsorted(labels[order], labels[order], side="right")
    same, different = end - position - 1, len(order) - end
    count = min(int(same.sum()), int(different.sum()), most // 2)
    if not count:
        kinds = "one class" if same.sum() else "each alone in its class"
        raise ValueError(f"Expected two images of a class, and two classes; received: {kinds}.")
    parts = [_draw(same, position + 1, count, draw), _draw(different, end, count, draw)]
    mixed = draw.permutation(2 * count)
    first, second = (order[np.concatenate(side)][mixed] for side in zip(*parts, strict=True))
    return first, second, mixed < count


def _draw(
    partners: np.ndarray, first_partner: np.ndarray, count: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws different pairs: image i has `partners[i]`, from `first_partner[i]` on."""
    before = np.cumsum(partners)
    numbers = draw.choice(int(before[-1]), count, replace=False)
    image = np.searchsorted(before, numbers, side="right")
    return image, first_partner[image] + numbers - (before[image] - partners[image])


def _crossing(rising: np.ndarray, falling: np.ndarray) -> float:
    """Returns the value at which two curves meet, straight between their points."""
    after = int(np.argmax(rising >= falling))
    gap = falling - rising  # above 0 before the crossing, at most 0 after
    if after == 0 or gap[after] == 0:
        return float(rising[after])
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(rising[after - 1] + share * (rising[after] - rising[after - 1]))


def _best_threshold(cosine: np.ndarray, same: np.ndarray) -> float:
    """Returns the cosine from which on calling a pair the same makes the fewest mistakes."""
    order = np.argsort(-cosine, kind="stable")
    gain = np.cumsum(np.where(same[order], 1, -1))
    last = np.flatnonzero(np.append(np.diff(cosine[order]) != 0, True))  # of equal cosines the last
    return float(cosine[order][last[int(np.argmax(gain[last]))]])
