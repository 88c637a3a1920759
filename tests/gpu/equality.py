"""The same seed, weights and images on the device and on the CPU of the same machine.

Differences are max|difference| / max|value of the CPU| unless a row says otherwise. With TF32 a
product's inputs are rounded by up to 2^-11: 5e-4.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from record import Row, compared
from recorded import weights_of
from release import set_weights_by_rule
from setting import Setting, make_encoder, pictures
from small_models import (
    CLASSES,
    PIXELS,
    data_set,
    gradient_step,
    make_half,
    make_simclr,
    scaled,
    set_weights,
)
from tensorflow import keras

from simclr_tf.augment.layer import KNOWN_AUGMENTATIONS, SimCLRAugment
from simclr_tf.losses.named import make_loss
from simclr_tf.losses.names import OPTIONS
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR

STEPS = 5
SEED = (20, 7)
# Of views in [0, 1]; a grey level is 4e-3.
VIEWS = {False: 1e-4, True: 1e-2}
FEATURES = {"inference": 1e-4, "training": 1e-3}
LOSS, GRADIENT = 1e-4, 1e-4
# Whose gradients jump: at the margin, and where two embeddings change places in a sorted list.
JUMPING = {"margin_triplet": 5e-3, "generalized": 5e-3}
STEP_LOSSES = 1e-4
KINDS = {
    "kernels": ("kernel",),
    "scales and offsets": ("gamma", "beta", "bias"),
    "moving statistics": ("moving_mean", "moving_variance"),
}
# Of how far they moved. Weights that differ by 1e-6 make 1e-4, 1e-3 and 1e-5.
MOVED = {"kernels": 5e-3, "scales and offsets": 2e-2, "moving statistics": 1e-3}
HALF_LOSS = 0.02
HALVES = {
    "bfloat16": {"kernels": 0.2, "scales and offsets": 0.4},
    "float16": {"kernels": 0.1, "scales and offsets": 0.25},
}


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Allows TF32 in products and convolutions, or forbids it, for a block."""
    ask, allow = (
        tf.config.experimental.tensor_float_32_execution_enabled,
        tf.config.experimental.enable_tensor_float_32_execution,
    )
    before = ask()
    allow(wanted)
    try:
        yield
    finally:
        allow(before)


def views(setting: Setting, sizes: tuple[int, int, int]) -> Iterator[Row]:
    """Every augmentation by itself, and all in a row, without TF32 and with it."""
    source, size, count = sizes
    images = pictures(count, source, seed=0)

    def made(names: str) -> np.ndarray:
        layer = SimCLRAugment(size, augmentations=names)
        return layer(tf.constant(images), seed=tf.constant(SEED)).numpy()

    for allowed, tolerance in VIEWS.items():
        with tf32(allowed):
            for names in (*KNOWN_AUGMENTATIONS, ",".join(KNOWN_AUGMENTATIONS)):
                ours, expected = setting.both(functools.partial(made, names))
                off = np.abs(ours - expected).reshape(count, -1).max(1) > tolerance
                note = f"{off.sum()} of {count} views beyond it" if off.any() else ""
                name = f"{names if ',' not in names else 'all'}, TF32 {'on' if allowed else 'off'}"
                yield compared(name, ours, expected, tolerance, note)


def encoder(setting: Setting) -> Iterator[Row]:
    """Features, embeddings and logits of a ResNet-18, in inference and in training."""
    images = (pictures(setting.sizes.images, PIXELS, seed=1) / 255.0).astype("float32")

    def outputs() -> dict[str, np.ndarray]:
        head = ProjectionHead(num_layers=setting.sizes.head_layers)
        model = SimCLR(make_encoder(setting.sizes.widths[0]), head, num_classes=CLASSES)
        set_weights_by_rule(model)
        found = {}
        for mode in FEATURES:
            features = model.encoder(tf.constant(images), training=mode == "training")
            hidden = model.projection_head.hidden_layers(features, training=mode == "training")
            logits = model.supervised_head(features)
            for name, value in zip(
                ("features", "embeddings", "logits"), (features, hidden[-1], logits), strict=True
            ):
                found[f"{name}, {mode}"] = value.numpy()
        return found

    with tf32(False):
        ours, expected = setting.both(outputs)
    for name, value in expected.items():
        yield compared(name, ours[name], value, FEATURES[name.split(", ")[1]])


def losses(setting: Setting) -> Iterator[Row]:
    """Every loss and its gradient, all at once and in blocks."""
    count = setting.sizes.loss_images
    random = np.random.RandomState(2)
    hidden = random.standard_normal((2 * count, 128)).astype("float32")
    labels = random.randint(0, CLASSES, count).astype("int32")

    def found(name: str, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        x, loss = tf.constant(hidden), make_loss(name)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(
                x, labels=tf.constant(labels), seed=tf.constant(SEED), block_size=block_size
            ).loss
        return value.numpy(), tape.gradient(value, x).numpy()

    with tf32(False):
        for name in OPTIONS:
            for block_size in (0, count // 4):
                form = f"in blocks of {block_size}" if block_size else "all at once"
                ours, expected = setting.both(functools.partial(found, name, block_size))
                yield compared(f"{name} {form}", ours[0], expected[0], LOSS)
                tolerance = JUMPING.get(name, GRADIENT)
                yield compared(f"{name} {form}, gradient", ours[1], expected[1], tolerance)


class Trained(NamedTuple):
    """What some steps did.

    Attributes:
        losses: Of the steps, each as the mean so far.
        moved: How far each variable went, by its path in a checkpoint.
    """

    losses: list[float]
    moved: dict[str, np.ndarray]


def trained(
    model: Any, optimizer: keras.optimizers.Optimizer, data: tf.data.Dataset, jit_compile: bool
) -> Trained:
    """Trains a model by `fit`, from weights set by rule."""
    set_weights(model)
    before = weights_of(model)
    model.compile(optimizer=optimizer, jit_compile=jit_compile)
    losses: list[float] = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["total_loss"]))
    )
    model.fit(data, verbose=0, callbacks=[keep])
    return Trained(losses, {path: x - before[path] for path, x in weights_of(model).items()})


def five_steps(
    setting: Setting,
    make: Callable[[Setting], Any],
    make_optimizer: Callable[[], keras.optimizers.Optimizer],
    jit_compile: bool = False,
) -> Iterator[Row]:
    """Five steps by `fit` on the device against five on the CPU: losses, and how weights moved."""
    with tf32(False):
        with setting.on_device():
            model = make(setting)
            ours = trained(model, make_optimizer(), data_set(setting, STEPS), jit_compile)
        expected = _on_the_cpu(setting, make, make_optimizer, STEPS)
    yield compared("losses", ours.losses, expected.losses, STEP_LOSSES)
    for kind, endings in KINDS.items():
        values = (_joined(each.moved, endings) for each in (ours, expected))
        yield compared(f"{kind}, by norms", *values, MOVED[kind], norms=True)
    rows = [
        compared("the farthest variable, by norms", ours.moved[path], value, 0.3, path, norms=True)
        for path, value in _that_moved(expected.moved).items()
    ]
    yield max(rows, key=lambda row: np.nan_to_num(float(row["difference"]), nan=np.inf))


def half_precision(setting: Setting, name: str) -> Iterator[Row]:
    """The loss and the gradient of one step in half precision, against float32 on the CPU."""
    with tf32(False):
        with setting.on_device():
            optimizer = scaled(gradient_step()) if name == "float16" else gradient_step()
            ours = trained(make_half(setting, name), optimizer, data_set(setting, 1), False)
        expected = _on_the_cpu(setting, make_simclr, gradient_step, 1)
    yield compared("loss", ours.losses, expected.losses, HALF_LOSS)
    for kind, tolerance in HALVES[name].items():
        values = (_joined(each.moved, KINDS[kind]) for each in (ours, expected))
        yield compared(f"gradient of {kind}, by norms", *values, tolerance, norms=True)


def _that_moved(moved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the variables that went at least a tenth as far as those of their kind.

    Where the next batch norm takes an offset out again, its gradient is nothing but rounding.
    """
    found = {}
    for endings in KINDS.values():
        far = np.sqrt(np.mean(_joined(moved, endings) ** 2))
        for path, x in moved.items():
            if path.endswith(endings) and np.sqrt(np.mean(x**2)) >= far / 10:
                found[path] = x
    return found


@functools.cache
def _on_the_cpu(
    setting: Setting,
    make: Callable[[Setting], Any],
    make_optimizer: Callable[[], keras.optimizers.Optimizer],
    steps: int,
) -> Trained:
    with tf.device("/CPU:0"):
        return trained(make(setting), make_optimizer(), data_set(setting, steps), False)


def _joined(arrays: dict[str, np.ndarray], endings: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([x.ravel() for path, x in arrays.items() if path.endswith(endings)])
