"""The linear head behind batch norm: what it computes, and that it stays linear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow import keras

from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.checkpoints.store import save_weights
from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.compat import raw_variable
from simclr_tf.errors import UserError
from simclr_tf.models.heads import LinearHead, ProjectionHead, linear_head, without_batch_norm
from simclr_tf.optim.lars import LARS
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_saved_model

CLASSES, EPSILON = 3, 1e-5
RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (2, 12, 8, 8, 3)).astype("uint8")
LABELS = np.arange(12) % CLASSES
KERNEL, BIAS = (f"supervised_head/linear_layer/dense/{name}" for name in ("kernel", "bias"))
STATISTICS = ("supervised_head/bn/moving_mean", "supervised_head/bn/moving_variance")


def encoder() -> keras.Model:
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, 2, activation="relu")(images)
    return keras.Model(images, 20.0 * keras.layers.GlobalAveragePooling2D()(x))


def make_model(**given_settings: Any) -> SimCLR:
    keras.utils.set_random_seed(4)
    head = ProjectionHead(out_dim=4, num_layers=2)
    model = SimCLR(encoder(), head, num_classes=CLASSES, **given_settings)
    model.compile(LARS(0.1, weight_decay=1e-4))
    return model


def fit(model: SimCLR) -> SimCLR:
    data = tf.data.Dataset.from_tensors(((IMAGES[0], IMAGES[1]), LABELS)).repeat(3)
    model.fit(data, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained() -> SimCLR:
    return fit(make_model(supervised_batch_norm=True))


def logits(model: SimCLR) -> np.ndarray:
    return np.asarray(model.supervised_head(model(IMAGES[0])))


def values(model: Any) -> dict[str, np.ndarray]:
    return {name: raw_variable(v).numpy() for name, v in model_variables(model).items()}


def test_without_batch_norm_it_is_a_dense_layer() -> None:
    features = RANDOM.normal(size=(6, 5)).astype("float32")
    head = linear_head(CLASSES)
    head.build((None, 5))
    dense = keras.layers.Dense(CLASSES)
    dense.build((None, 5))
    dense.set_weights(head.get_weights())
    for training in (False, True):
        np.testing.assert_array_equal(head(features, training=training), dense(features))
    assert len(head.weights) == 2
    with pytest.raises(UserError, match="num_classes of at least 1; received: 0"):
        linear_head(0)


def test_it_normalises_by_the_batch_in_training_and_by_moving_statistics_after() -> None:
    features = RANDOM.normal(3.0, 2.0, (16, 5)).astype("float32")
    head = linear_head(CLASSES, batch_norm=True, batch_norm_momentum=0.75)
    head.build((None, 5))
    kernel, bias = np.asarray(head.kernel), RANDOM.normal(size=CLASSES).astype("float32")
    head.bias.assign(bias)
    mean, variance = features.mean(0), features.var(0)
    expected = (features - mean) / np.sqrt(variance + EPSILON) @ kernel + bias
    np.testing.assert_allclose(head(features, training=True), expected, rtol=1e-4, atol=1e-5)
    moved_mean, moved_variance = 0.25 * mean, 0.75 + 0.25 * variance
    expected = (features - moved_mean) / np.sqrt(moved_variance + EPSILON) @ kernel + bias
    np.testing.assert_allclose(head(features), expected, rtol=1e-4, atol=1e-5)
    assert len(head.trainable_weights) == 2
    rebuilt = LinearHead.from_config(head.get_config())
    assert rebuilt.batch_norm is not None and rebuilt.batch_norm.momentum == 0.75


NUMBERS = st.floats(-10, 10, width=32)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float32, (4, 5), elements=NUMBERS),
    hnp.arrays(np.float32, (5, CLASSES), elements=NUMBERS),
    hnp.arrays(np.float32, (CLASSES,), elements=NUMBERS),
    hnp.arrays(np.float32, (5,), elements=NUMBERS),
    hnp.arrays(np.float32, (5,), elements=st.floats(0, 100, width=32)),
)
def test_the_plain_head_that_it_equals(
    features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: Any
) -> None:
    # In float64: the rule is exact, float32's rounding is not its affair.
    features, kernel, bias, mean, variance = (
        array.astype("float64") for array in (features, kernel, bias, mean, variance)
    )
    expected = (features - mean) / np.sqrt(variance + EPSILON) @ kernel + bias
    plain_kernel, plain_bias = without_batch_norm(kernel, bias, mean, variance)
    given_logits = features @ plain_kernel + plain_bias
    np.testing.assert_allclose(given_logits, expected, rtol=1e-7, atol=1e-6)


def test_it_changes_nothing_but_the_head(trained: SimCLR) -> None:
    plain, normalised = values(fit(make_model())), values(trained)
    heads = {KERNEL, BIAS, *STATISTICS}
    assert set(normalised) - set(plain) == set(STATISTICS)
    for name in set(plain) - heads:
        np.testing.assert_allclose(normalised[name], plain[name], rtol=1e-5, atol=1e-6)
    assert np.abs(normalised[KERNEL] - plain[KERNEL]).max() > 1e-3
    assert np.abs(normalised[STATISTICS[0]]).max() > 0.01


def test_checkpoints_keep_it(trained: SimCLR, tmp_path: Path) -> None:
    prefix = save_weights(trained, str(tmp_path), 3)
    assert set(STATISTICS) <= set(StoredWeights(prefix).shapes)
    again = make_model(supervised_batch_norm=True)
    report = load_weights(again, prefix, whole=True)
    assert not (report.missing or report.unused or report.mismatched)
    np.testing.assert_array_equal(logits(again), logits(trained))


def test_keras_files_keep_it(trained: SimCLR, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert again.supervised_head.batch_norm is not None
    np.testing.assert_array_equal(logits(again), logits(trained))


def test_a_classifier_starts_from_the_plain_head(trained: SimCLR, tmp_path: Path) -> None:
    prefix = save_weights(trained, str(tmp_path), 3)
    head = ProjectionHead(out_dim=4, num_layers=2)
    classifier = Classifier(encoder(), CLASSES, head)
    report = load_weights(classifier, prefix, whole=True)
    assert not (report.missing or report.unused or report.mismatched), report.describe()
    np.testing.assert_allclose(classifier(IMAGES[0]), logits(trained), rtol=1e-4, atol=1e-4)

    start = np.asarray(classifier.supervised_head.kernel)
    report = load_weights(classifier, prefix, "(?!head_supervised)")
    assert {KERNEL, BIAS} <= set(report.filtered) and not report.unused
    np.testing.assert_array_equal(np.asarray(classifier.supervised_head.kernel), start)

    others = Classifier(encoder(), CLASSES + 1, head)
    start = np.asarray(others.supervised_head.kernel)
    assert KERNEL in load_weights(others, prefix).mismatched
    np.testing.assert_array_equal(np.asarray(others.supervised_head.kernel), start)


def test_a_file_of_a_plain_head_lacks_the_statistics(trained: SimCLR, tmp_path: Path) -> None:
    prefix = save_weights(make_model(), str(tmp_path), 3)
    model = make_model(supervised_batch_norm=True)
    assert set(load_weights(model, prefix, whole=True).missing) == set(STATISTICS)


def test_exports_hold_a_plain_head(trained: SimCLR, tmp_path: Path) -> None:
    path = export_saved_model(trained, str(tmp_path / "export"))
    images = tf.constant(IMAGES[0] / 255.0, tf.float32)
    outputs = tf.saved_model.load(path)(images, trainable=False)
    np.testing.assert_allclose(outputs["logits_sup"], logits(trained), rtol=1e-4, atol=1e-4)
    held = StoredWeights(path).shapes
    assert {KERNEL, BIAS} <= set(held) and not set(STATISTICS) & set(held)
    assert trained.supervised_head.batch_norm is not None
    plain = make_model()
    assert plain.with_plain_head() is plain


def test_exports_of_replicas(strategy: Any, tmp_path: Path) -> None:
    with strategy.scope():
        model = make_model(supervised_batch_norm=True)
        norm = model.supervised_head.batch_norm
        for moving in (norm.moving_mean, norm.moving_variance):
            raw_variable(moving).assign(RANDOM.uniform(1, 5, moving.shape).astype("float32"))
    outputs = tf.saved_model.load(export_saved_model(model, str(tmp_path / "export")))(
        tf.constant(IMAGES[0] / 255.0, tf.float32), trainable=False
    )
    np.testing.assert_allclose(outputs["logits_sup"], logits(model), rtol=1e-4, atol=1e-4)


def test_it_stays_in_float32_under_mixed_precision() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        head = linear_head(CLASSES, batch_norm=True)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    outputs = head(tf.ones([4, 5], tf.float16), training=True)
    assert outputs.dtype == tf.float32
    assert all(tf.as_dtype(variable.dtype) == tf.float32 for variable in head.weights)
