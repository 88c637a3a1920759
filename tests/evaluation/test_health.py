"""Figures without labels: closed forms, slow references, and what collapse looks like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_tf.evaluation.health import effective_rank, feature_health, spectrum_slope, verdict

pytestmark = pytest.mark.one_lane


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(np.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(np.ones((50, 8))) == pytest.approx(1, abs=1e-3)
    # Two equal singular values and nothing else.
    two = np.concatenate([np.repeat([[1.0, 0, 0, 0]], 5, 0), np.repeat([[0, 1.0, 0, 0]], 5, 0)])
    assert effective_rank(two) == pytest.approx(2, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 30), st.integers(2, 8), st.integers(0, 10**6))
def test_figures_equal_slow_references(n: int, d: int, seed: int) -> None:
    features = np.random.RandomState(seed).randn(n, d).astype(np.float32)
    found = feature_health(features)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum() + 1e-7
    assert found.effective_rank == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-3
    )
    terms = [
        math.exp(-2 * float(np.sum((rows[i] - rows[j]) ** 2)))
        for i in range(n) for j in range(n) if i != j
    ]  # fmt: skip
    assert found.uniformity == pytest.approx(math.log(np.mean(terms)), abs=1e-3)
    assert found.spread == pytest.approx(np.mean(rows.std(0)) * math.sqrt(d), rel=1e-3)


def test_alignment_and_contrastive_accuracy() -> None:
    random = np.random.RandomState(0)
    first = random.randn(40, 8)
    second = first + 0.1 * random.randn(40, 8)
    found = feature_health(first, (first, second))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    assert found.alignment == pytest.approx(np.mean(np.sum((unit[0] - unit[1]) ** 2, 1)), rel=1e-4)
    assert found.contrastive_accuracy == 1
    shuffled = feature_health(first, (first, np.roll(second, 1, axis=0)))
    assert shuffled.contrastive_accuracy == 0 and shuffled.alignment is not None


def test_the_slope_of_a_power_law() -> None:
    random = np.random.RandomState(0)
    rotation = np.linalg.qr(random.randn(20, 20))[0]
    for alpha in (0.5, 1.0, 2.0):
        scales = np.arange(1, 21) ** (-alpha / 2)
        features = random.randn(20_000, 20) * scales @ rotation
        assert spectrum_slope(features) == pytest.approx(alpha, abs=0.05)
    assert spectrum_slope(np.ones((5, 4))) == math.inf


def test_collapse_is_told_from_health() -> None:
    random = np.random.RandomState(0)
    noise = random.randn(500, 64)
    point = random.rand(64)
    line = random.randn(500, 1) * point
    few = noise * (np.arange(64) < 4)
    assert not verdict(feature_health(noise))[0]
    assert not verdict(feature_health(np.maximum(noise, 0)))[0]  # as behind a ReLU
    for name, features in {
        "zeros": np.zeros((500, 64)),
        "a point": point + 1e-3 * noise * point,
        "a line": line,
    }.items():
        collapsed, text = verdict(feature_health(features))
        assert collapsed and text.startswith("Collapsed"), (name, text)
    collapsed, text = verdict(feature_health(few))
    assert not collapsed and text.startswith("Partly collapsed")
    assert feature_health(few).dead_dimensions == pytest.approx(60 / 64)


def test_what_is_no_features_is_refused() -> None:
    with pytest.raises(ValueError, match="N of 2 or more"):
        feature_health(np.ones((1, 4)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        feature_health(np.array([[1.0, np.nan], [0, 0]]))
