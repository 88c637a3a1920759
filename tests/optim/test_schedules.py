"""Learning rate: the recorded cases, ends and boundaries, serialisation."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.optim.schedules import WarmUpCosine, get_train_steps


def from_args(args: np.ndarray, scaling: str) -> WarmUpCosine:
    rate, batch, examples, epochs, warmup_epochs, train_steps = args
    return WarmUpCosine(
        float(rate),
        int(batch),
        int(examples),
        epochs=int(epochs),
        train_steps=int(train_steps),
        warmup_epochs=float(warmup_epochs),
        scaling=scaling,
    )


@pytest.mark.parametrize("case", range(6))
def test_equals_the_release(golden, case):
    z = golden("schedule")
    schedule = from_args(z[f"{case}_args"], str(z[f"{case}_scaling"]))
    assert schedule.total_steps == z[f"{case}_train_steps"]
    steps, recorded = z[f"{case}_steps"], z[f"{case}_lr"]
    ours = schedule(tf.constant(steps, tf.int64)).numpy()
    assert ours.dtype == np.float32
    assert deviation(ours, recorded) <= 1e-6  # the largest rate recorded is the peak
    # Step by step, as the optimizer asks.
    for i in (0, 1, len(steps) // 2, -1):
        assert float(schedule(int(steps[i]))) == pytest.approx(
            recorded[i], abs=1e-6 * recorded.max()
        )


def test_equals_the_formula():
    schedule = WarmUpCosine(0.3, 64, 1437, epochs=20, warmup_epochs=2.5)
    peak, warmup, total = 0.3 * 64 / 256, int(2.5 * 1437 // 64), 1437 * 20 // 64 + 1
    assert (schedule.peak, schedule.warmup_steps, schedule.total_steps) == (peak, warmup, total)
    for step in range(total + 5):
        if step < warmup:
            expected = peak * step / warmup
        elif step < total:
            expected = peak / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        else:
            expected = 0.0
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6 * peak)


def test_ends_and_boundaries():
    schedule = WarmUpCosine(0.3, 512, 50_000, epochs=100)
    peak, warmup, total = schedule.peak, schedule.warmup_steps, schedule.total_steps
    assert float(schedule(0)) == 0.0
    assert float(schedule(warmup - 1)) == pytest.approx(peak * (1 - 1 / warmup), rel=1e-6)
    assert float(schedule(warmup)) == pytest.approx(peak, rel=1e-6)
    assert float(schedule(warmup + 100)) < peak
    assert 0 < float(schedule(total - 1)) < 1e-4 * peak
    for step in (total, total + 1, 10 * total):
        assert float(schedule(step)) == 0.0


def test_without_warm_up_starts_at_the_peak():
    schedule = WarmUpCosine(1.0, 256, 1000, epochs=10, warmup_epochs=0)
    assert schedule.warmup_steps == 0
    assert float(schedule(0)) == 1.0


@pytest.mark.parametrize("train_steps", [10, 4])
def test_warm_up_as_long_as_training_or_longer(train_steps):
    schedule = WarmUpCosine(1.0, 256, 2560, train_steps=train_steps, warmup_epochs=1)
    rates = schedule(tf.range(30)).numpy()
    assert np.isfinite(rates).all()
    np.testing.assert_allclose(rates[:10], np.arange(10) / 10, rtol=1e-6)
    assert (rates[10:] == 0).all()


def test_sqrt_scaling():
    assert WarmUpCosine(0.1, 4096, 50_000, 1, scaling="sqrt").peak == pytest.approx(6.4)


def test_number_of_training_steps():
    assert get_train_steps(50_000, 100, 512) == 9766
    assert get_train_steps(512, 1, 512) == 2  # the release's one step more
    assert get_train_steps(50_000, 100, 512, train_steps=7) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"train_steps": -1},
        {"batch_size": 0},
        {"num_examples": 0},
        {"scaling": "cubic"},
        {"warmup_epochs": -1},
    ],
)
def test_wrong_arguments(change):
    arguments = {"base_learning_rate": 0.1, "batch_size": 8, "num_examples": 80, "epochs": 2}
    with pytest.raises(UserError, match="Expected .*received: "):
        WarmUpCosine(**{**arguments, **change})


def test_config_round_trip():
    values = {
        "base_learning_rate": 0.2,
        "batch_size": 96,
        "num_examples": 1234,
        "epochs": 7,
        "train_steps": 55,
        "warmup_epochs": 0.5,
        "scaling": "sqrt",
        "name": "rate",
    }
    assert set(values) == set(inspect.signature(WarmUpCosine.__init__).parameters) - {"self"}
    schedule = WarmUpCosine(**values)
    assert schedule.get_config() == values
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert again.get_config() == values
    np.testing.assert_array_equal(schedule(tf.range(60)), again(tf.range(60)))


def test_drives_an_optimizer_and_compiles():
    schedule = WarmUpCosine(1.0, 256, 2560, epochs=3, warmup_epochs=1)
    optimizer = keras.optimizers.SGD(schedule)
    weight = tf.Variable(0.0)
    expected = 0.0
    for step in range(12):
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
        expected -= float(schedule(step))
        assert float(weight) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    compiled = tf.function(schedule, jit_compile=True)
    np.testing.assert_allclose(compiled(tf.range(40)), schedule(tf.range(40)), atol=1e-6)
