"""Classifiers of images that are of several classes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from tensorflow import keras
from tiny_models import small_encoder

from simclr_tf import Classifier, MultiLabelClassifier
from simclr_tf.errors import UserError
from simclr_tf.losses.cross_entropy import multi_label_loss
from simclr_tf.training.step_metrics import MeanAveragePrecision

CLASSES = 4


def examples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images whose quadrants are bright where the label's class is present."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 2, (count, CLASSES))
    images = random.uniform(0, 0.4, (count, 16, 16, 3))
    for place in range(CLASSES):
        top, left = 8 * (place // 2), 8 * (place % 2)
        images[:, top : top + 8, left : left + 8] += 0.5 * rows[:, place, None, None, None]
    return images.astype(np.float32), rows


def classifier(eager: bool = False, **settings: Any) -> MultiLabelClassifier:
    model = MultiLabelClassifier(small_encoder(), CLASSES, **settings)
    model.compile(keras.optimizers.Adam(3e-3), run_eagerly=eager)
    return model


@pytest.mark.one_lane
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.2]), st.booleans())
def test_the_loss_is_the_papers(seed: int, smoothing: float, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    labels, logits = random.integers(0, 2, (5, 3)), random.normal(size=(5, 3))
    weights = list(random.uniform(0.5, 2, 3)) if weighted else None
    expected = np.zeros(5)
    for row in range(5):
        for place in range(3):
            y = (1 - smoothing) * labels[row, place] + smoothing / 2
            p = 1 / (1 + np.exp(-logits[row, place]))
            term = -y * np.log(p) - (1 - y) * np.log(1 - p)
            expected[row] += term * (weights[place] if weights else 1) / 3
    found = multi_label_loss(tf.constant(labels), tf.constant(logits), smoothing, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.one_lane
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.floats(0.1, 8))
def test_average_precision_is_scikit_learns(seed: int, count: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, 3)) * [1, 1, 0]  # no image of the last class
    # Scores in different bins: those that share one count as equal.
    scores = (random.permuted(np.tile(np.arange(count), (3, 1)), axis=1).T + 0.5) / count
    metric = MeanAveragePrecision(3)
    for part in np.array_split(np.arange(count), 3):
        logits = 2 * np.log(scores[part] / (1 - scores[part]))
        metric.update_state(tf.constant(labels[part], tf.float32), tf.constant(logits))
    known = [place for place in range(3) if labels[:, place].any()]
    each = [average_precision_score(labels[:, place], scores[:, place]) for place in known]
    assert float(metric.result()) == pytest.approx(np.mean(each) if each else 0, abs=1e-5)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_it_learns_and_is_saved(tmp_path: Path) -> None:
    images, rows = examples(96)
    model = classifier(seed=1)
    model.fit(images, rows, batch_size=16, epochs=12, verbose=0)
    test_images, test_rows = examples(50, 1)
    found = model.evaluate(test_images, test_rows, batch_size=16, return_dict=True, verbose=0)
    scores = model.predict(test_images, verbose=0)
    expected = average_precision_score(test_rows, scores)
    assert found["label_mean_average_precision"] == pytest.approx(expected, abs=3e-3)
    assert found["label_accuracy"] == pytest.approx(np.mean((scores > 0) == test_rows))
    assert expected > 0.8  # of random scores: about a half
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is MultiLabelClassifier
    np.testing.assert_allclose(again.predict(test_images, verbose=0), scores, atol=1e-5)


# `test_replicas` has a classifier of one class on both lanes, its step on the other.
@pytest.mark.second_lane
@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_each_image_counts_once_on_replicas(strategy: Any) -> None:
    images, rows = examples(9)  # in fours: of the last batch one replica has none
    one = classifier(eager=True)
    with strategy.scope():
        several = classifier()
    several.set_weights(one.get_weights())
    expected = one.evaluate(images, rows, batch_size=4, return_dict=True, verbose=0)
    found = several.evaluate(images, rows, batch_size=4, return_dict=True, verbose=0)
    assert found == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
    for model in (one, several):
        model.fit(images[:7], rows[:7], batch_size=7, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        several.predict(images, verbose=0), one.predict(images, verbose=0), atol=1e-4
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.array([0, 1, 2]), r"rows \(N, 4\)"),
        (np.zeros((3, 5)), r"rows \(N, 4\)"),
        (np.array([[0, 1, 0, 1], [0, 2, 0, 0], [1, 1, 1, 1]]), r"from 0 to 1.*row 1: \[0, 2"),
        (np.full((3, 4), np.nan), "from 0 to 1"),
        (np.full((3, 4), "a"), "array of numbers"),
    ],
    ids=["ids", "columns", "a two", "nan", "text"],
)
def test_wrong_rows_are_refused(rows: np.ndarray, said: str) -> None:
    images, _ = examples(3)
    with pytest.raises(UserError, match=said):
        classifier().fit(images, rows, verbose=0)


def test_a_classifier_of_one_class_names_it() -> None:
    images, _ = examples(2)
    model = Classifier(small_encoder(), CLASSES)
    model.compile("sgd")
    with pytest.raises(UserError, match="MultiLabelClassifier"):
        model.fit(images, np.ones((2, CLASSES), int), verbose=0)
