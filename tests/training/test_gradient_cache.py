"""Gradient caching: the gradient of the whole batch, in micro-batches, on every path of `fit`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from peak_memory import last_number
from tensorflow import keras
from tiny_models import METRICS, batch, dataset, every_view, small_encoder, small_model

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import KERAS_3, raw_variable
from simclr_tf.errors import UserError
from simclr_tf.images.pixel_values import to_float
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.lars import LARS
from simclr_tf.training import gradient_cache


def independent_encoder() -> keras.Model:
    """What it makes of an image does not depend on the images beside it."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(16, 3, 4, activation="relu")(images)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def step_of(
    micro_batch_size: int | None,
    data: Any,
    strategy: Any = None,
    optimizer: Any = None,
    eager: bool = False,
    **settings: Any,
) -> Any:
    """One step of SGD with rate 1; returns how the variables moved, the logs, and the model.

    Whole batches that others are compared with run eagerly: to trace one takes longer.
    """
    keras.utils.set_random_seed(0)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        settings.setdefault("encoder", independent_encoder())
        model = small_model(**settings, weight_decay=1e-2, micro_batch_size=micro_batch_size)
        model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0), run_eagerly=eager)
    before = [np.array(tf.convert_to_tensor(raw_variable(v))) for v in model.trainable_variables]
    history = model.fit(data, steps_per_epoch=1, verbose=0, shuffle=False).history
    after = [np.array(tf.convert_to_tensor(raw_variable(v))) for v in model.trainable_variables]
    moved = [b - a for a, b in zip(before, after, strict=True)]
    return moved, {name: values[0] for name, values in history.items()}, model


def one_batch(count: int = 8) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(batch(count))


def assert_equal_steps(ours: Any, plain: Any, limit: float = 1e-5) -> None:
    largest = max(np.abs(g).max() for g in plain[0])
    for gradient, expected in zip(ours[0], plain[0], strict=True):
        assert np.abs(gradient - expected).max() <= limit * largest
    assert METRICS - {"loss"} <= set(plain[1])
    for name, value in plain[1].items():
        assert ours[1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.fixture(scope="module")
def plain_step() -> Any:
    """What steps in micro-batches of the one batch are compared with."""
    return step_of(None, one_batch(), eager=True, augment=every_view())


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1, marks=pytest.mark.one_lane),
        pytest.param(2, marks=pytest.mark.second_lane),
        8,
    ],
)
def test_gradient_is_that_of_the_whole_batch(size: int, plain_step: Any) -> None:
    """Head with batch norm, linear head, weight decay and random views included."""
    ours = step_of(size, one_batch(), eager=size == 8, augment=every_view())
    assert_equal_steps(ours, plain_step)


class BrightViews(SimCLRAugment):
    """A user's subclass: `draw` and `apply` alone would leave out what its `call` adds."""

    def call(self, inputs: Any, seed: Any = None, training: bool = True) -> tf.Tensor:
        return tf.sqrt(super().call(inputs, seed=seed, training=training) + 1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        # A user's own views, function or subclass, are made for the whole batch.
        pytest.param("callable", marks=pytest.mark.one_lane),
        pytest.param("subclass", marks=pytest.mark.second_lane),
        # Replicas take views of the host on both lanes.
        pytest.param("made by the host", marks=pytest.mark.second_lane),
        pytest.param("canvas", marks=pytest.mark.one_lane),
    ],
)
def test_every_way_to_make_views(kind: str) -> None:
    images, labels = batch(8, shape=(20, 20, 3))

    def noise(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return images + tf.random.stateless_normal(tf.shape(images), seed, stddev=0.1)

    augment: Any = noise
    inputs: Any = images
    if kind == "made by the host":
        augment, inputs = None, (images, images[:, ::-1])
    elif kind == "subclass":
        augment = BrightViews(16)
    elif kind == "canvas":
        sizes = np.random.RandomState(1).randint(15, 40, (8, 2)).astype("int32")
        augment, inputs = SimCLRAugment(16), {"image": images, "size": sizes}
    data = tf.data.Dataset.from_tensors((inputs, labels))
    plain = step_of(None, data, eager=True, augment=augment)
    assert_equal_steps(step_of(4, data, augment=augment), plain)


def test_unknown_batch_size() -> None:
    data = tf.data.Dataset.from_tensor_slices(batch(8)).batch(8)
    assert data.element_spec[0].shape[0] is None
    assert_equal_steps(step_of(4, data), step_of(None, data, eager=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="micro_batch_size=3 divides"):
        step_of(3, data, projection_head=ProjectionHead("none"), num_classes=None)


@pytest.fixture(scope="module")
def step_of_pairs() -> Any:
    return step_of(None, dataset_of(batch(8)), eager=True, augment=None)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(2, marks=pytest.mark.second_lane),
        pytest.param(4, marks=pytest.mark.one_lane),
    ],
    indirect=True,
)
def test_replicas_equal_one_device(strategy: Any, step_of_pairs: Any) -> None:
    """Every replica's images are negatives, and the head's batch norm spans the replicas."""
    data = strategy.experimental_distribute_dataset(dataset_of(batch(8)))
    ours = step_of(2, data, strategy, augment=None)
    assert_equal_steps(ours, step_of_pairs)


def dataset_of(images_and_labels: Any) -> tf.data.Dataset:
    """Views that are made already: replicas draw their own."""
    images, labels = images_and_labels
    pairs = ((images, images[:, ::-1]), labels)
    return tf.data.Dataset.from_tensor_slices(pairs).batch(8, drop_remainder=True)


# `test_replicas` has synchronised batch norm on both lanes.
@pytest.mark.one_lane
@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_synchronised_batch_norm_on_replicas(strategy: Any) -> None:
    with strategy.scope():
        encoder = small_encoder()
    data = strategy.experimental_distribute_dataset(dataset_of(batch(8)))
    _, logs, _ = step_of(2, data, strategy, augment=None, encoder=encoder)
    assert all(np.isfinite(value) for value in logs.values())


def test_moving_statistics_move_once_a_micro_batch() -> None:
    """Twice the same two images, in two micro-batches: two moves, as from two plain steps."""
    images, labels = batch(2)
    images, labels = np.concatenate([images] * 2), np.concatenate([labels] * 2)
    pairs = ((images, images[:, ::-1]), labels)
    data = tf.data.Dataset.from_tensors(pairs)
    encoder, twin = small_encoder(), small_encoder()
    twin.set_weights(encoder.get_weights())
    _, _, model = step_of(2, data, augment=None, encoder=encoder)
    views = np.concatenate([images[:2], images[:2, ::-1]]).astype("float32") / 255
    for _ in range(2):
        twin(views, training=True)
    for ours, theirs in zip(
        model.encoder.non_trainable_variables, twin.non_trainable_variables, strict=True
    ):
        assert deviation(ours, theirs) < 1e-5


# The draws are our own code and TensorFlow's; both lanes compare replicas with one device above.
@pytest.mark.second_lane
@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_replicas_draw_the_views_of_the_plain_step(strategy: Any) -> None:
    data = tf.data.Dataset.from_tensor_slices(batch(8)).batch(8, drop_remainder=True)
    ours, plain = (
        step_of(size, strategy.experimental_distribute_dataset(data), strategy)
        for size in (2, None)
    )
    assert_equal_steps(ours, plain)


def test_the_loss_scale_comes_off_again(step_of_pairs: Any) -> None:
    """Under SGD: LARS would not notice a gradient of the wrong length."""

    def scaled() -> Any:
        return keras.mixed_precision.LossScaleOptimizer(
            keras.optimizers.SGD(1.0), initial_scale=64.0
        )

    ours = step_of(2, dataset_of(batch(8)), optimizer=scaled(), augment=None)
    assert_equal_steps(ours, step_of_pairs)


def dropout_encoder() -> keras.Model:
    images = keras.Input((16, 16, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.Conv2D(8, 3, 2)(images))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


@pytest.mark.skipif(not KERAS_3, reason="Keras 2's dropout keeps its state out of reach")
def test_dropout_is_the_same_in_both_passes() -> None:
    encoder, views = dropout_encoder(), batch(8)[0]

    seed = tf.constant([0, 0])

    @tf.function
    def passes() -> tuple[tf.Tensor, tf.Tensor]:
        batches = gradient_cache.cut((views, views), None, seed, 4, True, to_float)
        arguments = batches, lambda x: encoder(x, training=True), 8
        with gradient_cache.restored(encoder.non_trainable_variables):
            first = gradient_cache.embed_all(*arguments)
        return first, gradient_cache.embed_all(*arguments)

    first, second = passes()
    assert deviation(first, second) < 1e-6
    assert deviation(first[:8], first[8:]) > 1e-3  # it did draw: the views are alike


@pytest.mark.skipif(KERAS_3, reason="Keras 3's dropout is the same in both passes")
def test_dropout_that_differs_is_announced(caplog: Any) -> None:
    with caplog.at_level("WARNING", logger="absl"):
        small_model(encoder=dropout_encoder(), micro_batch_size=4)
    assert "random layers (as dropout" in caplog.text


# `test_simclr_devices` has the step of the whole batch, each type on the other lane.
@pytest.mark.parametrize(
    "precision",
    [
        pytest.param("mixed_bfloat16", marks=pytest.mark.one_lane),
        pytest.param("mixed_float16", marks=pytest.mark.second_lane),
    ],
)
def test_mixed_precision(precision: str) -> None:
    keras.mixed_precision.set_global_policy(precision)
    try:
        model = small_model(encoder=small_encoder(), micro_batch_size=4)
        optimizer: Any = LARS(0.1)
        if precision == "mixed_float16":
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=64.0)
        model.compile(optimizer=optimizer)
        before = np.array(model.encoder.trainable_variables[0])
        history = model.fit(dataset(), epochs=2, verbose=0).history
        assert np.isfinite(history["total_loss"]).all()
        assert not np.array_equal(before, np.array(model.encoder.trainable_variables[0]))
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_compiles_under_xla() -> None:
    model = small_model(encoder=small_encoder(), micro_batch_size=4)
    model.compile(optimizer=LARS(0.1), jit_compile=True)
    assert np.isfinite(model.fit(dataset(), verbose=0).history["total_loss"]).all()


def test_wrong_sizes() -> None:
    with pytest.raises(UserError, match="micro_batch_size of at least 1"):
        small_model(micro_batch_size=0)
    model = small_model()
    model.micro_batch_size = 3
    model.compile(optimizer=LARS(0.1))
    with pytest.raises(Exception, match="divide the 8 images of a replica; received: 3. Pass 2"):
        model.fit(dataset(), verbose=0)


TRAIN = """
import numpy as np, tensorflow as tf
from simclr_tf import LARS, ProjectionHead, SimCLR, SimCLRAugment
from tensorflow.keras import Input, Sequential, layers
images, micro = int(sys.argv[1]), int(sys.argv[2]) or None
parts = [layers.Conv2D(64, 1, activation=layers.ReLU()) for _ in range(3)]
encoder = Sequential([Input((32, 32, 3)), *parts, layers.GlobalAveragePooling2D()])
augment = SimCLRAugment(32, augmentations="crop")
model = SimCLR(encoder, ProjectionHead("linear", 8), augment, num_classes=10,
               micro_batch_size=micro)
model.compile(optimizer=LARS(0.1))
data = tf.data.Dataset.from_tensors((np.zeros((images, 32, 32, 3), "uint8"),
                                     np.zeros(images, "int32")))
model.fit(data, verbose=0)
print(peak())
"""


# What is kept between micro-batches is our own choice; both lanes compare the gradients.
@pytest.mark.one_lane
@pytest.mark.slow
def test_memory_of_a_micro_batch_for_a_batch_of_many() -> None:
    # 400 and 430 MB; all 256 images at once take 880 MB.
    plain, micro = last_number(TRAIN, 32, 0), last_number(TRAIN, 256, 32)
    assert micro < 1.5 * plain
