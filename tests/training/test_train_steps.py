"""Whole training steps equal to the release's, on one and four replicas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from release import set_weights_by_rule
from tensorflow import keras

from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.compat import raw_variable
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.optim.lars import LARS
from simclr_tf.optim.schedules import WarmUpCosine
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.gradients import current_learning_rate
from simclr_tf.training.simclr import SimCLR


def recorded_batches(channels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(5)
    images = random.rand(5, 16, 32, 32, channels).astype("float32")
    return images, random.randint(0, 10, (5, 16))


def run_steps(model: Any, batches: list[Any], strategy: Any = None) -> np.ndarray:
    """Returns one row of metrics a step."""
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync

    @tf.function
    def step(data: Any) -> None:
        strategy.run(lambda d: model.train_step(d), [data])

    columns = ("contrast_loss", "contrast_acc", "contrast_entropy", "supervised_loss",
               "weight_decay", "learning_rate")  # fmt: skip
    rows = []
    for batch in batches:
        rate = float(current_learning_rate(model.optimizer))
        parts = [
            tf.nest.map_structure(lambda x, r=r: tf.constant(np.split(x, replicas)[r]), batch)
            for r in range(replicas)
        ]
        if replicas == 1:
            values = parts[0]
        else:
            values = strategy.experimental_distribute_values_from_function(
                lambda context, parts=parts: parts[context.replica_id_in_sync_group]
            )
        step(values)
        results = {metric.name: float(metric.result()) for metric in model.metrics}
        results["learning_rate"] = rate
        rows.append([results.get(name, 0.0) for name in columns])
        for metric in model.metrics:
            metric.reset_state()
    return np.array(rows)


@pytest.mark.parametrize(
    "strategy",
    [
        1,
        # test_replicas compares four with one on both lanes.
        pytest.param(4, marks=[pytest.mark.slow, pytest.mark.one_lane]),
    ],
    indirect=True,
)
def test_five_pretraining_steps(strategy: Any, golden: Any) -> None:
    replicas = strategy.num_replicas_in_sync
    recorded = golden(f"train_steps_pretrain_r{replicas}")
    images, labels = recorded_batches(6)
    with strategy.scope():
        model = SimCLR(
            ResNet(18, cifar_stem=True),
            ProjectionHead(),
            temperature=0.5,
            num_classes=10,
            weight_decay=1e-2,
        )
        set_weights_by_rule(model)
        rate = WarmUpCosine(1.0, batch_size=16, num_examples=80, epochs=10, warmup_epochs=1)
        model.compile(optimizer=LARS(rate, weight_decay=1e-2))
        model.optimizer.build(model.trainable_variables)
    batches = [((x[..., :3], x[..., 3:]), y) for x, y in zip(images, labels, strict=True)]
    rows = run_steps(model, batches, strategy)
    for column, name in enumerate(recorded["columns"]):
        # Accuracies are counts of a few images: within one of 16.
        limit = 1 / 16 + 1e-6 if "acc" in str(name) else 1e-3
        if "acc" in str(name):
            assert np.abs(rows[:, column] - recorded["rows"][:, column]).max() <= limit
        else:
            assert deviation(rows[:, column], recorded["rows"][:, column]) < limit, name
    compare_weights(model, recorded)


@pytest.mark.parametrize("which", ["linear", pytest.param("all", marks=pytest.mark.slow)])
def test_five_fine_tuning_steps(which: str, golden: Any) -> None:
    recorded = golden(f"train_steps_finetune_{which}_r1")
    images, labels = recorded_batches(3)
    model = Classifier(
        ResNet(18, cifar_stem=True, synchronized=False),
        num_classes=10,
        projection_head=ProjectionHead(synchronized=False),
        fine_tune_after_block=4 if which == "linear" else -1,
        weight_decay=1e-4,
    )
    set_weights_by_rule(model)
    rate = WarmUpCosine(0.1, batch_size=16, num_examples=80, epochs=10, warmup_epochs=0)
    model.compile(optimizer=keras.optimizers.SGD(rate, 0.9, nesterov=True))
    model.optimizer.build(model.trainable_variables)  # not in the step, which is then traced twice
    rows = run_steps(model, list(zip(images, labels, strict=True)))
    column = list(recorded["columns"]).index("supervised_loss")
    # From the fourth step on this unregularised start magnifies rounding: two equal forms of batch
    # norm, fused and not, differ from each other by as much (5e-3) as either from the recording.
    assert deviation(rows[:3, column], recorded["rows"][:3, column]) < 1e-3
    assert deviation(rows[:, column], recorded["rows"][:, column]) < 1e-2
    for name, limit in (("learning_rate", 1e-6), ("weight_decay", 1e-3)):
        column = list(recorded["columns"]).index(name)
        assert deviation(rows[:, column], recorded["rows"][:, column]) < limit, name
    compare_norms(model, recorded)
    variables = model_variables(model)
    for name, key in (
        ("supervised_head/linear_layer/dense/kernel", "head_kernel"),
        ("resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel", "stem_kernel"),
    ):
        limit = 1e-3 if which == "linear" else 1e-2
        assert deviation(raw_variable(variables[name]).numpy(), recorded[key]) < limit


def compare_weights(model: Any, recorded: dict[str, np.ndarray]) -> None:
    """The norm of every variable after the last step, and two kernels."""
    compare_norms(model, recorded)
    variables = model_variables(model)
    for name, key in (
        ("supervised_head/linear_layer/dense/kernel", "head_kernel"),
        ("resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel", "stem_kernel"),
    ):
        value = tf.convert_to_tensor(raw_variable(variables[name]))
        assert deviation(value, recorded[key]) < 1e-3, key


def compare_norms(model: Any, recorded: dict[str, np.ndarray]) -> None:
    variables = model_variables(model)
    norms = dict(zip(map(str, recorded["final_norm_keys"]), recorded["final_norms"], strict=True))
    ours = {
        f"model/{path}": np.linalg.norm(tf.convert_to_tensor(raw_variable(variable)))
        for path, variable in variables.items()
    }
    assert set(ours) == set(norms)
    assert deviation([ours[key] for key in norms], list(norms.values())) < 1e-3
