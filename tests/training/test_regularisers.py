"""Penalties on weights, dropout of the linear head, weights of classes: each against arithmetic.

Steps run eagerly: tracing takes longer than all of them together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight
from tensorflow import keras

from simclr_tf.compat import is_compiled
from simclr_tf.errors import UserError
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.lars import LARS
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.decay import decay_loss
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.labels import balanced_weights
from simclr_tf.training.simclr import SimCLR

SIDE, WIDTH, CLASSES = 4, 6, 3
IMAGES = np.random.RandomState(0).uniform(size=(12, SIDE, SIDE, 1)).astype("float32")
LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2])


def encoder() -> keras.Model:
    layers = [keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten(), keras.layers.Dense(WIDTH)]
    return keras.Sequential([*layers, keras.layers.BatchNormalization()])


def classifier(**settings: Any) -> Classifier:
    keras.utils.set_random_seed(2)
    return Classifier(encoder(), CLASSES, **settings)


def step(model: Any, optimizer: Any = None, images: Any = IMAGES) -> dict[str, float]:
    if not is_compiled(model):
        model.compile(optimizer or keras.optimizers.SGD(0.1), run_eagerly=True)
    data = tf.data.Dataset.from_tensors((images, LABELS))
    history = model.fit(data, verbose=0).history
    return {name: float(np.mean(values[-1])) for name, values in history.items()}


@pytest.mark.one_lane
def test_smooth_l1_equals_its_formula() -> None:
    values = np.array([-2.0, -0.01, -0.004, 0.0, 0.003, 0.5])
    expected = sum(abs(v) - 0.005 if abs(v) > 0.01 else v * v / 0.02 for v in values)
    found = decay_loss([tf.Variable(values, dtype=tf.float32)], 0.3, "smooth_l1")
    assert float(found) == pytest.approx(0.3 * expected, rel=1e-5)


@pytest.mark.one_lane
@pytest.mark.parametrize("penalty", ["l2", "smooth_l1"])
def test_a_penalty_is_part_of_the_loss_and_its_gradient(penalty: str) -> None:
    plain, model = classifier(), classifier(weight_decay=0.2, weight_penalty=penalty)
    before = model.supervised_head.kernel.numpy()
    logs = step(model)
    step(plain)
    kernels = [w for w in model.trainable_variables if len(w.shape) == 2]
    assert logs["weight_decay"] > 0 and len(kernels) == 2
    slope = before if penalty == "l2" else np.clip(before / 0.01, -1, 1)
    moved = plain.supervised_head.kernel.numpy() - model.supervised_head.kernel.numpy()
    np.testing.assert_allclose(moved, 0.1 * 0.2 * slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_decoupled_decay_is_apart_from_the_gradient(make: Any) -> None:
    plain, model = classifier(), classifier(weight_decay=0.2, weight_penalty="decoupled")
    before = [np.asarray(v) for v in model.trainable_variables]
    logs = step(model, make(0.1))
    step(plain, make(0.1))
    assert logs["weight_decay"] == 0
    pairs = zip(model.trainable_variables, plain.trainable_variables, before, strict=True)
    for ours, theirs, start in pairs:
        is_norm = any(name in ours.name for name in ("gamma", "beta"))
        expected = np.zeros_like(start) if is_norm else 0.1 * 0.2 * start
        np.testing.assert_allclose(theirs - ours, expected, atol=2e-6, err_msg=ours.name)


def test_decoupled_decay_needs_an_optimizer_that_has_it() -> None:
    model = classifier(weight_decay=0.2, weight_penalty="decoupled")
    with pytest.raises(UserError, match="Expected an optimizer of Keras such as SGD or Adam"):
        model.compile(LARS(0.1))


def test_dropout_hides_features_from_the_head_by_the_seed() -> None:
    model = classifier(head_dropout=0.5)
    model.supervised_head.kernel.assign(tf.ones([WIDTH, CLASSES]))
    features = model.encoder(IMAGES, training=False).numpy()
    seed = tf.constant([3, 4])
    once = model(IMAGES, dropout_seed=seed).numpy()[:, 0]
    # Each feature is doubled or hidden: the sum must be one that a choice of features gives.
    choices = np.array(np.meshgrid(*[[0, 2.0]] * WIDTH)).reshape(WIDTH, -1)
    for row, total in zip(features, once, strict=True):
        assert np.abs(row @ choices - total).min() < 1e-4
    np.testing.assert_array_equal(model(IMAGES, dropout_seed=seed).numpy()[:, 0], once)
    assert (model(IMAGES, dropout_seed=seed + 1).numpy()[:, 0] != once).mean() > 0.5
    np.testing.assert_allclose(model(IMAGES)[:, 0], features.sum(1), rtol=1e-4, atol=1e-5)


def still(**settings: Any) -> Classifier:
    """A classifier that a step does not move, with a head that tells classes apart."""
    model = classifier(**settings)
    model.compile(keras.optimizers.SGD(0.0))
    model.supervised_head.kernel.assign(np.random.RandomState(1).normal(size=(WIDTH, CLASSES)))
    return model


def test_a_step_smooths_labels() -> None:
    model = still(label_smoothing=0.3)
    log_p = np.asarray(tf.nn.log_softmax(model(IMAGES, training=True)))
    expected = -0.7 * log_p[np.arange(12), LABELS].mean() - 0.3 * log_p.mean()
    assert step(still(label_smoothing=0.3))["supervised_loss"] == pytest.approx(expected, rel=1e-4)


def teacher() -> keras.Model:
    layers = [keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("make", [Classifier, Distiller])
def test_a_step_drops_features(make: Any) -> None:
    losses = {}
    for rate in (0.0, 0.6):
        keras.utils.set_random_seed(2)
        more = {"teacher": teacher()} if make is Distiller else {}
        model = make(encoder(), CLASSES, head_dropout=rate, **more)
        model.compile(keras.optimizers.SGD(0.0))
        model.supervised_head.kernel.assign(np.random.RandomState(1).normal(size=(WIDTH, CLASSES)))
        losses[rate] = step(model)["total_loss"]
        again = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
        losses[f"evaluated {rate}"] = again["loss"]
    assert losses[0.6] != pytest.approx(losses[0.0], rel=1e-3)
    assert losses["evaluated 0.6"] == pytest.approx(losses["evaluated 0.0"], rel=1e-2)


@pytest.mark.one_lane
def test_evaluation_does_not_smooth() -> None:
    found, expected = (
        still(label_smoothing=e).evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
        for e in (0.3, 0.0)
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_optimizer_is_compiled_again_or_has_its_own_decay() -> None:
    model = classifier(weight_decay=0.2, weight_penalty="decoupled")
    optimizer = keras.optimizers.SGD(0.1)
    step(model, optimizer)
    model.compile(optimizer)
    step(model)
    other = keras.optimizers.SGD(0.1, weight_decay=0.01)
    with pytest.raises(UserError, match="optimizer's weight_decay to be the model's, 0.2"):
        classifier(weight_decay=0.2, weight_penalty="decoupled").compile(other)
    with pytest.raises(UserError, match="Expected another optimizer than LARS"):
        classifier(weight_decay=0.2, weight_penalty="smooth_l1").compile(LARS(0.1))


@pytest.mark.one_lane
def test_balanced_weights_equal_scikit_learn() -> None:
    weights = balanced_weights(LABELS, CLASSES)
    expected = compute_class_weight("balanced", classes=np.arange(CLASSES), y=LABELS)
    np.testing.assert_allclose(weights, expected)
    assert balanced_weights(np.array([0, 0, 2, -1]), 4) == [0.75, 1.0, 1.5, 1.0]


@pytest.mark.one_lane
@pytest.mark.parametrize("make", ["classifier", "simclr"])
def test_weights_of_classes_weigh_the_head_s_loss(make: str) -> None:
    weights = [0.5, 2.0, 3.0]
    losses = []
    for given in (None, weights):
        keras.utils.set_random_seed(2)
        if make == "classifier":
            model, images = Classifier(encoder(), CLASSES, class_weights=given), IMAGES
        else:
            head = ProjectionHead("none")
            model = SimCLR(encoder(), head, num_classes=CLASSES, class_weights=given)
            images = (IMAGES, IMAGES)
        model.supervised_head.kernel.assign(tf.zeros([WIDTH, CLASSES]))
        losses.append(step(model, images=images)["supervised_loss"])
    # All classes have the same loss, ln 3.
    assert losses[0] == pytest.approx(np.log(3), rel=1e-5)
    assert losses[1] == pytest.approx(np.log(3) * np.take(weights, LABELS).mean(), rel=1e-5)


def test_settings_are_saved(tmp_path: Any) -> None:
    settings = {
        "weight_penalty": "smooth_l1", "label_smoothing": 0.1, "head_dropout": 0.2,
        "class_weights": [1.0, 2.0, 3.0],
    }  # fmt: skip
    classifier(**settings).save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert {name: getattr(again, name) for name in settings} == settings


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weight_penalty": "l1"}, "weight_penalty to be one of l2, smooth_l1, decoupled"),
        ({"label_smoothing": 1.0}, "0 <= label_smoothing < 1; received: 1.0"),
        ({"head_dropout": -0.1}, "0 <= head_dropout < 1; received: -0.1"),
        ({"class_weights": [1.0, 2.0]}, "at least 0 for each of 3 classes"),
        ({"class_weights": [1.0, 2.0, -1.0]}, "at least 0 for each of 3 classes"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier(**settings)


def test_a_distiller_learns_smooth_labels_already() -> None:
    for settings in ({"label_smoothing": 0.1}, {"class_weights": [1, 1, 1]}):
        with pytest.raises(UserError, match="Expected a Distiller without label_smoothing"):
            Distiller(encoder(), CLASSES, **settings)


def test_labels_of_a_loss_without_a_head() -> None:
    views = (IMAGES, IMAGES)
    model = SimCLR(encoder(), ProjectionHead("none"), loss="supcon")
    model.compile(keras.optimizers.SGD(0.1))
    ids = np.where(LABELS == 2, -1, LABELS)
    model.fit(tf.data.Dataset.from_tensors((views, ids)), verbose=0)
    for labels, words in (
        (np.eye(CLASSES)[LABELS], "for a loss that compares classes; received: shape"),
        (LABELS + 0.5, "whole numbers from -1 on"),
    ):
        with pytest.raises(UserError, match=words):
            model.train_on_batch(views, labels)
