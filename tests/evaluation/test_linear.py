"""Logistic regression over the paper's grid, and ridge in closed form: equal to scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info

from simclr_tf.evaluation import linear

pytestmark = pytest.mark.one_lane


def blobs(count: int = 240, classes: int = 4, width: int = 6, seed: int = 0) -> tuple:
    random = np.random.RandomState(seed)
    centres = 1.2 * random.randn(classes, width)
    labels = random.randint(0, classes, count)
    features = centres[labels] + random.randn(count, width)
    return features.astype(np.float32), labels


def test_the_grid_is_the_papers() -> None:
    assert len(linear.PENALTIES) == 45
    assert linear.PENALTIES[0] == pytest.approx(1e-6) and linear.PENALTIES[-1] == pytest.approx(1e5)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 1.0, 100.0])
def test_logistic_regression_is_as_near_to_the_optimum_as_scikit_learns(penalty: float) -> None:
    """Which is far where the penalty is weak; ours starts from four fifths of the images."""
    features, labels = blobs()
    train, test = slice(0, 160), slice(160, None)
    found = linear.logistic_regression(features[train], labels[train], features[test], [penalty])

    def probabilities(tolerance: float) -> np.ndarray:
        probe = LogisticRegression(C=1 / penalty, max_iter=100_000, tol=tolerance)
        fitted = make_pipeline(StandardScaler(), probe).fit(
            features[train].astype(np.float64), labels[train]
        )
        return fitted.predict_proba(features[test].astype(np.float64))

    exact = probabilities(1e-10)
    allowed = max(3e-3, 2 * np.abs(probabilities(1e-4) - exact).max())
    np.testing.assert_allclose(found.class_scores, exact, rtol=0, atol=allowed)
    assert (found.class_scores.argmax(1) == exact.argmax(1)).mean() > 0.98


@settings(max_examples=10, deadline=None)
@given(
    places=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    value=st.sampled_from([0.0, 1.0, -3.5]),
    seed=st.integers(0, 100),
)
def test_constant_dimensions_count_for_nothing(places: list[int], value: float, seed: int) -> None:
    """As scikit-learn has it, which spends its time on them."""
    features, labels = blobs(seed=seed)
    padded = np.insert(features, places, value, axis=1).astype(np.float32)
    results = [
        linear.logistic_regression(x[:160], labels[:160], x[160:], [1.0, 100.0])
        for x in (features, padded)
    ]
    np.testing.assert_array_equal(results[0].class_scores, results[1].class_scores)
    assert results[0][1:] == results[1][1:]


def test_features_that_are_all_constant_or_no_numbers() -> None:
    labels = np.arange(40) % 2
    found = linear.logistic_regression(np.ones((40, 3)), labels, np.ones((5, 3)), [1.0])
    np.testing.assert_allclose(found.class_scores, 0.5, atol=1e-6)
    features = np.ones((40, 3))
    features[0, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        linear.logistic_regression(features, labels, np.ones((5, 3)), [1.0])


def test_kinds_fitted_side_by_side_are_those_fitted_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the process's filters of warnings and limits of threads are as before."""
    monkeypatch.setattr(linear.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(linear, "MOST_ITERATIONS", 5)  # all would warn
    kinds = [blobs(seed=seed)[0] for seed in range(4)]
    labels = blobs()[1]

    def fit(features: np.ndarray) -> np.ndarray:
        assert threadpools() == {1}
        warnings.warn("hidden, whatever the fits beside it do", ConvergenceWarning, stacklevel=1)
        return linear.logistic_regression(features, labels, features[:20]).class_scores

    def threadpools() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    in_turn = [linear.logistic_regression(x, labels, x[:20]).class_scores for x in kinds]
    before = threadpools(), list(warnings.filters)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with linear.side_by_side(kinds) as pool:
            together = list(pool.map(fit, kinds))
            assert pool._max_workers == 3
    assert not warned and (threadpools(), list(warnings.filters)) == before
    np.testing.assert_array_equal(together, in_turn)
    monkeypatch.setattr(linear, "_ONE_THREAD", 4 * kinds[0].size - 1)  # too large together
    with linear.side_by_side(kinds) as pool:
        assert pool._max_workers == 1


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0, 1e5])
@pytest.mark.parametrize("classes", [2, 4])
def test_ridge_equals_scikit_learns(penalty: float, classes: int) -> None:
    features, labels = blobs(classes=classes)
    features = np.concatenate([features, features[:, :1], np.ones_like(features[:, :1])], axis=1)
    train, test = slice(0, 160), slice(160, None)  # with a double and a constant dimension
    found = linear.ridge(features[train], labels[train], features[test], [penalty])
    expected = make_pipeline(StandardScaler(), RidgeClassifier(alpha=penalty))
    expected.fit(features[train], labels[train])
    scores = expected.decision_function(features[test])
    ours = found.class_scores[:, 1] if classes == 2 else found.class_scores
    np.testing.assert_allclose(ours, scores, atol=2e-5)
    assert (found.class_scores.argmax(1) == expected.predict(features[test])).all()


@pytest.mark.parametrize("fit", [linear.logistic_regression, linear.ridge])
def test_the_validation_part_chooses_the_penalty(fit: object) -> None:
    features, labels = blobs(seed=1)
    penalties = [1e-6, 1.0, 1e5]
    found = fit(features[:160], labels[:160], features[160:], penalties, seed=3)  # type: ignore[operator]
    parts = linear.validation_part(labels[:160], 3)
    accuracies = []
    for penalty in penalties:
        probe = (
            RidgeClassifier(alpha=penalty)
            if fit is linear.ridge
            else LogisticRegression(C=1 / penalty, max_iter=1000)
        )
        fitted = make_pipeline(StandardScaler(), probe).fit(features[parts[0]], labels[parts[0]])
        accuracies.append(fitted.score(features[parts[1]], labels[parts[1]]))
    best = max(accuracies)
    assert found.validation_accuracy == pytest.approx(best, abs=1 / len(parts[1]) + 1e-9)
    assert found.penalty == max(p for p, a in zip(penalties, accuracies, strict=True) if a == best)
    # What the test images are decides nothing.
    other = fit(features[:160], labels[:160], -features[160:], penalties, seed=3)  # type: ignore[operator]
    assert other.penalty == found.penalty


@pytest.mark.parametrize("fit", [linear.logistic_regression, linear.ridge])
def test_classes_keep_their_places(fit: object) -> None:
    """Classes 1 and 4 alone are in the training images; the test knows six."""
    features, labels = blobs(classes=2)
    labels = np.where(labels, 4, 1)
    found = fit(features[:160], labels[:160], features[160:], [1.0], num_classes=6)  # type: ignore[operator]
    assert found.class_scores.shape == (80, 6)
    assert set(found.class_scores.argmax(1)) <= {1, 4}
    assert (found.class_scores.argmax(1) == labels[160:]).mean() > 0.8


@pytest.mark.parametrize("fit", [linear.logistic_regression, linear.ridge])
def test_one_class_is_refused(fit: object) -> None:
    with pytest.raises(ValueError, match="two classes or more"):
        fit(np.eye(4), np.zeros(4, int), np.eye(4))  # type: ignore[operator]


def test_the_parts_have_the_same_classes() -> None:
    labels = np.repeat(np.arange(5), 20)
    fit, held = linear.validation_part(labels, 0)
    assert len(held) == 20 and sorted([*fit, *held]) == list(range(100))
    assert np.bincount(labels[held]).tolist() == [4] * 5
    assert (held != linear.validation_part(labels, 1)[1]).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 10**6))
def test_every_class_keeps_images_to_fit_to(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    fit, held = linear.validation_part(labels, seed)
    assert set(labels[fit]) == set(labels)
    if len(held) < len(labels):
        assert sorted([*fit, *held]) == list(range(len(labels)))
        assert len(held) <= len(labels) / 3 + 1
    for label, count in zip(np.unique(labels), counts, strict=True):
        if count >= 5 and len(held) < len(labels):
            assert (labels[held] == label).sum() == count // 5


@pytest.mark.parametrize("fit", [linear.logistic_regression, linear.ridge])
def test_a_class_of_one_image_does_not_stop_it(fit: object) -> None:
    features, _ = blobs(count=6)
    found = fit(features, np.array([0, 0, 0, 0, 0, 1]), features, [1.0])  # type: ignore[operator]
    assert found.class_scores.shape == (6, 2)
    each = fit(features[:3], np.arange(3), features, [1.0])  # type: ignore[operator]
    assert each.class_scores.shape == (6, 3)
