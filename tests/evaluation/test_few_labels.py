"""Accuracy with few labels: how many are drawn, and what is done with them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from simclr_tf.datasets.labelled import choose_labelled
from simclr_tf.evaluation.few_labels import few_label_accuracy

pytestmark = pytest.mark.one_lane


def test_shares_and_shots() -> None:
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(4), 50)
    features = np.eye(4)[labels] * 3 + random.randn(200, 4)
    found = few_label_accuracy(features, labels, features, labels, seeds=[0, 1])
    assert {name: row["labels"] for name, row in found.items()} == {
        "10%": 20,
        "1 shot": 4,
        "5 shots": 20,
        "10 shots": 40,
    }  # fmt: skip  (1% would be two labels for four classes)
    for row in found.values():
        assert len(row["accuracies"]) == 2
        assert row["mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["spread"] == pytest.approx(np.std(row["accuracies"]))
    assert found["10 shots"]["mean"] > found["1 shot"]["mean"] > 0.25
    assert found["1 shot"]["accuracies"][0] != found["1 shot"]["accuracies"][1]


def test_it_is_scikit_learns_logistic_regression() -> None:
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(3), 40)
    features = np.eye(3)[labels] + random.randn(120, 3)
    found = few_label_accuracy(
        features, labels, features, labels, shares=[0.1], shots=[], seeds=[7]
    )
    chosen = choose_labelled(labels, 0.1, 7)
    scaled = StandardScaler().fit_transform(features)
    probe = LogisticRegression(C=1.0, max_iter=500).fit(scaled[chosen], labels[chosen])
    assert found["10%"]["accuracies"] == [pytest.approx(probe.score(scaled, labels))]


def test_more_shots_than_images_are_left_out() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    found = few_label_accuracy(np.eye(9), labels, np.eye(9), labels, seeds=[0])
    assert list(found) == ["1 shot"]
    with pytest.raises(ValueError, match="two classes or more"):
        few_label_accuracy(np.eye(3), np.zeros(3, int), np.eye(3), np.zeros(3, int))
