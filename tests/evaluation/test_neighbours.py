"""Weighted nearest neighbours, against a loop over images, and in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fresh_python import run_code
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_tf.evaluation.neighbours import knn_scores, nearest_by_cosine, unit_rows

pytestmark = pytest.mark.one_lane


def slow_votes(train: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, t: float) -> list:
    """Votes of one query, as Wu et al. write them."""
    cosines = [float(a @ query / np.linalg.norm(a) / np.linalg.norm(query)) for a in train]
    nearest = sorted(range(len(train)), key=lambda i: -cosines[i])[:k]
    votes = [0.0] * (int(labels.max()) + 1)
    for i in nearest:
        votes[labels[i]] += math.exp(cosines[i] / t)
    return [vote / sum(votes) for vote in votes]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 8), st.integers(1, 6), st.sampled_from([0.07, 0.1, 1.0]),
    st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip
def test_votes_equal_the_formula(
    n: int, m: int, width: int, temperature: float, seed: int, scale: float
) -> None:
    random = np.random.RandomState(seed)
    train, test = random.randn(n, width + 2) * scale, random.randn(m, width + 2)
    labels = random.randint(0, 4, n)
    ks = sorted({1, min(5, n), n})
    found = list(knn_scores(train, labels, test, ks, [temperature]))
    assert [k for k, _, _ in found] == ks
    for k, _, votes in found:
        expected = [slow_votes(train, labels, query, k, temperature) for query in test]
        np.testing.assert_allclose(votes, expected, atol=2e-3)


def test_small_temperatures_do_not_overflow() -> None:
    random = np.random.RandomState(0)
    train, labels = random.randn(30, 4), random.randint(0, 3, 30)
    ((_, _, votes),) = knn_scores(train, labels, train, [30], [1e-4])
    assert np.isfinite(votes).all() and (votes.argmax(1) == labels).all()


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected k from 1 to the 3 training images"):
        list(knn_scores(np.eye(3), np.arange(3), np.eye(3), [5]))


def test_rows_of_zeros_stay_zero() -> None:
    assert (unit_rows(np.zeros((2, 3))) == 0).all()
    rows = np.array([[0.0, 0, 0], [1, 0, 0], [0.4, 0.9, 0], [-1, 0, 0]])
    cosine, nearest = nearest_by_cosine(rows, np.array([[1.0, 0, 0], [0, 0, 0]]), 4)
    assert nearest[0].tolist() == [1, 2, 0, 3]  # of no direction: between near and opposite
    np.testing.assert_allclose(cosine[0], [1, 0.406, 0, -1], atol=1e-3)
    np.testing.assert_allclose(cosine[1], 0, atol=1e-6)


_PEAK = """
import resource
import numpy as np
from simclr_tf.evaluation.neighbours import nearest_by_cosine
random = np.random.RandomState(0)
train, test = random.randn(40000, 16).astype("f"), random.randn(10000, 16).astype("f")
nearest_by_cosine(train[:100], test[:100], 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest_by_cosine(train, test, 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_product() -> None:
    """40,000 x 10,000 cosines are 1.6 GB."""
    done = run_code(_PEAK)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 200_000  # kB
