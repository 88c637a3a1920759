"""One count of steps: seeds, schedule and checkpoints follow the batches, skipped ones included."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import simclr_tf
from simclr_tf.compat import KERAS_3, batches_taken, raw_variable
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR
from simclr_tf.training.view_maker import step_seed

BATCHES = 3
IMAGES = np.random.RandomState(0).randint(0, 256, (BATCHES * 4, 8, 8, 3)).astype("uint8")


def small_model(optimizer: Any, augment: Any) -> SimCLR:
    images = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(images))
    encoder = keras.Model(images, outputs)
    head = ProjectionHead(out_dim=4, num_layers=1)
    model = SimCLR(encoder, head, augment=augment, temperature=1e-3)
    model.compile(optimizer=optimizer)
    return model


def values(model: SimCLR) -> list[np.ndarray]:
    trained = model.trainable_variables
    return [np.asarray(tf.convert_to_tensor(raw_variable(v))) for v in trained]


@pytest.mark.parametrize("strategy", [1, 2], indirect=True)
def test_steps_that_a_loss_scale_skips_count(strategy: Any) -> None:
    """Every gradient overflows: no weight moves; step, learning rate and views go on."""
    seeds: list[tuple[int, ...]] = []

    def keep(seed: tf.Tensor) -> None:
        seeds.append(tuple(seed.numpy()))

    def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        tf.py_function(keep, [seed], [])
        return images

    # With other weights the loss may saturate, so that a step does not overflow.
    keras.utils.set_random_seed(0)
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    inner = keras.optimizers.SGD(schedule)
    with strategy.scope():
        optimizer = keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=2.0**127)
        model = small_model(optimizer, augment)
    start = values(model)
    rates: list[float] = []
    callback = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: rates.append(float(np.ravel(logs["learning_rate"])[0]))
    )
    data = tf.data.Dataset.from_tensor_slices(IMAGES).batch(4, drop_remainder=True)
    model.fit(data, verbose=0, callbacks=[callback])
    assert start
    for now, before in zip(values(model), start, strict=True):
        np.testing.assert_array_equal(now, before)
    assert int(tf.convert_to_tensor(batches_taken(optimizer))) == BATCHES
    assert rates == pytest.approx([1.0, 0.9, 0.8])
    assert len(seeds) == len(set(seeds)) == BATCHES * strategy.num_replicas_in_sync


@pytest.mark.skipif(not KERAS_3, reason="Keras 2's optimizers accumulate no gradients")
def test_views_go_on_while_gradients_are_accumulated() -> None:
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(0.0)])
    optimizer._iterations.assign(3)
    assert int(optimizer.iterations) == 1 and int(batches_taken(optimizer)) == 3


def test_a_seed_is_the_same_under_xla() -> None:
    plain = tf.function(lambda step: step_seed(3, step))
    compiled = tf.function(lambda step: step_seed(3, step), jit_compile=True)
    for step in (0, 5):
        given = step_seed(3, step).numpy()
        np.testing.assert_array_equal(plain(tf.constant(step)), given)
        np.testing.assert_array_equal(compiled(tf.constant(step)), given)


def test_every_stateless_draw_names_its_algorithm() -> None:
    """Without a name TensorFlow chooses one by the device."""
    seen = 0
    for path in Path(simclr_tf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name.startswith("tf.random.") and "stateless" in name:
                seen += 1
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert named.get("alg") == "'philox'", f"{path.name}:{node.lineno}: {name}"
    assert seen >= 3
