"""Batch norm of processors with AVX2 alone: the fused operation's numbers, and never exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras
from tiny_models import batch, dataset, small_encoder, small_model

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import raw_variable
from simclr_tf.devices import processor
from simclr_tf.models import processor_batch_norm
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_saved_model

EPSILON = 1e-5
FUSED, GRADIENT = "FusedBatchNormV3", "FusedBatchNormGradV3"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`slow(True)` makes oneDNN's kernel the slow one of AVX2, `slow(False)` the quick one."""

    def become(value: bool) -> None:
        monkeypatch.setattr(processor_batch_norm, "normalizes_slowly", lambda: value)
        monkeypatch.setattr(processor_batch_norm, "accelerated", lambda: False)

    return become


def fused(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, ...]:
    empty = tf.zeros([0])
    found = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=empty, variance=empty, epsilon=EPSILON,
        is_training=True,
    )  # fmt: skip
    count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
    return found.y, found.batch_mean, found.batch_variance * (count - 1) / count


def ours(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return processor_batch_norm.of_batch(x, scale, offset, EPSILON)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5), st.integers(1, 6)),
    mean=st.sampled_from([0.0, 3.0, -100.0]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 100),
)
def test_numbers_and_gradients_of_the_fused_operation(
    shape: tuple[int, ...], mean: float, dtype: str, seed: int
) -> None:
    """Also of channels whose mean is far from zero, where squares minus squared mean is not."""
    draw = np.random.RandomState(seed)
    x = tf.cast(draw.randn(*shape) + mean, dtype)
    scale, offset = (tf.constant(draw.randn(shape[-1]), tf.float32) for _ in range(2))
    upstream = tf.cast(draw.randn(*shape), dtype)

    def all_of(function: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            tape.watch([x, scale, offset])
            found = function(x, scale, offset)
        assert found[0].dtype == dtype and found[1].dtype == found[2].dtype == tf.float32
        gradients = tape.gradient(found[0], [x, scale, offset], upstream)
        return [np.asarray(tf.cast(value, tf.float32)) for value in (*found, *gradients)]

    tolerance = 2e-4 if dtype == "float32" else 0.02  # rounding of a mean of 100
    for value, expected in zip(all_of(ours), all_of(fused), strict=True):
        largest = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * largest)


def compiled(**given: Any) -> SimCLR:
    """Its views are flipped alone: their graph is not the point."""
    model = small_model(augment=SimCLRAugment(16, augmentations="flip"), **given)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def step_of(kind: str, **given: Any) -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(0)
    if kind == "classifier":
        model: Any = Classifier(small_encoder(), num_classes=3)
        model.compile(keras.optimizers.SGD(0.1))
    else:
        model = compiled(**given)
    model.fit(dataset(), epochs=1, verbose=0, shuffle=False)
    weights = [np.array(tf.convert_to_tensor(raw_variable(v))) for v in model.weights]
    found = {f"weight {number}": value for number, value in enumerate(weights)}
    if given:  # evaluation and prediction know no micro-batches
        return found
    images, labels = batch(8)
    evaluated = model.evaluate(images, labels, verbose=0, return_dict=True)
    numbers = {name: np.asarray(value) for name, value in evaluated.items()}
    return {**found, **numbers, "predicted": np.asarray(model.predict(images, verbose=0))}


@pytest.mark.parametrize(
    ("kind", "given"),
    [("simclr", {}), ("simclr", {"micro_batch_size": 4}), ("classifier", {})],
    ids=["simclr", "micro-batches", "classifier"],
)
def test_training_evaluation_and_prediction_are_the_same(
    slow: Any, kind: str, given: dict[str, Any]
) -> None:
    slow(False)
    expected = step_of(kind, **given)
    slow(True)
    found = step_of(kind, **given)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def operations(function: Any, *arguments: Any) -> set[str]:
    graph = tf.function(function, autograph=False).get_concrete_function(*arguments).graph
    names = {node.op for body in graph.as_graph_def().library.function for node in body.node_def}
    # Batches of vectors, as a projection head's, are images of one pixel to the operation.
    return names | {
        operation.type
        for operation in graph.get_operations()
        if operation.type != FUSED or operation.inputs[0].shape[1] != 1
    }


@pytest.mark.parametrize("value", [True, False])
def test_only_steps_leave_the_fused_operation_out(slow: Any, value: bool) -> None:
    slow(value)
    layer, model = BatchNorm(), compiled()
    layer.build((None, 4, 4, 3))
    images = tf.zeros([2, 4, 4, 3])
    for training in (True, False):
        assert FUSED in operations(lambda x, t=training: layer(x, training=t), images)
    data = next(iter(dataset()))
    in_step = operations(model.train_step, data)
    assert GRADIENT in in_step and (FUSED in in_step) is not value
    assert (FUSED in operations(model.test_step, data)) is not value
    assert (FUSED in operations(model.predict_step, data)) is not value


def test_an_export_holds_the_fused_operation(slow: Any, tmp_path: Path) -> None:
    """With gradients wherever it is loaded: those of a function of our own are not saved."""
    slow(True)
    model = compiled()
    model.fit(dataset(), epochs=1, verbose=0)
    export_saved_model(model, str(tmp_path / "export"))
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    images = tf.random.uniform([2, 16, 16, 3])
    assert FUSED in operations(lambda x: loaded(x, trainable=True), images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = loaded(images, trainable=True)["final_avg_pool"]
    assert tape.gradient(outputs, images) is not None


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("features", "limit", "onednn", "expected"),
    [
        (("avx2",), None, "1", True),
        (("avx2",), None, "0", False),
        (("avx2", "avx512f"), None, None, False),
        (("avx2", "avx512f"), "AVX2", None, True),
        (("avx2", "avx512f"), "avx2_vnni", None, True),
        (("avx2", "avx512f"), "AVX512_CORE", None, False),
        (("avx2", "avx512f"), "SSE41", None, False),
        ((), None, None, False),
        (None, None, None, False),  # not listed by the system
    ],
)
def test_where_the_kernel_is_slow(
    monkeypatch: pytest.MonkeyPatch,
    features: tuple[str, ...] | None,
    limit: str | None,
    onednn: str | None,
    expected: bool,
) -> None:
    monkeypatch.setattr(processor, "cpu_features", lambda: features)
    for name, value in (("ONEDNN_MAX_CPU_ISA", limit), ("TF_ENABLE_ONEDNN_OPTS", onednn)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert processor.normalizes_slowly() is expected
