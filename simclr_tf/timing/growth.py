"""How time and memory of a training step grow with the batch and with the number of replicas.

Each cell is a process of its own (`python -m simclr_tf.timing.growth`), since what a process has
held it keeps. Replicas on a processor share its cores: their time says what dividing a batch costs,
not what more devices gain.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator

from simclr_tf.devices.memory import in_words, peak_memory
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError

BATCHES = (64, 256, 1024, 4096, 8192)
REPLICAS = (1, 2, 4)
_STEPS = 3  # timed, after one that is not
_SECONDS = 1800  # for one cell


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is trained.

    Attributes:
        batch_size: Images a step, over all replicas.
        replicas: Logical devices of the processor.
        image_size: Side of the images in pixels, 3 channels.
        width_multiplier: Of the ResNet-18.
    """

    batch_size: int
    replicas: int
    image_size: int
    width_multiplier: float


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a cell took.

    Attributes:
        seconds: Of a step, the fastest of a few.
        memory: Bytes held at most, beyond those of a model that has not been trained.
    """

    seconds: float
    memory: int


def growth(batch_sizes: tuple[int, ...], image_size: int, width_multiplier: float) -> Iterator[str]:
    """Measures every batch size on 1, 2 and 4 logical replicas.

    Args:
        batch_sizes: Images a step, over all replicas, rising.
        image_size: Side of the images in pixels.
        width_multiplier: Of the ResNet-18 that is trained.

    Yields:
        Lines to print, each as soon as it is measured.

    Raises:
        UserError: A batch size that four replicas can't share, or a process failed, as for want of
            memory.
    """
    yield (
        f"training step, ResNet-18 of width {width_multiplier:g}, {image_size} pixels; "
        "ratios to the smallest batch on one replica"
    )
    yield "  images  replicas  ms an image   ratio     an image   ratio"
    first: tuple[float, float] | None = None
    for replicas in REPLICAS:
        for size in batch_sizes:
            taken = _in_a_process(Cell(size, replicas, image_size, width_multiplier))
            each = (taken.seconds / size, taken.memory / size)
            first = first or each
            yield (
                f"{size:8,} {replicas:9} {1e3 * each[0]:12.3f} {each[0] / first[0]:7.2f} "
                f"{in_words(each[1]):>12} {each[1] / first[1]:7.2f}"
            )


def measure(cell: Cell) -> Taken:
    """Trains a few steps in this process, which must not have used TensorFlow.

    Args:
        cell: What to train.

    Raises:
        UserError: The batch is not divisible by the replicas.
    """
    import numpy as np
    import tensorflow as tf
    from tensorflow import keras

    from simclr_tf.augment.layer import SimCLRAugment
    from simclr_tf.devices.strategy import make_strategy
    from simclr_tf.timing.compute import NUM_CLASSES, make_simclr

    if cell.batch_size % cell.replicas:
        raise UserError(
            f"Expected a batch that {cell.replicas} replicas can share equally; received: "
            f"{cell.batch_size}. Pass a multiple of {cell.replicas}."
        )
    several = cell.replicas > 1
    strategy = make_strategy("mirrored" if several else "auto", cpu_replicas=cell.replicas)
    with strategy.scope():
        augment = SimCLRAugment(cell.image_size, use_blur=False)
        model = make_simclr(cell.width_multiplier, cell.image_size, augment=augment)
    random = np.random.RandomState(0)
    shape = (cell.batch_size, cell.image_size, cell.image_size, 3)
    images = random.randint(0, 256, shape).astype(np.uint8)
    labels = random.randint(0, NUM_CLASSES, cell.batch_size)
    data = tf.data.Dataset.from_tensors((images, labels)).repeat()
    before, ends = peak_memory() or 0, []
    note = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    model.fit(data, steps_per_epoch=_STEPS + 1, callbacks=[note], verbose=0)
    seconds = min(later - sooner for sooner, later in zip(ends, ends[1:], strict=False))
    return Taken(seconds, (peak_memory() or 0) - before)


def _in_a_process(cell: Cell) -> Taken:
    command = [sys.executable, "-m", __name__, json.dumps(dataclasses.asdict(cell))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise UserError(
            f"Expected a step of {cell.batch_size} images on {cell.replicas} replicas to be "
            f"possible here; received: {said} Pass smaller --batch_sizes."
        )
    return Taken(**json.loads(lines[-1]))


if __name__ == "__main__":
    start_tensorflow()
    print(json.dumps(dataclasses.asdict(measure(Cell(**json.loads(sys.argv[1]))))))
