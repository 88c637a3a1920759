"""Figures of features that need no labels: spread, rank, spectrum; and whether they collapsed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from simclr_tf.evaluation.neighbours import unit_rows

RANK_EPSILON = 1e-7  # RankMe's, for float32
UNIFORMITY_T = 2.0
MOST_ROWS = 25_600  # RankMe's; uniformity is a mean over pairs
_PAIR_ROWS = 4_096  # 8 million pairs; a block of them takes 64 MB
_DEAD = 1e-6  # of the largest standard deviation of a dimension
# Digits, 128 dimensions: trained, spread 0.5 and rank 30; untrained, 0.3 and 13; trained at a
# learning rate that is far too high, 0.1 and 2.3.
_COLLAPSED_SPREAD = 0.05
_COLLAPSED_RANK = 3.0  # of features that could have ten times as much
_LOW_RANK_SHARE = 0.05
_DEAD_SHARE = 0.5


class Health(NamedTuple):
    """What `feature_health` returns.

    Attributes:
        images: Rows that the figures are of.
        dimensions: d.
        effective_rank: RankMe: exp of the entropy of the singular values over their sum, from 1 to
            d.
        alpha: alpha-ReQ: minus the slope of the covariance's eigenvalues over their rank, both as
            logarithms; near 1 is good, large is few directions.
        uniformity: log of the mean of exp(-2 |a - b|^2) over pairs of rows of length 1; 0 where all
            are one point, about -4 where they fill the sphere.
        spread: Mean standard deviation of the dimensions of rows of length 1, over 1 / sqrt(d): 1
            where they fill the sphere, 0 where all are one point.
        dead_dimensions: Share of the dimensions that do not vary.
        alignment: Mean |a - b|^2 of two views of an image; None without views.
        contrastive_accuracy: Share of first views whose nearest other row is their second; None
            without views.
    """

    images: int
    dimensions: int
    effective_rank: float
    alpha: float
    uniformity: float
    spread: float
    dead_dimensions: float
    alignment: float | None = None
    contrastive_accuracy: float | None = None


def feature_health(
    features: np.ndarray, views: tuple[np.ndarray, np.ndarray] | None = None, seed: int = 0
) -> Health:
    """Measures features without labels.

    Args:
        features: (N, d), N of 2 or more; of more than 25,600 rows as many are drawn.
        views: Features of two augmented views of the same images, each (M, d): for alignment and
            contrastive accuracy.
        seed: Of the draws.

    Returns:
        A `Health`.

    Raises:
        ValueError: Fewer than two rows, or values that are not numbers.

    Source: RankMe (Garrido et al. 2023, equation 1), alpha-ReQ (Agrawal et al. 2022), alignment and
    uniformity (Wang and Isola 2020), spread (SimSiam, Chen and He 2021, section 4.1).

    Example:
        >>> feature_health(np.random.default_rng(0).normal(size=(1000, 8))).effective_rank > 7.9
        True
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"Expected (N, d) features, N of 2 or more; received: {features.shape}.")
    if not np.isfinite(features).all():
        raise ValueError("Expected features that are numbers; received: NaN or infinity.")
    draw = np.random.default_rng(seed)
    features = _some(features, MOST_ROWS, draw)
    rows = unit_rows(features)
    deviation = features.astype(np.float64).std(axis=0)
    alignment = accuracy = None
    if views is not None:
        first, second = (unit_rows(view) for view in views)
        alignment = float(np.mean(np.sum(np.square(first - second), axis=1)))
        accuracy = _contrastive_accuracy(first[:_PAIR_ROWS], second[:_PAIR_ROWS])
    return Health(
        images=len(features),
        dimensions=features.shape[1],
        effective_rank=effective_rank(features),
        alpha=spectrum_slope(features),
        uniformity=_uniformity(_some(rows, _PAIR_ROWS, draw)),
        spread=float(rows.std(axis=0).mean() * np.sqrt(rows.shape[1])),
        dead_dimensions=float(np.mean(deviation <= _DEAD * max(deviation.max(), 1e-12))),
        alignment=alignment,
        contrastive_accuracy=accuracy,
    )


def effective_rank(features: np.ndarray) -> float:
    """RankMe: exp(-sum p log p) with p = singular values over their sum, plus 1e-7.

    Args:
        features: (N, d), not centred.

    Returns:
        From 1 to about min(N, d).

    Source: Garrido et al. 2023 (arXiv 2210.02885), equation 1.

    Example:
        >>> round(effective_rank(np.eye(4)), 3)
        4.0
    """
    from scipy.linalg import svdvals

    values = svdvals(features.astype(np.float32))
    shares = values / max(float(values.sum()), np.finfo(np.float32).tiny) + RANK_EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def spectrum_slope(features: np.ndarray) -> float:
    """alpha-ReQ: alpha where the covariance's i-th eigenvalue falls as i^-alpha, by least squares.

    Eigenvalues below 1e-6 of the largest are rounding, and left out.

    Args:
        features: (N, d).

    Returns:
        alpha; infinity where fewer than three eigenvalues are above rounding.

    Source: Agrawal et al. 2022 (arXiv 2202.05808), section 2.

    Example:
        >>> spectrum_slope(np.random.default_rng(0).normal(size=(10000, 8))) < 0.1
        True
    """
    from scipy.linalg import svdvals

    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    eigenvalues = np.square(svdvals(centred)) / len(features)
    eigenvalues = eigenvalues[eigenvalues > 1e-6 * max(float(eigenvalues[0]), 1e-30)]
    if len(eigenvalues) < 3:
        return float("inf")
    rank = np.log(np.arange(1, len(eigenvalues) + 1))
    return float(-np.polyfit(rank, np.log(eigenvalues), 1)[0])


def verdict(health: Health) -> tuple[bool, str]:
    """Says in one line whether features collapsed.

    Args:
        health: What `feature_health` found.

    Returns:
        Whether they collapsed, and why, or why not.

    Example:
        >>> verdict(feature_health(np.ones((8, 4))))[0]
        True
    """
    rank, spread = health.effective_rank, health.spread
    most = min(health.images, health.dimensions)
    figures = (
        f"spread {spread:.3f} of 1, effective rank {rank:.1f} of {most}, "
        f"{health.dead_dimensions:.0%} of {health.dimensions} dimensions dead"
    )
    if spread < _COLLAPSED_SPREAD:
        return True, f"Collapsed: all images have nearly the same features ({figures})."
    if rank < min(_COLLAPSED_RANK, most / 10):
        return True, f"Collapsed: the features hardly leave one direction ({figures})."
    if rank < _LOW_RANK_SHARE * most or health.dead_dimensions > _DEAD_SHARE:
        return False, f"Partly collapsed: few of the dimensions are used ({figures})."
    return False, f"Not collapsed ({figures})."


def _some(rows: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    if len(rows) <= count:
        return rows
    return rows[np.sort(draw.choice(len(rows), count, replace=False))]


def _uniformity(rows: np.ndarray) -> float:
    """Over all pairs of different rows."""
    total, pairs = 0.0, len(rows) * (len(rows) - 1)
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024]
        apart = np.maximum(2 - 2 * (block @ rows.T).astype(np.float64), 0)
        terms = np.exp(-UNIFORMITY_T * apart)
        total += float(terms.sum() - np.trace(terms[:, start:]))
    return float(np.log(total / pairs))


def _contrastive_accuracy(first: np.ndarray, second: np.ndarray) -> float:
    """Whether each first view is nearer to its second than to any other row, as the loss asks."""
    others = first @ first.T
    np.fill_diagonal(others, -np.inf)
    across = first @ second.T
    own = np.diagonal(across).copy()
    np.fill_diagonal(across, -np.inf)
    return float(np.mean(own > np.maximum(others.max(axis=1), across.max(axis=1))))
