"""SimCLR's step on devices: replicas, GPU kernels, XLA, mixed precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gpu_kernels import ops_without_gpu_kernel
from tensorflow import keras
from tiny_models import (
    batch,
    dataset,
    every_view,
    small_encoder,
    small_model,
    small_resnet,
)

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.lars import LARS
from simclr_tf.training.simclr import SimCLR

pytestmark = pytest.mark.usefixtures("half_as_deep")


class TestDevices:
    # `test_replicas` compares each of the three with one device on both lanes.
    @pytest.mark.one_lane
    def test_two_replicas_fit_evaluate_predict(self, strategy: Any) -> None:
        with strategy.scope():
            model = small_model(projection_head=ProjectionHead(out_dim=8, num_layers=1))
            model.compile(optimizer=LARS(0.1))
        history = model.fit(dataset(), verbose=0).history
        assert np.isfinite(history["total_loss"]).all()
        assert history["learning_rate"][0] == pytest.approx(0.1)  # not added up over replicas
        results = model.evaluate(dataset(count=24), verbose=0, return_dict=True)
        assert 0 <= results["label_top_1_accuracy"] <= 1
        assert model.predict(dataset(), verbose=0).shape == (16, 64)

    def test_negatives_come_from_every_replica(self, strategy: Any) -> None:
        """Entropy over M candidates is at most log M: more than one replica's images are seen."""
        with strategy.scope():
            # All but uniform, whatever the encoder makes of the images.
            model = small_model(
                projection_head=ProjectionHead("none"), augment=lambda images: images,
                temperature=100.0, num_classes=None,
            )  # fmt: skip
            model.compile(optimizer=LARS(0.0))
        images = batch(16)[0]
        history = model.fit(tf.data.Dataset.from_tensors(images), verbose=0).history
        assert history["contrast_entropy"][0] == pytest.approx(np.log(16), abs=1e-3)

    @staticmethod
    def traced_step(model: SimCLR) -> Any:
        images, labels = batch()
        step = tf.function(lambda x, y: model.train_step((x, y)))
        return step.get_concrete_function(tf.constant(images), tf.constant(labels))

    def test_every_op_of_the_step_has_a_gpu_kernel(self) -> None:
        """Of the network here; of all augmentations below."""
        model = small_model(encoder=small_resnet())
        model.compile(optimizer=LARS(0.1))
        model.optimizer.build(model.trainable_variables)
        assert ops_without_gpu_kernel(self.traced_step(model)) == []

    def test_every_op_of_a_step_in_micro_batches_has_a_gpu_kernel(self) -> None:
        model = small_model(augment=every_view(), micro_batch_size=4)
        model.compile(optimizer=LARS(0.1))
        model.optimizer.build(model.trainable_variables)
        assert ops_without_gpu_kernel(self.traced_step(model)) == []

    def test_a_planted_op_without_gpu_kernel_is_found(self) -> None:
        def bicubic(images: tf.Tensor) -> tf.Tensor:
            return tf.image.resize(images, [16, 16], "bicubic")

        model = small_model(augment=bicubic)
        model.compile(optimizer=LARS(0.1))
        model.optimizer.build(model.trainable_variables)
        assert ops_without_gpu_kernel(self.traced_step(model)) == ["ResizeBicubic"]

    @pytest.mark.parametrize(
        ("encoder", "views"),
        [
            # `test_augment` compiles all views on both lanes.
            pytest.param(small_encoder, "crop,flip,color,blur", marks=pytest.mark.one_lane),
            pytest.param(
                small_resnet, "crop,flip", marks=[pytest.mark.slow, pytest.mark.second_lane]
            ),
        ],
    )
    def test_the_whole_step_compiles(self, encoder: Any, views: str) -> None:
        """And does what Python does step by step: the views' draws, the loss, every weight."""
        images, labels = (tf.constant(x) for x in batch())
        outcomes = []
        augment = SimCLRAugment(16, augmentations=views)
        model = small_model(encoder=encoder(), augment=augment, temperature=0.5)
        model.compile(optimizer=LARS(0.1))
        model.optimizer.build(model.trainable_variables)
        start = model.get_weights()
        for jit_compile in (False, True):
            model.set_weights(start)
            for metric in model.metrics:
                metric.reset_state()
            model.optimizer.iterations.assign(0)
            for slot in model.optimizer.variables:
                if len(slot.shape):
                    slot.assign(tf.zeros(slot.shape))
            step = model.train_step
            if jit_compile:
                step = tf.function(step, jit_compile=True)
            logs = step((images, labels))
            outcomes.append(({n: float(v) for n, v in logs.items()}, model.get_weights()))
        (logs, weights), (compiled_logs, compiled_weights) = outcomes
        assert compiled_logs == pytest.approx(logs, rel=1e-3, abs=1e-5)
        for value, expected in zip(compiled_weights, weights, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-2, atol=1e-4)

    # `test_gradient_cache` has the step in micro-batches, each type on the other lane.
    @pytest.mark.parametrize(
        "policy",
        [
            pytest.param("mixed_bfloat16", marks=pytest.mark.second_lane),
            pytest.param("mixed_float16", marks=pytest.mark.one_lane),
        ],
    )
    def test_mixed_precision(self, policy: str) -> None:
        before = keras.mixed_precision.global_policy() if hasattr(
            keras.mixed_precision, "global_policy") else "float32"  # fmt: skip
        keras.mixed_precision.set_global_policy(policy)
        try:
            model = small_model()
        finally:
            keras.mixed_precision.set_global_policy(before)
        optimizer: Any = LARS(0.1)
        if policy == "mixed_float16":
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model.compile(optimizer=optimizer)
        history = model.fit(dataset(), epochs=2, verbose=0).history
        assert np.isfinite(history["total_loss"]).all()
        assert all(w.dtype in (tf.float32, "float32") for w in model.trainable_variables)
        assert model.encoder(batch()[0].astype("float32")).dtype == getattr(tf, policy[6:])
