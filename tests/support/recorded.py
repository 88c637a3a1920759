"""What the release recorded (tests/golden/README.md), and our models of it. No pytest here.

`tests/gpu/check.py` compares with it too, where only the package itself may be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
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

GOLDEN_DIR = Path(__file__).resolve().parents[1] / "golden"
Arrays = dict[str, np.ndarray]

NETWORKS = {
    "r18_w1_cifar": {"depth": 18, "cifar_stem": True},
    "r18_w2_cifar": {"depth": 18, "width_multiplier": 2, "cifar_stem": True},
    "r34_w1_cifar": {"depth": 34, "cifar_stem": True},
    "r50_w1_224": {"depth": 50},
    "r50_w1_se_64": {"depth": 50, "se_ratio": 0.25},
    "r50_w1_sk_64": {"depth": 50, "sk_ratio": 0.0625},
}
LARS_FORMS = {
    "default": {},
    "nesterov": {"nesterov": True},
    "popular": {"classic_momentum": False},
    "popular_nesterov": {"classic_momentum": False, "nesterov": True},
}
EXCLUDED_WORDS = ("batch_normalization", "bias", "head_supervised")
# Two kernels that are recorded whole; of the other variables the norm.
KERNELS = {
    "head_kernel": "supervised_head/linear_layer/dense/kernel",
    "stem_kernel": "resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel",
}


def load(name: str) -> Arrays:
    """Returns the arrays of `tests/golden/NAME.npz`."""
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def network(name: str) -> SimCLR:
    """Returns one of `NETWORKS` with the weights that it was recorded with."""
    model = SimCLR(ResNet(**NETWORKS[name]), ProjectionHead(), num_classes=10)
    set_weights_by_rule(model)
    return model


def network_images(recorded: Arrays) -> np.ndarray:
    """Returns the images that a network was recorded with, two views on the channel axis."""
    # Those of 224 pixels are not kept: they are random by this rule.
    images = recorded.get("images")
    if images is None:
        images = np.random.RandomState(7).rand(1, 224, 224, 6).astype("float32")
    return images


class StepRate(keras.optimizers.schedules.LearningRateSchedule):
    """Takes the recorded learning rate of each step."""

    def __init__(self, rates: Iterable[float]) -> None:
        self.rates = [float(r) for r in rates]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.constant(self.rates, tf.float32), tf.cast(step, tf.int32))

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates}


def lars_steps(z: Arrays, form: str, compiled: bool = False) -> Iterator[tuple[int, Arrays]]:
    """Yields the variables after each of the six updates of `lars.npz`."""

    def named(prefix: str) -> Arrays:
        """The arrays of every variable, in the recorded order."""
        return {k[len(prefix) + 1 :]: z[k] for k in z if k.startswith(f"{prefix}/")}

    variables = {name: tf.Variable(value) for name, value in named("init").items()}
    lars = LARS(StepRate(z["learning_rates"]), weight_decay=1e-2, **LARS_FORMS[form])
    lars.exclude(v for n, v in variables.items() if any(w in n for w in EXCLUDED_WORDS))
    lars.build(list(variables.values()))

    def apply(gradients: list[tf.Tensor]) -> None:
        lars.apply_gradients(list(zip(gradients, variables.values(), strict=True)))

    if compiled:
        apply = tf.function(apply, jit_compile=True)
    for step in range(6):
        gradients = named(f"grad/step{step}")
        apply([tf.constant(gradients[name]) for name in variables])
        yield step, {name: v.numpy() for name, v in variables.items()}


def pretraining() -> SimCLR:
    """Returns the compiled model of `train_steps_pretrain_*.npz` before its first step."""
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
    return model


def fine_tuning(which: str) -> Classifier:
    """Returns the compiled model of `train_steps_finetune_*_r1.npz` before its first step.

    Args:
        which: `linear` or `all`.
    """
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
    return model


def pretraining_batches() -> list[Any]:
    """Returns five batches of ((view 1, view 2), labels)."""
    images, labels = _batches(6)
    return [((x[..., :3], x[..., 3:]), y) for x, y in zip(images, labels, strict=True)]


def fine_tuning_batches() -> list[Any]:
    """Returns five batches of (images, labels)."""
    return list(zip(*_batches(3), strict=True))


def _batches(channels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(5)
    images = random.rand(5, 16, 32, 32, channels).astype("float32")
    return images, random.randint(0, 10, (5, 16))


def run_steps(model: Any, batches: list[Any], strategy: Any = None) -> np.ndarray:
    """Returns one row of metrics a step, in the recorded order."""
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


def final_norms(model: Any) -> dict[str, float]:
    """Returns the norm of every variable, by its recorded key."""
    return {f"model/{path}": float(np.linalg.norm(v)) for path, v in weights_of(model).items()}


def weights_of(model: Any) -> Arrays:
    """Returns every variable by its path in a checkpoint."""
    variables = model_variables(model)
    return {p: tf.convert_to_tensor(raw_variable(v)).numpy() for p, v in variables.items()}
