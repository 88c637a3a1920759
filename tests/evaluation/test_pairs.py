"""Verification and retrieval, against loops over pairs and rankings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from simclr_tf.evaluation import pairs

pytestmark = pytest.mark.one_lane


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 25), st.integers(2, 4), st.integers(0, 10**6))
def test_pairs_are_fair(count: int, classes: int, seed: int) -> None:
    labels = np.random.RandomState(seed).randint(0, classes, count)
    labels[:3] = [0, 0, 1]
    same = sum(labels[i] == labels[j] for i in range(count) for j in range(i))
    different = count * (count - 1) // 2 - same
    first, second, is_same = pairs._pairs(labels, 10**6, np.random.default_rng(seed))
    assert len(first) == 2 * min(same, different) and is_same.sum() * 2 == len(first)
    assert ((labels[first] == labels[second]) == is_same).all()
    assert (first != second).all()
    assert len({frozenset(p) for p in zip(first, second, strict=True)}) == len(first)


def test_pairs_are_drawn_evenly() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    seen: dict[frozenset, int] = {}
    for seed in range(2000):
        first, second, _ = pairs._pairs(labels, 2, np.random.default_rng(seed))
        for pair in zip(first.tolist(), second.tolist(), strict=True):
            seen[frozenset(pair)] = seen.get(frozenset(pair), 0) + 1
    assert len(seen) == 15  # every pair there is
    same = [n for pair, n in seen.items() if len({labels[i] for i in pair}) == 1]
    assert len(same) == 4 and min(same) > 400 and sum(same) == 2000
    assert min(seen.values()) > 120  # 2000 / 11 of different classes


def test_verification_of_known_features() -> None:
    labels = np.repeat([0, 1, 2], 20)
    random = np.random.RandomState(0)
    apart = pairs.verification(np.eye(3)[labels] + 0.01 * random.randn(60, 3), labels)
    assert apart["area_under_curve"] == 1 and apart["equal_error_rate"] == 0
    assert apart["accuracy"] == 1 and 0 < apart["threshold"] < 1
    chance = pairs.verification(random.randn(300, 8), np.repeat(np.arange(10), 30))
    assert chance["area_under_curve"] == pytest.approx(0.5, abs=0.05)
    assert chance["equal_error_rate"] == pytest.approx(0.5, abs=0.05)
    assert chance["accuracy"] == pytest.approx(0.5, abs=0.05)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
def test_the_equal_error_rate_is_where_the_errors_meet(
    same: int, different: int, seed: int, ties: bool
) -> None:
    random = np.random.RandomState(seed)
    scores = random.randint(0, 4, same + different) if ties else random.rand(same + different)
    is_same = np.arange(same + different) < same
    false_accepted, accepted, _ = metrics.roc_curve(is_same, scores, drop_intermediate=False)
    found = pairs._crossing(false_accepted, 1 - accepted)
    fine = np.linspace(0, len(accepted) - 1, 20_001)  # the same curves, finely
    rising = np.interp(fine, np.arange(len(accepted)), false_accepted)
    falling = np.interp(fine, np.arange(len(accepted)), 1 - accepted)
    assert found == pytest.approx(rising[np.argmin(np.abs(rising - falling))], abs=2e-3)


def test_the_equal_error_rate_of_one_intruder() -> None:
    cosine = np.r_[np.linspace(0.5, 0.59, 10), 0.95, np.linspace(0.1, 0.18, 9)]
    curve = metrics.roc_curve(np.arange(20) < 10, cosine, drop_intermediate=False)
    assert pairs._crossing(curve[0], 1 - curve[1]) == pytest.approx(0.1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(90, 320), st.integers(0, 10**6))
def test_true_accepts_at_one_percent_of_false_ones(same: int, different: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    is_same = random.permutation(same + different) < same
    cosine = random.randint(0, 40, same + different) / 40 + 0.3 * is_same  # ties
    best = 0.0
    for threshold in [*cosine, 2.0]:
        false_accepts = sum(c >= threshold for c in cosine[~is_same])
        if false_accepts <= 0.01 * different:
            best = max(best, sum(c >= threshold for c in cosine[is_same]) / same)
    scores = pairs.verification_scores(pairs.Pairs(cosine, is_same))
    assert scores["true_accept_rate"] == pytest.approx(best)


def test_verification_equals_scikit_learn_on_all_pairs() -> None:
    random = np.random.RandomState(1)
    labels = np.array([0, 0, 1, 1])  # 2 of the same class, 4 of different ones: 2 of them drawn
    labels = np.concatenate([labels, labels + 2])
    features = random.randn(8, 3)
    found = pairs.verification(features, labels, seed=5)
    first, second, same = pairs._pairs(labels, pairs.MOST_PAIRS, np.random.default_rng(5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = (unit[first] * unit[second]).sum(1)
    assert found["pairs"] == 8
    assert found["area_under_curve"] == pytest.approx(metrics.roc_auc_score(same, cosine), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 30), st.integers(1, 5), st.integers(0, 10**6))
def test_retrieval_equals_a_loop(count: int, classes: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    features, labels = random.randn(count, 4), random.randint(0, classes, count)
    labels[1] = labels[0]
    found = pairs.retrieval_scores(features, labels, [1, 2])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    average, first, second = [], [], []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        right = [labels[j] == labels[i] for j in others]
        if not any(right):
            continue
        cosine = unit[others] @ unit[i]
        average.append(metrics.average_precision_score(right, cosine))
        ranked = np.array(right)[np.argsort(-cosine)]
        first.append(ranked[:1].mean())
        second.append(ranked[:2].mean())
    assert found["mean_average_precision"] == pytest.approx(np.mean(average), abs=1e-6)
    assert found["precision_at_1"] == pytest.approx(np.mean(first))
    assert found["precision_at_2"] == pytest.approx(np.mean(second))


def test_what_has_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="each alone in its class"):
        pairs.verification(np.eye(3), np.arange(3))
    with pytest.raises(ValueError, match="one class"):
        pairs.verification(np.eye(3), np.zeros(3, int))
    with pytest.raises(ValueError, match="each alone in its class"):
        pairs.retrieval_scores(np.eye(3), np.arange(3), [1])
    with pytest.raises(ValueError, match="k below the 3 images"):
        pairs.retrieval_scores(np.eye(3), np.zeros(3, int), [3])
