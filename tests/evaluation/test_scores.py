"""Scores of a classification, against scikit-learn and a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from simclr_tf.evaluation.scores import classification_scores, top_k

pytestmark = pytest.mark.one_lane


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 10**6), st.booleans())
def test_they_equal_scikit_learn(count: int, classes: int, seed: int, ties: bool) -> None:
    random = np.random.RandomState(seed)
    labels = random.randint(0, classes, count)
    scores = random.randint(0, 3, (count, classes)) if ties else random.rand(count, classes)
    found = classification_scores(labels, scores)
    predicted = scores.argmax(1)
    assert found["top_1"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    every = np.arange(classes)
    assert found["confusion"] == metrics.confusion_matrix(labels, predicted, labels=every).tolist()
    for name, score in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        # scikit-learn's macro mean is over the classes that occur or are predicted, as ours.
        expected = score(labels, predicted, average="macro", zero_division=0)
        assert found[name] == pytest.approx(expected), name
    accuracies = [(predicted == labels)[labels == c].mean() for c in np.unique(labels)]
    assert found["mean_per_class"] == pytest.approx(np.mean(accuracies))
    assert found["per_class"]["support"] == np.bincount(labels, minlength=classes).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(2, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_top_k_is_the_place_in_the_ranking(n: int, classes: int, k: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    labels, scores = random.randint(0, classes, n), random.randint(0, 4, (n, classes))
    hits = 0
    for label, row in zip(labels, scores, strict=True):
        ranking = sorted(range(classes), key=lambda c: (-row[c], c))
        hits += label in ranking[:k]
    assert top_k(labels, scores, k) == pytest.approx(hits / n)
    assert top_k(labels, scores, 1) == pytest.approx(np.mean(scores.argmax(1) == labels))


def test_what_does_not_fit_is_refused() -> None:
    for labels, scores in (([], np.zeros((0, 3))), ([1], np.zeros((2, 3))), ([1], np.zeros(3))):
        with pytest.raises(ValueError, match="Expected scores"):
            classification_scores(np.array(labels, int), scores)
