"""The norm of the whole gradient, clipping to it, and steps that NaN or infinity make worthless."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import batches_taken, loss_scale, raw_variable
from simclr_tf.errors import UserError
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR

SIDE, BATCH = 4, 8


class Reciprocal(keras.layers.Layer):
    """1 / x: a black image has infinite features, and through batch norm makes all others NaN."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return tf.math.reciprocal(images)


def encoder() -> keras.Model:
    layers = keras.layers
    parts = [layers.Flatten(), Reciprocal(), layers.Dense(6), layers.BatchNormalization()]
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), *parts])


def simclr() -> SimCLR:
    head = ProjectionHead(out_dim=4, num_layers=1)
    return SimCLR(encoder(), head, temperature=0.5, num_classes=3)


def classifier() -> Classifier:
    return Classifier(encoder(), 3)


def distiller() -> Distiller:
    teacher = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(),
                                keras.layers.Dense(3)])  # fmt: skip
    return Distiller(encoder(), 3, teacher)


def batch(seed: int, black: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    images = random.uniform(0.2, 1, (BATCH, SIDE, SIDE, 3)).astype("float32")
    if black is not None:
        images[black] = 0
    return images, np.arange(BATCH) % 3


def train(model: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    views: Any = images
    if isinstance(model, SimCLR):
        views = (images, images[:, ::-1])
    data = tf.data.Dataset.from_tensor_slices((views, labels)).batch(BATCH)
    history = model.fit(data, epochs=1, verbose=0).history
    return {name: float(np.mean(values[-1])) for name, values in history.items()}


def state_of(model: Any) -> list[np.ndarray]:
    return [np.asarray(raw_variable(v)) for v in (*model.weights, *slots(model))]


def slots(model: Any) -> list[Any]:
    counted = id(raw_variable(batches_taken(model.optimizer)))
    variables = model.optimizer.variables
    found = variables() if callable(variables) else variables
    return [v for v in found if id(raw_variable(v)) != counted]


def made(make: Callable[[], Any], **settings: Any) -> Any:
    keras.utils.set_random_seed(1)
    model = make()
    settings.setdefault("optimizer", keras.optimizers.SGD(0.1, momentum=0.9))
    model.compile(**settings)
    return model


@pytest.mark.parametrize(
    ("strategy", "make"),
    [  # each model once a lane, and on two replicas once
        pytest.param(2, simclr, marks=pytest.mark.one_lane),
        pytest.param(1, classifier, marks=pytest.mark.one_lane),
        pytest.param(1, distiller, marks=pytest.mark.one_lane),
        pytest.param(1, simclr, marks=pytest.mark.second_lane),
        pytest.param(2, classifier, marks=pytest.mark.second_lane),
        pytest.param(2, distiller, marks=pytest.mark.second_lane),
    ],
    indirect=["strategy"],
)
def test_a_lost_step_changes_nothing_and_is_counted(
    make: Callable[[], Any], strategy: tf.distribute.Strategy
) -> None:
    """On two replicas one of them alone sees the black image."""
    with strategy.scope():
        model = made(make, skip_non_finite=True)
    train(model, *batch(0))
    before = state_of(model)
    logs = train(model, *batch(1, black=BATCH - 1))
    for ours, kept in zip(state_of(model), before, strict=True):
        np.testing.assert_array_equal(ours, kept)
    assert logs["skipped_steps"] == 1 and int(np.asarray(batches_taken(model.optimizer))) == 2
    assert all(np.isfinite(value) for value in logs.values())
    logs = train(model, *batch(2))
    assert logs["skipped_steps"] == 1 and np.isfinite(logs["loss"])
    changed = zip(state_of(model), before, strict=True)
    assert any(not np.array_equal(ours, kept) for ours, kept in changed)
    assert all(np.isfinite(value).all() for value in state_of(model))


@pytest.mark.second_lane
def test_a_lost_step_with_a_loss_scale_on_replicas(strategy: tf.distribute.Strategy) -> None:
    """The scale skips the update by itself; that one replica lost its loss, both must know."""
    with strategy.scope():
        optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model = made(classifier, optimizer=optimizer, skip_non_finite=True)
    train(model, *batch(0))
    before = [np.array(raw_variable(v)) for v in model.weights]
    logs = train(model, *batch(1, black=BATCH - 1))
    assert logs["skipped_steps"] == 1
    for variable, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(raw_variable(variable), kept)


def test_steps_that_are_not_lost_are_the_same_with_and_without() -> None:
    plain = made(simclr, run_eagerly=True)
    watched = made(simclr, skip_non_finite=True, run_eagerly=True)
    for seed in range(3):
        ours, theirs = train(watched, *batch(seed)), train(plain, *batch(seed))
        assert ours.pop("skipped_steps") == 0 and ours == theirs
    for one, other in zip(state_of(watched), state_of(plain), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_lost_step_under_xla() -> None:
    model = made(simclr, skip_non_finite=True, jit_compile=True)
    before = state_of(model)
    assert train(model, *batch(1, black=0))["skipped_steps"] == 1
    assert all(map(np.array_equal, state_of(model), before))


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(1, marks=pytest.mark.second_lane),
        pytest.param(2, marks=pytest.mark.one_lane),
    ],
    indirect=True,
)
def test_the_norm_is_that_of_the_whole_gradient(strategy: tf.distribute.Strategy) -> None:
    """With a learning rate of 1 and nothing else, a step is minus the gradient."""
    with strategy.scope():
        model = made(simclr, optimizer=keras.optimizers.SGD(1.0))
        clipped = made(simclr, optimizer=keras.optimizers.SGD(1.0), clip_norm=0.01)
        models = [model, clipped]
        if strategy.num_replicas_in_sync == 1:
            models.append(made(simclr, optimizer=keras.optimizers.SGD(1.0), clip_norm=1e6))
    steps = []
    for one in models:
        before = [np.array(v) for v in one.trainable_variables]
        norm = train(one, *batch(0))["gradient_norm"]
        after = [np.array(v) for v in one.trainable_variables]
        steps.append(np.concatenate([(b - a).ravel() for a, b in zip(after, before, strict=True)]))
        assert norm == pytest.approx(np.linalg.norm(steps[0]), rel=1e-4)
    assert np.linalg.norm(steps[1]) == pytest.approx(0.01, rel=1e-4)
    np.testing.assert_allclose(steps[1] / 0.01, steps[0] / np.linalg.norm(steps[0]), atol=1e-4)
    for wide in steps[2:]:
        np.testing.assert_array_equal(wide, steps[0])


def test_the_norm_leaves_out_the_loss_scale() -> None:
    plain = made(simclr, run_eagerly=True)
    scaled = made(simclr, optimizer=keras.mixed_precision.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9)), clip_norm=0.01)  # fmt: skip
    began = [np.array(v) for v in scaled.trainable_variables]
    one, other = train(plain, *batch(0)), train(scaled, *batch(0))
    assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    moved = [np.array(v) for v in scaled.trainable_variables]
    norm = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(moved, began, strict=True)))
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_loss_scale_falls_at_its_own_overflows() -> None:
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    scaled = keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=2.0**126)
    model = made(simclr, skip_non_finite=True, optimizer=scaled)
    before = [np.array(v) for v in model.trainable_variables]
    logs = train(model, *batch(0))
    assert logs["skipped_steps"] == 0 and np.isfinite(logs["loss"])
    assert all(map(np.array_equal, model.trainable_variables, before))
    assert loss_scale(model.optimizer) == 2.0**125
    assert train(model, *batch(1, black=0))["skipped_steps"] == 1
    assert loss_scale(model.optimizer) == 2.0**125


def test_both_are_kept_with_a_saved_model(tmp_path: Any) -> None:
    model = made(simclr, skip_non_finite=True, clip_norm=0.5)
    assert model.get_compile_config()["clip_norm"] == 0.5
    assert model.get_compile_config()["skip_non_finite"] is True
    again = simclr()
    again.compile_from_config(model.get_compile_config())
    assert (again.clip_norm, again.skip_non_finite) == (0.5, True)


def test_a_norm_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="clip_norm above 0"):
        made(simclr, clip_norm=0.0)
