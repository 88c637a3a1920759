"""Pruning: the paper's schedule, the smallest weights of each layer, replicas, resumed runs.

Steps run eagerly, as tracing takes longer, but where replicas or compiled steps are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gpu_kernels import ops_without_gpu_kernel
from tensorflow import keras

from simclr_tf.compat import KERAS_3, batches_taken, raw_variable
from simclr_tf.errors import UserError
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.pruning import HEAD_SPARSITY, PruningSchedule, without_smallest
from simclr_tf.training.simclr import SimCLR

SIDE, CLASSES, BATCH = 8, 5, 12
IMAGES = np.random.RandomState(0).uniform(size=(BATCH, SIDE, SIDE, 3)).astype("float32")
LABELS = np.arange(BATCH) % CLASSES
SCHEDULE = PruningSchedule(0.9, begin_step=2, end_step=8, interval=2)


def encoder() -> keras.Model:
    """A stem, a convolution, a depthwise one in both forms, a separable one, a dense layer."""
    layers = keras.layers
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, 2, name="stem")(images)
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, name="middle")(x))
    x = layers.DepthwiseConv2D(1, name="depthwise")(layers.ReLU()(x))
    x = layers.Conv2D(8, 1, groups=8, name="grouped")(x)
    x = layers.SeparableConv2D(8, 1, name="separable")(x)
    x = layers.Dense(12, name="dense")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, x)


def small_encoder() -> keras.Model:
    layers = keras.layers
    parts = [layers.Conv2D(4, 3, 2), layers.Conv2D(16, 2), layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), *parts])


def classifier(
    schedule: PruningSchedule | None = SCHEDULE, make: Any = encoder, **settings: Any
) -> Classifier:
    keras.utils.set_random_seed(1)
    model = Classifier(make(), CLASSES, **settings)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, pruning=schedule, run_eagerly=True)
    return model


def step(model: Any, images: Any = IMAGES, steps: int = 1) -> dict[str, float]:
    """Returns what the steps say; without `fit` around it where the model runs eagerly."""
    if model.run_eagerly:
        batch = tf.nest.map_structure(tf.constant, (images, LABELS))
        for _ in range(steps):
            model.reset_metrics()
            logs = model.train_step(batch)
        return {name: float(value) for name, value in logs.items()}
    data = tf.data.Dataset.from_tensors((images, LABELS)).repeat(steps)
    history = model.fit(data, verbose=0).history
    return {name: float(np.mean(values[-1])) for name, values in history.items()}


def kernels(model: Any) -> dict[str, np.ndarray]:
    """The weights of rank 2 or more, by layer (and kind, where it has two)."""
    found = {}
    for layer in (*model.encoder.layers, model.supervised_head):
        for place, weight in enumerate(layer.weights):
            if len(weight.shape) > 1:
                found[layer.name + "'" * place] = np.array(weight)
    return found


PRUNED = {"middle": 0.9, "separable'": 0.9, "dense": 0.9, "head_supervised": HEAD_SPARSITY}


def equation_1(step: int, final: float, begin: int, interval: int, prunings: int) -> float:
    """The share after a step as the paper writes it, from an initial one of 0."""
    at = begin + min(max(step - begin, 0) // interval, prunings) * interval
    return final + (0 - final) * (1 - (at - begin) / (prunings * interval)) ** 3


@pytest.mark.one_lane
def test_the_schedule_is_equation_1() -> None:
    schedule = PruningSchedule(0.8, begin_step=3, end_step=25, interval=4)
    for step in range(40):
        wanted = equation_1(step, 0.8, 3, 4, 5)
        assert 0.8 * float(schedule.progress(step)) == pytest.approx(wanted, abs=1e-12)
    assert float(schedule.progress(22)) == 0.992 and float(schedule.progress(23)) == 1


@pytest.mark.one_lane
def test_the_smallest_become_zero() -> None:
    random = np.random.RandomState(3)
    for count in (0, 1, 7, 24):
        values = random.randint(-4, 5, (2, 3, 4)).astype("float32")  # many are equal
        order = sorted(range(24), key=lambda i: (abs(values.flat[i]), i))
        wanted = values.copy()
        for place in order[:count]:
            wanted.flat[place] = 0
        found = tf.function(without_smallest)(values, tf.constant(count))
        np.testing.assert_array_equal(found, wanted)
        compiled = tf.function(without_smallest, jit_compile=True)(values, tf.constant(count))
        np.testing.assert_array_equal(compiled, wanted)


def test_each_layer_is_pruned_by_the_schedule() -> None:
    """As a loop: what an update leaves, without what was pruned, without the smallest of it."""
    model, free = classifier(), classifier(None)
    for taken in range(1, 11):
        before = kernels(model)
        free.set_weights(model.get_weights())  # the same update, without pruning
        copy_slots(model, free)
        masks = {name: values != 0 for name, values in before.items()}
        logs = step(model)
        if taken <= 3:  # momentum of gradients that are masked differs from here on
            step(free)
            updated = kernels(free)
        after = kernels(model)
        zeros = total = 0
        for name, values in after.items():
            share = equation_1(taken, PRUNED.get(name, 0.0), 2, 2, 3)
            count = round(share * values.size)
            assert (values == 0).sum() == count, (name, taken)
            if taken > 2:
                assert not values[~masks[name]].any(), f"{name} grew a pruned weight again"
            if name in PRUNED:
                zeros, total = zeros + count, total + values.size
            if taken <= 3:
                wanted = np.where(masks[name], updated[name], 0)
                smallest = np.argsort(np.abs(wanted), axis=None, kind="stable")[:count]
                wanted.flat[smallest] = 0
                np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
        assert logs["sparsity"] == pytest.approx(zeros / total)
    assert not any((np.asarray(v) == 0).all() for v in model.trainable_variables)


def copy_slots(source: Any, target: Any) -> None:
    for ours, theirs in zip(slots(target), slots(source), strict=True):
        ours.assign(theirs)


def slots(model: Any) -> list[tf.Variable]:
    if not KERAS_3 or not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    rate = raw_variable(model.optimizer._learning_rate)
    return [v for v in map(raw_variable, model.optimizer.variables) if v is not rate]


def test_a_pruned_weight_has_no_gradient() -> None:
    """Its momentum falls from step to step: the norm and LARS see the others alone."""
    model = classifier(PruningSchedule(0.9, end_step=4, interval=2), small_encoder)
    step(model, steps=5)
    kernel, before = np.array(model.supervised_head.kernel), None
    place = [v.shape for v in model.trainable_variables].index(model.supervised_head.kernel.shape)
    for _ in range(2):
        momentum = np.array(momenta(model)[place])
        if before is not None:
            np.testing.assert_allclose(momentum[kernel == 0], 0.9 * before[kernel == 0], rtol=1e-5)
            assert np.abs(momentum - 0.9 * before)[kernel != 0].max() > 1e-4
        before = momentum
        step(model)


def momenta(model: Any) -> list[tf.Variable]:
    counted = raw_variable(batches_taken(model.optimizer))
    return [v for v in slots(model) if v is not counted]


def test_a_head_of_zeros_learns_before_it_is_pruned() -> None:
    schedule = PruningSchedule(0.5, end_step=4)
    model = classifier(schedule, small_encoder, zero_init_logits_layer=True)
    step(model)
    assert (np.array(model.supervised_head.kernel) == 0).mean() < 0.5
    step(model, steps=4)
    assert (np.array(model.supervised_head.kernel) == 0).mean() == 0.5


def test_what_is_frozen_or_not_read_stays() -> None:
    keras.utils.set_random_seed(1)
    whole = encoder()
    whole.trainable = False
    head = ProjectionHead(out_dim=6, num_layers=2)
    model = Classifier(whole, CLASSES, head, projection_selector=1, weight_decay=1e-9)
    schedule = PruningSchedule(0.5, end_step=2)
    model.compile(keras.optimizers.SGD(0.1), pruning=schedule, run_eagerly=True)
    unused = np.array(head.dense_layers[1].kernel)
    for _ in range(3):
        step(model)
    found = kernels(model)
    assert [name for name, values in found.items() if (values == 0).any()] == ["head_supervised"]
    assert (np.array(head.dense_layers[0].kernel) == 0).mean() == 0.5
    np.testing.assert_allclose(head.dense_layers[1].kernel, unused, rtol=1e-6)


@pytest.mark.parametrize("strategy", [2], indirect=True)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("micro-batches", marks=pytest.mark.second_lane),
        pytest.param("distiller, bfloat16", marks=pytest.mark.one_lane),
    ],
)
def test_replicas_equal_one_device(strategy: tf.distribute.Strategy, kind: str) -> None:
    found = []
    policy = "mixed_bfloat16" if "bfloat16" in kind else "float32"
    for scope in (tf.distribute.get_strategy(), strategy):
        keras.utils.set_random_seed(1)
        keras.mixed_precision.set_global_policy(policy)
        try:
            with scope.scope():
                model = made(kind, run_eagerly=not found)
        finally:
            keras.mixed_precision.set_global_policy("float32")
        if found:
            model.set_weights(found[0][0])
        start = model.get_weights()
        views: Any = (IMAGES, IMAGES[:, ::-1]) if kind == "micro-batches" else IMAGES
        step(model, views, steps=4)
        logs = step(model, views)
        found.append((start, model.get_weights(), logs))
    (_, one, logs), (_, other, theirs) = found
    for ours, wanted in zip(other, one, strict=True):
        if policy == "float32":
            np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-5)
        assert (ours == 0).sum() == (wanted == 0).sum()
    assert theirs["sparsity"] == logs["sparsity"] == pytest.approx(0.75, abs=0.01)


def test_a_compiled_step_prunes_the_same() -> None:
    keras.utils.set_random_seed(1)
    plain = made("classifier", run_eagerly=True)
    compiled = made("classifier", jit_compile=True)
    compiled.set_weights(plain.get_weights())
    for _ in range(4):
        logs, wanted = step(compiled), step(plain)
    assert logs["sparsity"] == wanted["sparsity"] == pytest.approx(0.75, abs=0.01)
    for ours, theirs in zip(compiled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_operation_has_a_gpu_kernel() -> None:
    model = made("classifier")
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda x, y: model.train_step((x, y)))
    traced = step.get_concrete_function(tf.constant(IMAGES), tf.constant(LABELS))
    assert ops_without_gpu_kernel(traced) == []


def made(kind: str, **settings: Any) -> Any:
    network = small_encoder()
    if kind == "classifier":
        value_range = settings.pop("value_range", (0, 1))
        model: Any = Classifier(network, CLASSES, value_range=value_range)
    elif kind == "micro-batches":
        head = ProjectionHead(out_dim=4, num_layers=1, synchronized=True)
        model = SimCLR(network, head, temperature=0.5, num_classes=CLASSES, micro_batch_size=3)
    else:
        model = Distiller(network, CLASSES, lambda images: images[:, :CLASSES, 0, 0])
    schedule = PruningSchedule(0.75, end_step=4, interval=2)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), pruning=schedule, **settings)
    return model


def test_a_skipped_step_prunes_nothing() -> None:
    model = made("classifier", skip_non_finite=True, value_range=None, run_eagerly=True)
    for _ in range(2):
        step(model)
    before = [np.array(weight) for weight in model.weights]
    lost = [step(model, np.full_like(IMAGES, 3e38)) for _ in range(2)][-1]
    assert lost["skipped_steps"] == 2
    for ours, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ours, kept)
    logs = step(model)  # what was due then is done now
    assert lost["sparsity"] < 0.7 and logs["sparsity"] == pytest.approx(0.75, abs=0.01)


def test_a_saved_model_goes_on(tmp_path: Any) -> None:
    model = made("classifier", run_eagerly=True)
    for _ in range(2):
        step(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.pruner.schedule.get_config() == model.pruner.schedule.get_config()
    for _ in range(2):
        logs, theirs = step(model), step(again)
        assert logs == pytest.approx(theirs, rel=1e-4)
    assert logs["sparsity"] == pytest.approx(0.75, abs=0.01)


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity above 0 and below 1; received: 1.0"),
        ({"sparsity": 0.0}, "sparsity above 0 and below 1; received: 0.0"),
        ({"begin_step": 8}, "begin_step=8, end_step=8"),
        ({"interval": 9}, "interval from 1 to the 8 steps between begin and end; received: 9"),
    ],
)
def test_wrong_schedules_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PruningSchedule(**{"sparsity": 0.5, "end_step": 8, **settings})


@pytest.mark.one_lane
def test_a_model_with_nothing_to_prune_is_refused() -> None:
    model = Classifier(encoder(), CLASSES)
    model.trainable = False
    with pytest.raises(UserError, match="Expected a convolution behind the first or a dense layer"):
        model.compile("sgd", pruning=SCHEDULE)
