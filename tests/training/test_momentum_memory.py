"""The momentum encoder and its queue: a slow loop, replicas, micro-batches, skipped steps.

But where said the steps on one device run eagerly: tracing takes longer.
"""

from __future__ import annotations

from typing import Any

import loss_loops
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import is_compiled
from simclr_tf.errors import UserError
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.momentum_memory import MomentumMemory
from simclr_tf.training.simclr import SimCLR

SIDE, WIDTH = 4, 5


def model_of(size: int = 12, **settings: Any) -> SimCLR:
    """A linear encoder without batch norm: what it makes of an image is one product."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten(), keras.layers.Dense(WIDTH)]
    model = SimCLR(
        keras.Sequential(layers),
        ProjectionHead("none"),
        temperature=0.5,
        memory_size=size,
        memory_momentum=0.75,
        **settings,
    )
    return model


def pairs(count: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    images = random.uniform(size=(count, SIDE, SIDE, 1)).astype("float32")
    return images, images[:, ::-1].copy()


def fit(model: SimCLR, views: tuple[np.ndarray, np.ndarray], batch_size: int, **compiled: Any):
    if not is_compiled(model):
        one = model.distribute_strategy.num_replicas_in_sync == 1
        model.compile(keras.optimizers.SGD(0.1), **{"run_eagerly": one, **compiled})
    data = tf.data.Dataset.from_tensor_slices((views,)).batch(batch_size)
    return model.fit(data, epochs=1, verbose=0).history


def kernel_and_bias(model: SimCLR | MomentumMemory) -> tuple[np.ndarray, np.ndarray]:
    kernel, bias = model.encoder.get_weights()
    return kernel, bias


def test_the_queue_and_the_weights_equal_a_loop() -> None:
    first, second = pairs()
    model = model_of()
    queue = np.zeros((12, WIDTH), np.float32)
    stored, slow = 0, None
    for step in range(4):
        views = (first[6 * step :][:6], second[6 * step :][:6])
        fit(model, views, 6)
        fast = kernel_and_bias(model)
        if slow is None:  # the first step only copies
            slow = fast
        else:
            keys = views[0].reshape(6, -1) @ slow[0] + slow[1]
            for key in keys:
                queue[stored % 12] = key
                stored += 1
            slow = tuple(0.75 * s + 0.25 * f for s, f in zip(slow, fast, strict=True))
        np.testing.assert_allclose(model.memory.queue, queue, rtol=1e-5, atol=1e-6)
        for ours, expected in zip(kernel_and_bias(model.memory), slow, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        assert int(model.memory.stored) == stored
        held = model.memory.compared_with(tf.ones([2, WIDTH]), tf.zeros([2, WIDTH]))
        np.testing.assert_array_equal(held.filled, np.arange(12) < stored)
    assert stored == 18


@pytest.mark.one_lane
def test_views_are_compared_with_the_momentum_encoder_and_its_queue() -> None:
    views = pairs(6)
    plain, model = model_of(0), model_of()
    plain_loss = fit(plain, views, 6)["contrast_loss"][0]
    assert fit(model, views, 6)["contrast_loss"][0] == pytest.approx(plain_loss)  # the first step
    slow, queue = model_of(0), np.random.RandomState(3).standard_normal((12, WIDTH))
    slow.set_weights([weight + 0.3 for weight in slow.get_weights()])
    model.memory.encoder.set_weights(slow.encoder.get_weights())
    model.memory.queue.assign(queue)
    model.memory.stored.assign(9)
    hidden, keys = (
        np.concatenate([np.asarray(one.encoder(view)) for view in views]) for one in (model, slow)
    )
    rows = loss_loops.rows_of(hidden, memory=queue[:9], keys=keys)
    found = fit(model, views, 6)["contrast_loss"][0]
    assert found == pytest.approx(loss_loops.nt_xent(rows, 0.5), rel=1e-5)


@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_two_replicas_equal_one(strategy: tf.distribute.Strategy) -> None:
    views = pairs(22)
    one = model_of()
    expected = fit(one, views, 8)  # 8, 8 and 6 images
    with strategy.scope():
        two = model_of()
        found = fit(two, views, 8)
    assert found["contrast_loss"] == pytest.approx(expected["contrast_loss"], rel=1e-5)
    for name, variable in one.memory.variables().items():
        np.testing.assert_allclose(two.memory.variables()[name], variable, rtol=1e-4, atol=1e-6)
    assert int(two.memory.stored.numpy()) == 14


@pytest.mark.one_lane
def test_micro_batches_equal_the_whole_batch() -> None:
    views = pairs()
    whole, parts = model_of(), model_of(micro_batch_size=2)
    expected = fit(whole, views, 8)["contrast_loss"]
    found = fit(parts, views, 8, run_eagerly=False)["contrast_loss"]  # the loop in a graph
    assert found == pytest.approx(expected, rel=1e-5)
    for name, variable in whole.memory.variables().items():
        np.testing.assert_allclose(parts.memory.variables()[name], variable, rtol=1e-4, atol=1e-6)


@pytest.mark.one_lane
def test_a_batch_larger_than_the_queue_leaves_its_last() -> None:
    first, second = pairs(10)
    model = model_of(4)
    for _ in range(2):
        fit(model, (first, second), 10)
    assert int(model.memory.stored) == 4
    fit(before := model_of(4), (first, second), 10)
    kernel, bias = kernel_and_bias(before)
    expected = first[6:].reshape(4, -1) @ kernel + bias
    np.testing.assert_allclose(model.memory.queue, expected, rtol=1e-5)


def test_a_skipped_step_changes_nothing_in_it() -> None:
    views = pairs(16)
    model = model_of()
    fit(model, views, 8, skip_non_finite=True)
    before = {name: np.array(v) for name, v in model.memory.variables().items()}
    bad = tuple(np.where(np.arange(8)[:, None, None, None] == 3, np.inf, v[:8]) for v in views)
    model.value_range = None
    data = tf.data.Dataset.from_tensors((tuple(v.astype("float32") for v in bad),))
    logs = model.train_step(next(iter(data)))
    assert float(logs["skipped_steps"]) == 1
    for name, variable in model.memory.variables().items():
        np.testing.assert_array_equal(variable, before[name], err_msg=name)


def test_a_saved_model_begins_a_new_memory(tmp_path: Any) -> None:
    views = pairs()
    model = model_of()
    fit(model, views, 8)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert (again.memory.size, again.memory.momentum, int(again.memory.stored)) == (12, 0.75, 0)
    fit(again, (views[0][:8], views[1][:8]), 8)
    # It follows the weights that were loaded, not those it was made with.
    for slow, fast in zip(kernel_and_bias(again.memory), kernel_and_bias(again), strict=True):
        np.testing.assert_array_equal(slow, fast)


class Unregistered(keras.layers.Layer):
    def call(self, images: tf.Tensor) -> tf.Tensor:
        return images


def test_an_encoder_that_is_frozen_later_is_still_followed() -> None:
    model = model_of(num_classes=3)
    model.encoder.trainable = False
    before = kernel_and_bias(model)
    model.compile(keras.optimizers.SGD(0.1))
    data = tf.data.Dataset.from_tensor_slices((pairs(), np.arange(24) % 3)).batch(8)
    model.fit(data, verbose=0)  # the linear head
    for slow, start in zip(kernel_and_bias(model.memory), before, strict=True):
        np.testing.assert_allclose(slow, start, rtol=1e-6)


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"size": -1}, "memory_size of at least 1, or 0 for none; received: -1"),
        ({"memory_momentum": 1.0}, "0 <= memory_momentum < 1; received: 1.0"),
        ({"loss": "supcon"}, "memory_size=0 with this loss"),
        ({"loss": "generalized"}, "memory_size=0 with this loss"),
    ],
)
def test_wrong_memories_are_refused(settings: dict[str, Any], message: str) -> None:
    arguments = {"memory_size": settings.pop("size", 8), **settings}
    with pytest.raises(UserError, match=message):
        SimCLR(model_of(0).encoder, ProjectionHead("none"), **arguments)


def test_an_encoder_that_cannot_be_copied() -> None:
    layers = [keras.Input((SIDE, SIDE, 1)), Unregistered(), keras.layers.Flatten()]
    with pytest.raises(UserError, match="Expected an encoder that Keras can copy"):
        SimCLR(keras.Sequential(layers), memory_size=8)
