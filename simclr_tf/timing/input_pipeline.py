"""How fast images reach the training step, and how long it waits for them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.datasets import ImageSource, InMemorySource, open_source
from simclr_tf.datasets.canvas import host_size
from simclr_tf.datasets.disk_cache import OnDisk
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.errors import UserError
from simclr_tf.models.resnet import ResNet
from simclr_tf.optim.lars import LARS
from simclr_tf.timing.input_baselines import keras_pipeline, plain_pipeline
from simclr_tf.timing.photographs import MOST_DIFFERENT, photographs
from simclr_tf.timing.tables import table
from simclr_tf.timing.turns import BATCHES, seconds_in_turn, wait_for
from simclr_tf.training.simclr import SimCLR
from simclr_tf.typing import Logs


class Timing(NamedTuple):
    """How the pipelines are timed.

    Attributes:
        image_size: Side of the views in pixels.
        batch_size: Images a step.
        seconds: About how long each side is timed.
        width_multiplier: Width of the ResNet-18 that is trained.
    """

    image_size: int
    batch_size: int
    seconds: float
    width_multiplier: float


def input_pipeline(
    timing: Timing, dataset: str | None = None, images: int | None = None
) -> list[str]:
    """Times the input pipeline alone, then how much of its time a training step waits for it.

    Over the files made here baselines are timed too: `tf.data` written plainly, with its own resize
    and with ours, and `keras.utils.image_dataset_from_directory`. The ratios are to the first.

    Args:
        timing: How.
        dataset: As for training. None: the embedded digits, then a temporary folder of JPEG files
            (noise of the size of ImageNet's images).
        images: Number of those files, which are then timed alone. None: 64, or a batch.

    Returns:
        Lines to print.

    Raises:
        UserError: There is no such data set, or it has fewer images than a batch.
    """
    if dataset is not None:
        return _of_source(open_source(dataset, "train"), timing)
    lines = [] if images else _of_source(open_source("mnist_5k", "train"), timing)
    count = images or max(timing.batch_size, 64)
    with photographs(count) as folder:
        lines.append(
            f"{count:,} JPEG files, {min(count, MOST_DIFFERENT)} different pictures; just written, "
            "so the system has them in memory"
        )
        return [*lines, *_of_source(open_source(folder, "all"), timing, folder)]


def _of_source(source: ImageSource, timing: Timing, folder: str | None = None) -> list[str]:
    """Returns the lines of a source; `folder` has its images for the baselines, if given."""
    batch_size = timing.batch_size
    if source.num_examples is not None and batch_size > source.num_examples:
        raise UserError(
            f"Expected a batch of at most {source.num_examples}, the images of split "
            f"{source.split} of '{source.name}'; received: {batch_size}. Pass a smaller "
            "--batch_size."
        )
    name = os.path.basename(source.name.rstrip(os.sep)) or source.name
    side = f"views of {timing.image_size} pixels, {BATCHES} batches of {batch_size}"
    with _pipelines(source, timing, folder) as (pipelines, lines):
        taken = seconds_in_turn(
            {each: _some_batches(data) for each, data in pipelines.items()}, timing.seconds
        )
        times = {each: np.quantile(found[:, 0], [0.25, 0.5, 0.75]) for each, found in taken.items()}
        rows = table(f"input of {name}, {side}", times, BATCHES * batch_size, "images/s")
        step = _training_step(timing.image_size, timing.width_multiplier)
        lines += rows[:1]
        for row, (each, data) in zip(rows[1:], pipelines.items(), strict=True):
            worked = 1e3 * float(np.median(taken[each][:, 1])) / (BATCHES * batch_size)
            share = _share_of_waiting(data, step, timing.seconds)
            lines.append(
                f"{row}; {worked:.2f} ms of processors an image; the step waits for data "
                f"{share:.2%} of the time"
            )
    sent = sum(
        int(np.prod(spec.shape[1:])) * spec.dtype.size
        for spec in tf.nest.flatten(pipelines["as trained"].element_spec)
    )
    views = 2 * 4 * 3 * timing.image_size**2
    lines.append(f"  {sent:,} bytes an image go to the device; as two float views {views:,}")
    return lines


@contextmanager
def _pipelines(
    source: ImageSource, timing: Timing, folder: str | None
) -> Iterator[tuple[dict[str, tf.data.Dataset], list[str]]]:
    """Yields pipelines by their names, and lines about those that can't be."""

    def ours(**options: Any) -> tf.data.Dataset:
        return training_dataset(
            source,
            batch_size=timing.batch_size,
            image_size=timing.image_size,
            seed=0,
            # Each timing starts afresh: filling a large shuffle buffer must not be timed.
            shuffle_buffer_bytes=1 << 20,
            **options,
        )

    found: dict[str, tf.data.Dataset] = {}
    side = host_size(timing.image_size)
    if folder is not None:
        for name, method in (("tf.data", "bilinear"), ("tf.data, our resize", "bicubic")):
            found[name] = plain_pipeline(folder, side, timing.batch_size, method)
        found["image_dataset_from_directory"] = keras_pipeline(folder, side, timing.batch_size)
    found["as trained"] = ours()
    found["in any order"] = ours(deterministic=False)
    lines = []
    with tempfile.TemporaryDirectory() as kept:
        for name, cache in (("cached", True), ("cached on disk", OnDisk(kept))):
            if isinstance(source, InMemorySource) and name != "cached":
                continue  # it stays in memory
            try:
                found[name] = ours(cache=cache)
            except UserError as error:  # too large
                lines.append(f"{name}: not timed. {error}")
        yield found, lines


def _some_batches(data: tf.data.Dataset) -> Callable[[], object]:
    # From start to end: a pipeline that runs while others are timed would look fast.
    return lambda: [batch for batch in data.take(BATCHES)][-1]


def _training_step(image_size: int, width_multiplier: float) -> Callable[[object], Logs]:
    model = SimCLR(
        ResNet(18, width_multiplier, cifar_stem=image_size <= 32),
        augment=SimCLRAugment(image_size),
    )
    model.compile(optimizer=LARS(0.1))
    model.optimizer.build(model.trainable_variables)

    def step(batch: Any) -> Logs:
        # Baselines give floats in 0 to 255.
        plain = tf.is_tensor(batch) and batch.dtype.is_floating
        return model.train_step(tf.cast(batch, tf.uint8) if plain else batch)

    return tf.function(step)


def _share_of_waiting(
    data: tf.data.Dataset, step: Callable[[object], Logs], seconds: float
) -> float:
    iterator = iter(data.prefetch(2))
    wait_for(step(next(iterator))["total_loss"])
    waited, start, steps = 0.0, time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - before
        wait_for(step(batch)["total_loss"])
        steps += 1
    return waited / (time.perf_counter() - start)
