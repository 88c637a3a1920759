"""How fast it is: training steps of each type, with XLA and without, views, the loss; memory.

Images lie on the device before a step begins: no input pipeline is timed.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from machine import forget_peak, peak_bytes
from record import Row, timed
from setting import Setting, make_encoder
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import build_optimizer
from simclr_tf.devices.precision import policy_name
from simclr_tf.devices.process_state import isolated
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.lars import LARS
from simclr_tf.timing.compute import loss_sides
from simclr_tf.timing.turns import in_turn, wait_for
from simclr_tf.training.simclr import SimCLR

TYPES = ("none", "bfloat16", "float16")
CLASSES = 10
Sides = dict[str, Callable[[], Any]]

# What a later part of the same network takes up again: tracing one takes longer than timing it.
_steps: dict[tuple[Any, ...], Callable[[], Any]] = {}
_fitting: dict[tuple[Any, ...], int] = {}


def steps(setting: Setting, size: tuple[int, float, int, int]) -> Iterator[Row]:
    """Training steps in float32 (with TF32, where the device has it) and in half precision."""
    *network, images = size

    def sides(batch: int) -> Sides:
        return {policy_name(each): _step(setting, network, each, batch) for each in TYPES}

    yield from _measured(setting, sides, images, tuple(network))


def compiled_steps(
    setting: Setting, size: tuple[int, float, int, int], mixed_precision: str
) -> Iterator[Row]:
    """The same step with XLA beside the one without."""
    *network, images = size
    images = _fitting.get(tuple(network), images)
    name = policy_name(mixed_precision)

    def sides(batch: int) -> Sides:
        plain = _step(setting, network, mixed_precision, batch)
        with_xla = _step(setting, network, mixed_precision, batch, jit_compile=True)
        return {name: plain, f"{name}, XLA": with_xla}

    yield from _measured(setting, sides, images)


def views(setting: Setting, size: tuple[int, int, int], with_xla: bool = False) -> Iterator[Row]:
    """Both views of every image, alone; with XLA beside those without, if asked."""
    source, pixels, images = size

    def sides(batch: int) -> Sides:
        shape = (batch, source, source, 3)
        made = tf.constant(np.random.RandomState(0).randint(0, 256, shape).astype("uint8"))
        calls = itertools.count()

        def side(jit_compile: bool) -> Callable[[], tf.Tensor]:
            augment = SimCLRAugment(pixels, augmentations=setting.sizes.augmentations)
            function = tf.function(
                lambda seed: augment(tf.concat([made, made], 0), seed=seed), jit_compile=jit_compile
            )
            return lambda: function(tf.constant([0, next(calls)]))

        plain = {"two views": side(False)}
        return {**plain, "two views, XLA": side(True)} if with_xla else plain

    yield from _measured(setting, sides, images)


def loss(setting: Setting) -> Iterator[Row]:
    """NT-Xent with its gradient, all at once and in blocks."""
    yield from _measured(setting, loss_sides, setting.sizes.timed_loss)


def _step(
    setting: Setting,
    network: list[Any],
    mixed_precision: str,
    batch: int,
    jit_compile: bool = False,
) -> Callable[[], Any]:
    """Returns one training step from images of bytes, views included."""
    key = (*network, mixed_precision, batch, jit_compile)
    if key not in _steps:
        pixels = network[-1]
        random = np.random.RandomState(0)
        images = random.randint(0, 256, (batch, pixels, pixels, 3)).astype("uint8")
        data = tf.constant(images), tf.constant(random.randint(0, CLASSES, batch))
        model = _model(setting, network, mixed_precision)
        _steps[key] = tf.function(partial(model.train_step, data), jit_compile=jit_compile)
    return _steps[key]


def _model(setting: Setting, network: list[Any], mixed_precision: str) -> SimCLR:
    depth, width, pixels = network
    with isolated(policy_name(mixed_precision)):
        model = SimCLR(
            make_encoder(width, depth, pixels),
            ProjectionHead(num_layers=setting.sizes.head_layers),
            augment=SimCLRAugment(pixels, augmentations=setting.sizes.augmentations),
            num_classes=CLASSES,
        )
        optimizer = LARS(0.1, weight_decay=1e-6)
        if mixed_precision == "float16":
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model.compile(optimizer=optimizer)
        build_optimizer(model.optimizer, model.trainable_variables)
    return model


def _measured(
    setting: Setting,
    make_sides: Callable[[int], Sides],
    images: int,
    network: tuple[Any, ...] | None = None,
) -> Iterator[Row]:
    """Times sides in turn, then asks each for its memory; halves the batch until it fits."""
    asked = images
    while True:
        try:
            with setting.on_device():
                sides = make_sides(images)
                times = in_turn(sides, setting.sizes.seconds)
            break
        except tf.errors.ResourceExhaustedError:
            sides = {}
            _steps.clear()
            gc.collect()
            if images == 1:
                raise
            images //= 2
    if network is not None:
        _fitting[network] = images
    with setting.on_device():
        first = next(iter(times.values()))[1]
        for name, quartiles in times.items():
            ratio = first / quartiles[1] if len(times) > 1 else None
            note = f"{asked:,} did not fit" if images < asked else ""
            yield timed(name, images, quartiles, ratio, _peak(setting, sides[name]), note)


def _peak(setting: Setting, side: Callable[[], Any]) -> int | None:
    forget_peak(setting.device)
    wait_for(side())
    return peak_bytes(setting.device)
