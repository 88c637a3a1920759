"""Batches that replicas cannot share equally: every image counts once, on one replica or four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import split_cpu, use_fresh_collective_keys
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

from simclr_tf.compat import KERAS_3, raw_variable
from simclr_tf.losses.nt_xent import nt_xent
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR

CLASSES = 7  # more than five: the top five are a choice
MOST = 13
# How many share an evaluation: between them the lanes have each model on two, three and four.
REPLICAS = {"contrast": (2, 4), "classify": (3,)}
if not KERAS_3:
    REPLICAS = {"contrast": (3,), "classify": (2, 4)}
RANDOM = np.random.RandomState(0)
# Images of different colours: of noise alone all features are so alike that rounding chooses the
# nearest.
COLOURS = RANDOM.randint(0, 196, (MOST, 1, 1, 3))
IMAGES = (COLOURS + RANDOM.randint(0, 60, (MOST, 8, 8, 3))).astype("uint8")
OTHERS = (COLOURS + RANDOM.randint(0, 60, (MOST, 8, 8, 3))).astype("uint8")
LABELS = RANDOM.randint(0, CLASSES, MOST)
DRAWS = 24


def encoder(synchronized: bool = True) -> keras.Model:
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, 2, use_bias=False)(images)
    x = keras.layers.ReLU()(BatchNorm(synchronized=synchronized)(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def teacher(images: tf.Tensor) -> tf.Tensor:
    """Logits that depend on the image."""
    return tf.reshape(images, [-1, 192])[:, : 3 * CLASSES : 3] * 9.0


def make_model(kind: str, eager: bool, **settings: Any) -> Any:
    keras.utils.set_random_seed(3)
    common = {"projection_head": ProjectionHead(out_dim=4, num_layers=2)}
    if kind == "contrast":
        model: Any = SimCLR(encoder(), temperature=1.0, **common, **settings)
    elif kind == "pretrain":
        # Behind batch norm; a plain linear head is what `classify` trains.
        settings = {"num_classes": CLASSES, "supervised_batch_norm": True, **settings}
        model = SimCLR(encoder(), temperature=1.0, **common, **settings)
    elif kind == "classify":
        model = Classifier(encoder(), CLASSES, projection_selector=1, **common)
    else:
        model = Distiller(encoder(), CLASSES, teacher, **settings)
    model.compile(optimizer=keras.optimizers.SGD(0.05), run_eagerly=eager)
    return model


def element(kind: str, size: int) -> Any:
    images, others, labels = IMAGES[:size], OTHERS[:size], LABELS[:size]
    return {
        "contrast": ((images, others),),
        "pretrain": ((images, others), labels),
        "classify": (images, labels),
        "distill": (images, np.where(np.arange(size) % 3, labels, -1)),
        "agree": images,
    }[kind]


@pytest.fixture(scope="module")
def on_replicas() -> Callable[[int], tf.distribute.Strategy]:
    split_cpu()
    made: dict[int, tf.distribute.Strategy] = {1: tf.distribute.get_strategy()}

    def get(replicas: int) -> tf.distribute.Strategy:
        if replicas not in made:
            use_fresh_collective_keys()
            devices = [f"CPU:{i}" for i in range(replicas)]
            made[replicas] = tf.distribute.MirroredStrategy(devices)
        return made[replicas]

    return get


@pytest.fixture(scope="module")
def evaluated(on_replicas: Any) -> Callable[[str, int], Any]:
    """Models that are built and traced once for all cases; on one device nothing is traced."""
    models: dict[tuple[str, int], Any] = {}

    def get(kind: str, replicas: int) -> Any:
        if (kind, replicas) not in models:
            with on_replicas(replicas).scope():
                model = models[kind, replicas] = make_model(kind, eager=replicas == 1)
            if kind == "contrast" and replicas > 1:
                model.set_weights(get(kind, 1).get_weights())
            elif kind == "contrast":
                # As batch norm starts, all features lie so close that rounding chooses the nearest.
                for _ in range(30):
                    features = model.encoder(IMAGES / np.float32(255), training=True)
                    model.projection_head(features, training=True)
        return models[kind, replicas]

    return get


def counted(model: Any) -> set[float]:
    """How many images the metrics that an evaluation filled have counted."""
    copies = model.distribute_strategy.num_replicas_in_sync  # every replica adds all images
    counts = {float(tf.convert_to_tensor(raw_variable(m.count))) / copies for m in model.metrics}
    return counts - {0.0}


def test_evaluation_counts_every_image_once(evaluated: Any) -> None:
    """At least twenty drawn (model, images, batch, replicas) give what one replica gives."""
    drawn: set[tuple[Any, ...]] = set()

    @settings(max_examples=DRAWS, derandomize=True, deadline=None, database=None)
    @given(
        st.sampled_from([(kind, count) for kind, counts in REPLICAS.items() for count in counts]),
        st.integers(1, MOST),
        st.integers(1, 6),
    )
    def check(shared: tuple[str, int], size: int, batch: int) -> None:
        kind, replicas = shared
        data = tf.data.Dataset.from_tensor_slices(element(kind, size)).batch(batch)
        results = []
        for count in (1, replicas):
            model = evaluated(kind, count)
            results.append(model.evaluate(data, verbose=0, return_dict=True))
            assert counted(model) == {float(size)}
        assert set(results[0]) == set(results[1])
        for name, value in results[0].items():
            assert results[1][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
        drawn.add((kind, size, batch, replicas))

    check()
    print(f"{len(drawn)} drawn, each image counted once: {sorted(drawn)}")
    assert len(drawn) >= 20


# A step of the same model is compared on the second lane.
@pytest.mark.one_lane
def test_agreement_with_a_teacher(evaluated: Any) -> None:
    """Images alone, on replicas of which the second gets one and the others none."""
    data = tf.data.Dataset.from_tensor_slices(element("agree", 5)).batch(4)
    results = [evaluated("agree", n).evaluate(data, verbose=0, return_dict=True) for n in (1, 4)]
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert counted(evaluated("agree", 4)) == {5.0}


@pytest.mark.parametrize("replicas", REPLICAS["classify"])
def test_predictions_in_order(evaluated: Any, replicas: int) -> None:
    one, several = evaluated("classify", 1), evaluated("classify", replicas)
    expected = one(IMAGES).numpy()
    for size, batch in ((MOST, 5), (1, 4), (6, 6)):
        given = several.predict(IMAGES[:size], batch_size=batch, verbose=0)
        np.testing.assert_allclose(given, expected[:size], rtol=1e-4, atol=1e-5)
    labelled = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5)
    assert len(several.predict(labelled, verbose=0, steps=2)) == 10
    np.testing.assert_allclose(several.predict(labelled, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_arrays_and_distributed_data(evaluated: Any) -> None:
    """Arrays; and batches that a strategy has cut already, one replica getting none."""
    replicas = REPLICAS["classify"][-1]
    one, several = evaluated("classify", 1), evaluated("classify", replicas)
    expected = one.evaluate(IMAGES, LABELS, batch_size=4, verbose=0, return_dict=True)
    given = several.evaluate(IMAGES, LABELS, batch_size=4, verbose=0, return_dict=True)
    assert given == pytest.approx(expected, rel=1e-5)
    assert counted(several) == {float(MOST)}
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(replicas + 1)
    cut = several.distribute_strategy.experimental_distribute_dataset(data)
    given = several.evaluate(cut, steps=-(-MOST // (replicas + 1)), verbose=0, return_dict=True)
    assert given == pytest.approx(expected, rel=1e-5)
    assert counted(several) == {float(MOST)}


def weights(model: Any) -> dict[str, np.ndarray]:
    variables = [*model.encoder.weights, *model.projection_head.weights]
    if model.supervised_head is not None:
        variables += model.supervised_head.weights
    return {
        f"{place} {variable.name}": np.asarray(tf.convert_to_tensor(raw_variable(variable)))
        for place, variable in enumerate(variables)
    }


@pytest.fixture(scope="module")
def trained(on_replicas: Any) -> Callable[..., Any]:
    """Weights and logs after one step each from the same start on batches of 4, 3 and 2 images."""
    done: dict[tuple[str, int], Any] = {}

    def train(kind: str, replicas: int) -> Any:
        if (kind, replicas) not in done:
            with on_replicas(replicas).scope():
                model = make_model(kind, eager=replicas == 1)
            start, found = model.get_weights(), []
            for size in (4, 3, 2):
                model.set_weights(start)
                data = tf.data.Dataset.from_tensor_slices(element(kind, 2 * size)).batch(size)
                logs = model.fit(data.take(1), verbose=0).history
                found.append((weights(model), {name: float(v[0]) for name, v in logs.items()}))
            done[kind, replicas] = found
        return done[kind, replicas]

    return train


@pytest.mark.parametrize(
    ("kind", "replicas"),
    [
        # Three have unequal shares, of four some have none.
        pytest.param("pretrain", 2, marks=pytest.mark.second_lane),
        pytest.param("pretrain", 3, marks=pytest.mark.one_lane),
        pytest.param("classify", 4, marks=pytest.mark.one_lane),
        # The recorded steps on four replicas are compared on the first lane.
        pytest.param("pretrain", 4, marks=pytest.mark.second_lane),
        pytest.param("distill", 3, marks=pytest.mark.second_lane),
    ],
)
def test_a_step_equals_one_devices(trained: Any, kind: str, replicas: int) -> None:
    """4, 3 and 2 images on up to four replicas: equal shares, unequal ones, and replicas without.

    Batch norm is synchronised, so that weights, moving statistics and logs are one device's.
    """
    for (ours, logs), (theirs, expected) in zip(trained(kind, replicas), trained(kind, 1),
                                                strict=True):  # fmt: skip
        assert logs == pytest.approx(expected, rel=1e-4, abs=1e-6)
        for (name, value), other in zip(ours.items(), theirs.values(), strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("synchronized", [True, False])
def test_batch_norm_of_unequal_replicas(on_replicas: Any, synchronized: bool, dtype: str) -> None:
    """Three, one and no images: each counts as much; nothing becomes NaN, gradients included."""
    strategy = on_replicas(3)
    images = np.random.RandomState(1).normal(2, 3, (4, 2, 2, 5)).astype("float32")
    parts = [images[:3], images[3:], images[:0]]
    with strategy.scope():
        norm = BatchNorm(synchronized=synchronized, dtype="float32")
        norm.build((None, 2, 2, 5))
    inputs = strategy.experimental_distribute_values_from_function(
        lambda context: tf.cast(parts[context.replica_id_in_sync_group], dtype)
    )

    @tf.function
    def step(values: Any) -> Any:
        def own(x: tf.Tensor) -> Any:
            gamma = tf.convert_to_tensor(norm.gamma)
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = norm.call(x, training=True)
                loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
            del gamma
            return outputs, tape.gradient(loss, x)

        return strategy.run(own, [values])

    outputs, gradients = (strategy.experimental_local_results(x) for x in step(inputs))
    assert all(np.isfinite(np.asarray(tf.cast(x, tf.float32))).all() for x in gradients)
    moving = np.asarray(tf.convert_to_tensor(raw_variable(norm.moving_variance)))
    assert np.isfinite(moving).all()
    assert {len(x) for x in outputs} == {3, 1, 0}
    if not synchronized:
        return
    rounded = np.asarray(tf.cast(tf.cast(images, dtype), tf.float32))
    mean, variance = rounded.mean((0, 1, 2)), rounded.var((0, 1, 2))
    np.testing.assert_allclose(moving, 0.9 + 0.1 * variance, rtol=1e-4)
    expected = (rounded - mean) / np.sqrt(variance + 1e-5)
    given = np.concatenate([np.asarray(tf.cast(x, tf.float32)) for x in outputs])
    np.testing.assert_allclose(given, expected, atol=1e-4 if dtype == "float32" else 0.03)


@pytest.mark.parametrize("block_size", [0, 2])
def test_masked_images_are_neither_rows_nor_negatives(block_size: int) -> None:
    """Loss, metrics and gradient are those of the other images alone."""
    views = np.random.RandomState(2).normal(size=(2, 5, 3)).astype("float32")
    keep = np.array([True, False, True, True, False])

    def run(values: np.ndarray, mask: Any) -> Any:
        hidden = tf.constant(values.reshape(-1, 3))
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            output = nt_xent(hidden, 0.2, block_size=block_size, mask=mask)
        gradient = tape.gradient(output.loss, hidden)
        numbers = [float(output.loss), float(output.accuracy), float(output.entropy)]
        return numbers, gradient.numpy().reshape(values.shape)

    numbers, gradient = run(views, tf.constant(keep))
    expected, of_kept = run(views[:, keep], None)
    assert numbers == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient[:, keep], of_kept, rtol=1e-4, atol=1e-6)
    assert not gradient[:, ~keep].any()
