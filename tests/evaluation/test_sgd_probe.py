"""The SGD probe: heads that never meet, against NumPy and against each trained alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.evaluation.sgd_probe import sgd_probe


def setting(count: int = 32, width: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    labels = random.randint(0, classes, count)
    return (np.eye(width)[labels] + random.randn(count, width)).astype("f"), labels


def batches(features: np.ndarray, labels: np.ndarray, size: int) -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices((features, labels.astype("int64")))
    return data.repeat().batch(size)


def probe(rates: list[float], **changes: object) -> object:
    features, labels = setting()
    arguments = {
        "num_classes": 3, "num_examples": 32, "batch_size": 8, "epochs": 3, "learning_rates": rates,
        **changes,
    }  # fmt: skip
    encoder = lambda images: 2.0 * images  # noqa: E731
    data = batches(features, labels, 8)
    return sgd_probe(encoder, data, (2 * features[:9], labels[:9]), 2 * features, **arguments)


def by_hand(rate: float, momentum: float = 0.9) -> np.ndarray:
    """Logits after softmax regression with Nesterov momentum and cosine decay, in float64."""
    features, labels = setting()
    x, y = 2 * features.astype(np.float64), np.eye(3)[labels]
    weights, bias = np.zeros((5, 3)), np.zeros(3)
    speed, bias_speed = np.zeros_like(weights), np.zeros(3)
    steps = 3 * 32 // 8 + 1  # the release's count of steps
    for step in range(steps):
        rows = np.arange(8 * step, 8 * step + 8) % 32
        logits = x[rows] @ weights + bias
        share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        gradient = x[rows].T @ (share - y[rows]) / 8
        bias_gradient = (share - y[rows]).mean(0)
        now = rate * 8 / 256 * (1 + math.cos(math.pi * step / steps)) / 2
        speed = momentum * speed - now * gradient
        bias_speed = momentum * bias_speed - now * bias_gradient
        weights += momentum * speed - now * gradient
        bias += momentum * bias_speed - now * bias_gradient
    return x @ weights + bias


def test_it_is_softmax_regression() -> None:
    rates = [0.1, 1.0, 10.0]
    found = probe(rates)
    assert found.class_scores.shape == (3, 32, 3)
    for rate, logits in zip(rates, found.class_scores, strict=True):
        np.testing.assert_allclose(logits, by_hand(rate), atol=1e-4, rtol=1e-4)


def test_heads_never_meet() -> None:
    together = probe([0.1, 1e6, 1.0])  # one that diverges spoils no other
    for position, rate in ((0, 0.1), (2, 1.0)):
        alone = probe([rate]).class_scores[0]
        np.testing.assert_allclose(together.class_scores[position], alone, atol=1e-5)


def test_the_validation_part_chooses() -> None:
    rates = [1e6, 3.0, 0.3, 1e-9]
    found = probe(rates)
    features, labels = setting()
    for logits, accuracy in zip(found.class_scores, found.validation_accuracy, strict=True):
        assert accuracy == np.mean(logits[:9].argmax(1) == labels[:9])
    most = max(found.validation_accuracy)
    assert len(set(found.validation_accuracy)) > 1
    equals = [r for r, a in zip(rates, found.validation_accuracy, strict=True) if a == most]
    assert rates[found.best] == min(equals)


@pytest.mark.one_lane
def test_views_are_drawn_anew_each_step_from_the_seed() -> None:
    seeds = []

    def view(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        tf.py_function(lambda s: seeds.append(s.numpy().tolist()), [seed], [])
        return images

    epochs = []
    probe([0.1], view=view, seed=7, on_epoch=lambda number, loss: epochs.append((number, loss)))
    assert seeds == [[7, step] for step in range(13)]
    assert [number for number, _ in epochs] == [1, 2, 3, 3]
    assert epochs[0][1] > epochs[2][1]
