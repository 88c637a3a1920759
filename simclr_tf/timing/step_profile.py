"""Where the time of a training step goes: each part beside what this machine needs at least."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.datasets.canvas import host_size
from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.devices import precision
from simclr_tf.devices.processor import describe_cpu
from simclr_tf.timing.compute import NUM_CLASSES, make_simclr
from simclr_tf.timing.peaks import Peaks, Work, work_of
from simclr_tf.timing.turns import in_turn
from simclr_tf.training.simclr import SimCLR
from simclr_tf.training.step_model import count_rows
from simclr_tf.training.view_maker import step_seed

_FIT_STEPS = 4  # timed in a call of `fit`, after one that is not


class Part(NamedTuple):
    """A part of a step.

    Attributes:
        name: What it is.
        seconds: What it takes.
        least: Seconds at the measured peaks of the machine; None: not reckoned.
    """

    name: str
    seconds: float
    least: float | None = None


def profile_step(
    depth: int,
    image_size: int,
    batch_size: int,
    seconds: float,
    width_multiplier: float = 1.0,
    mixed_precision: str = "none",
) -> list[str]:
    """Times the parts of a training step: views, forward, loss, backward, optimizer, input.

    Each part is the difference of two functions that alternate: one that ends with it and one that
    ends before it. So a part has the speed that it has within a step, and parts add up to `fit`.

    Args:
        depth: Of the ResNet.
        image_size: Side of the views in pixels; images come on the canvas that the host makes.
        batch_size: Images a step; the network sees twice as many views.
        seconds: About how long each function is timed.
        width_multiplier: Width of the ResNet.
        mixed_precision: `none`, `bfloat16`, `float16` or `auto`.

    Returns:
        Lines to print.

    Example:
        >>> for line in profile_step(18, 32, 64, seconds=5.0):
        ...     print(line)
    """
    lines = [f"{describe_cpu()}; TensorFlow {tf.__version__}"]
    if mixed_precision == "auto":
        mixed_precision, reason = precision.choose()
        lines.append(f"--mixed_precision=auto: {mixed_precision} ({reason})")
    policy = precision.policy_name(mixed_precision)
    augment = SimCLRAugment(image_size, use_blur=image_size > 32)
    model = make_simclr(width_multiplier, image_size, mixed_precision, depth, augment)
    times = in_turn(_stages(model, image_size, batch_size), seconds)
    peaks = Peaks.measure(policy, seconds / 4)
    parts = parts_of(
        {name: float(quartiles[1]) for name, quartiles in times.items()},
        work_of(model.encoder, model.trainable_variables, image_size, 2 * batch_size),
        peaks,
    )
    lines.append(
        f"training step, ResNet-{depth}, {image_size} pixels, {batch_size} images, {policy}"
    )
    return [*lines, *_table(parts), peaks.line()]


def parts_of(times: dict[str, float], work: Work, peaks: Peaks) -> list[Part]:
    """Returns the parts of a step from the times of its beginnings.

    Args:
        times: Seconds of `views`, and of `forward`, `loss`, `gradient` and `step` on ready-made
            views, `whole` on images, and `fit`, each with all that comes before it.
        work: Of the encoder, and of the optimizer.
        peaks: Of the machine.
    """
    # The whole step is one graph, in which views and network may share the cores.
    views = times["whole"] - times["step"]
    return [
        Part(f"views (alone {1e3 * times['views']:.1f} ms)", views),
        Part("encoder, forward", times["forward"], peaks.seconds(work.forward)),
        Part("heads and loss", times["loss"] - times["forward"]),
        Part("backward", times["gradient"] - times["loss"], peaks.seconds(work.backward)),
        Part("optimizer, metrics", times["step"] - times["gradient"], peaks.seconds(work.update)),
        Part("input, Python between steps", times["fit"] - times["whole"]),
    ]


def _stages(model: SimCLR, image_size: int, count: int) -> dict[str, Callable[[], object]]:
    """Returns the beginnings of a step, each a function that computes all up to its end."""
    random = np.random.RandomState(0)
    side = image_size if image_size <= 32 else host_size(image_size)
    pictures = random.randint(0, 256, (4 * count, side, side, 3)).astype(np.uint8)
    classes = random.randint(0, NUM_CLASSES, 4 * count)
    images, labels = tf.constant(pictures[:count]), tf.constant(classes[:count])
    seed = step_seed(0, 0)
    views = model.views(images, seed)
    pair = tuple(tf.split(views, 2))
    targets = tf.one_hot(labels, NUM_CLASSES)

    # What `train_step` is made of has no public name.
    def loss() -> tf.Tensor:
        features = model.encoder(views, training=True)
        return model._loss_and_results(features, targets, count_rows(pair), None)[0]

    def gradient() -> list[tf.Tensor | None]:
        return model._gradients(pair, targets, seed, count_rows(pair))[0]

    functions: dict[str, Callable[[], object]] = {
        "views": lambda: model.views(images, seed),
        "forward": lambda: model.encoder(views, training=True),
        "loss": loss,
        "gradient": gradient,
        "step": lambda: model.train_step((pair, labels)),
        "whole": lambda: model.train_step((images, labels)),
    }
    stages = {name: tf.function(_only_done(function)) for name, function in functions.items()}
    source = InMemorySource(pictures, classes, name="noise", split="all", num_classes=NUM_CLASSES)
    data = training_dataset(source, batch_size=count, image_size=image_size, seed=0)
    return {**stages, "fit": _Fit(model, data)}


def _only_done(function: Callable[[], object]) -> Callable[[], tf.Tensor]:
    """Returns a function of one number, which takes all results of the given one."""

    def done() -> tf.Tensor:
        results = [result for result in tf.nest.flatten(function()) if result is not None]
        # Read, or TensorFlow would leave them out.
        return tf.add_n([tf.cast(tf.reshape(x, [-1])[0], tf.float32) for x in results])

    return done


class _Fit:
    """Calls `fit`, and answers with the time that one of its steps takes."""

    def __init__(self, model: SimCLR, data: tf.data.Dataset) -> None:
        self.model, self.data = model, data

    def __call__(self) -> float:
        ends: list[float] = []
        note = keras.callbacks.LambdaCallback(
            on_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )
        steps = _FIT_STEPS + 1
        self.model.fit(self.data, steps_per_epoch=steps, callbacks=[note], verbose=0)
        return (ends[-1] - ends[0]) / _FIT_STEPS


def _table(parts: list[Part]) -> list[str]:
    whole = sum(part.seconds for part in parts)
    width = max(len(part.name) for part in parts)
    lines = []
    for name, seconds, least in [*parts, Part("one step of fit", whole)]:
        floor = "" if least is None else f"   at the peaks {1e3 * least:9.1f} ms"
        lines.append(f"  {name:{width}} {1e3 * seconds:9.1f} ms {seconds / whole:7.1%}{floor}")
    return lines
