"""How fast images reach the training step, and how long it waits for them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.datasets import ImageSource, open_source
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.errors import UserError
from simclr_tf.models.resnet import ResNet
from simclr_tf.optim.lars import LARS
from simclr_tf.timing.compute import BATCHES, in_turn, wait_for
from simclr_tf.timing.tables import table
from simclr_tf.training.simclr import SimCLR
from simclr_tf.typing import Logs

_PHOTO_SIZE = (375, 500)  # as ImageNet's are on average


def input_pipeline(
    image_size: int,
    batch_size: int,
    seconds: float,
    width_multiplier: float,
    dataset: str | None = None,
) -> list[str]:
    """Times the input pipeline alone, then how much of its time a training step waits for it.

    Args:
        image_size: Side of the views in pixels.
        batch_size: Images a step.
        seconds: About how long each side is timed.
        width_multiplier: Width of the ResNet-18 that is trained.
        dataset: As for training. None: the embedded digits, then a temporary folder of JPEG files
            (noise of the size of ImageNet's images).

    Returns:
        Lines to print.

    Raises:
        UserError: There is no such data set, or it has fewer images than a batch.
    """
    if dataset is not None:
        return _of_source(
            open_source(dataset, "train"), image_size, batch_size, seconds, width_multiplier
        )
    settings = (image_size, batch_size, seconds, width_multiplier)
    lines = _of_source(open_source("mnist_5k", "train"), *settings)
    with photographs(max(batch_size, 64)) as folder:
        return [*lines, *_of_source(open_source(folder, "all"), *settings)]


@contextmanager
def photographs(count: int) -> Iterator[str]:
    """Makes a temporary folder of JPEG files of 375 x 500 pixels.

    Args:
        count: Number of files, in two classes.
    """
    from PIL import Image

    random = np.random.RandomState(0)
    height, width = _PHOTO_SIZE
    with tempfile.TemporaryDirectory() as parent:
        folder = os.path.join(parent, "photographs")
        for label in ("a", "b"):
            os.makedirs(os.path.join(folder, label))
        for number in range(count):
            # Blots and grain: pure noise would make files ten times as large as photographs.
            blots = random.randint(0, 256, (24, 32, 3)).astype(np.uint8)
            image = np.asarray(
                Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC)
            )
            grain = random.randint(-12, 13, image.shape)
            image = np.clip(image.astype(np.int16) + grain, 0, 255).astype(np.uint8)
            path = os.path.join(folder, "ab"[number % 2], f"{number:05d}.jpg")
            Image.fromarray(image).save(path, quality=85)
        yield folder


def _of_source(
    source: ImageSource, image_size: int, batch_size: int, seconds: float, width_multiplier: float
) -> list[str]:
    if source.num_examples is not None and batch_size > source.num_examples:
        raise UserError(
            f"Expected a batch of at most {source.num_examples}, the images of split "
            f"{source.split} of '{source.name}'; received: {batch_size}. Pass a smaller "
            "--batch_size."
        )

    def pipeline(**options: Any) -> tf.data.Dataset:
        return training_dataset(
            source,
            batch_size=batch_size,
            image_size=image_size,
            seed=0,
            # Each timing starts afresh: filling a large shuffle buffer must not be timed.
            shuffle_buffer_bytes=1 << 20,
            **options,
        )

    def some_batches(data: tf.data.Dataset) -> Callable[[], object]:
        # From start to end: a pipeline that runs while others are timed would look fast.
        return lambda: [batch for batch in data.take(BATCHES)][-1]

    made = pipeline()
    cached = pipeline(cache=True)
    times = in_turn(
        {
            "as trained": some_batches(made),
            "in any order": some_batches(pipeline(deterministic=False)),
            "cached": some_batches(cached),
        },
        seconds,
    )
    name = os.path.basename(source.name.rstrip(os.sep)) or source.name
    title = f"input of {name}, views of {image_size} pixels, {BATCHES} batches of {batch_size}"
    lines = table(title, times, BATCHES * batch_size, "images/s")
    step = _training_step(image_size, width_multiplier)
    for data, what in ((made, "as trained"), (cached, "cached")):
        share = _share_of_waiting(data, step, seconds)
        lines.append(f"  {what}: the step waits for data {share:.2%} of the time")
    sent = sum(
        int(np.prod(spec.shape[1:])) * spec.dtype.size
        for spec in tf.nest.flatten(made.element_spec)
    )
    views = 2 * 4 * 3 * image_size**2
    lines.append(f"  {sent:,} bytes an image go to the device; as two float views {views:,}")
    return lines


def _training_step(image_size: int, width_multiplier: float) -> Callable[[object], Logs]:
    model = SimCLR(
        ResNet(18, width_multiplier, cifar_stem=image_size <= 32),
        augment=SimCLRAugment(image_size),
    )
    model.compile(optimizer=LARS(0.1))
    model.optimizer.build(model.trainable_variables)
    return tf.function(model.train_step)


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
