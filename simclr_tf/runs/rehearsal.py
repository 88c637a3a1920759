"""A few steps of a run, to see how long one takes: on its data, by the `fit` that it would call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.devices.memory import peak_memory
from simclr_tf.devices.workers import joins_workers
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer
from simclr_tf.runs.batches import TrainingBatches
from simclr_tf.runs.callbacks import scalar
from simclr_tf.runs.data import data_errors
from simclr_tf.runs.training import start_compiler
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR
from simclr_tf.typing import Logs

_WARM_UP = 2  # steps: tracing, compiling, filling the pipeline
_LEAST, _MOST = 3, 10  # steps that are timed
_SECONDS = 5  # enough, once there are three


class Measured(NamedTuple):
    """What a few steps took.

    Attributes:
        first: Seconds of the first step, with tracing and compiling.
        quartiles: Of the seconds of the steps after the warm-up.
        steps: How many those are.
        peak: Bytes at the most: of the fullest GPU, or of the process; None: unknown.
    """

    first: float
    quartiles: tuple[float, float, float]
    steps: int
    peak: int | None


class _Clock(keras.callbacks.Callback):
    """Times steps, and ends `fit` after enough of them."""

    def __init__(self, alone: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._alone, self._clock = alone, clock
        self.times: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        if not self.times:
            self._began = self._clock()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        for value in list((logs or {}).values())[:1]:
            scalar(value)  # waits for the step
        now = self._clock()
        # From end to end: a step that waits for images is that long.
        self.times.append(now - self._began)
        self._began = now
        timed = self.times[_WARM_UP:]
        # Workers must take the same steps, so that none waits for another for ever.
        if self._alone and len(timed) >= _LEAST and sum(timed) >= _SECONDS:
            self.model.stop_training = True


def rehearse(
    config: Config,
    model: SimCLR | Classifier,
    source: ImageSource,
    batches: TrainingBatches,
    writer: Writer,
) -> Measured:
    """Trains a few steps; the model is worth nothing afterwards.

    Args:
        config: The settings.
        model: The run's model.
        source: The images.
        batches: The run's batches.
        writer: Who says what was wrong with the images.

    Raises:
        UserError: The images don't fit, or a device has too little memory.
    """
    gpus = [device.name.split("device:")[-1] for device in tf.config.list_logical_devices("GPU")]
    clock = _Clock(alone=not joins_workers(config.strategy))
    start_compiler(config, model)
    try:
        with data_errors(source):
            model.fit(
                batches, epochs=1, steps_per_epoch=_WARM_UP + _MOST, callbacks=[clock],
                shuffle=False, verbose=0,
            )  # fmt: skip
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            f"Expected a batch that fits into the device's memory; {config.train_batch_size} "
            "images do not. Pass --micro_batch_size or a smaller --train_batch_size."
        ) from error
    for line in source.notices():
        writer.say(line)
    timed = clock.times[_WARM_UP:]
    low, middle, high = (float(each) for each in np.quantile(timed, [0.25, 0.5, 0.75]))
    peaks = [int(tf.config.experimental.get_memory_info(gpu)["peak"]) for gpu in gpus]
    return Measured(
        clock.times[0], (low, middle, high), len(timed), max(peaks) if peaks else peak_memory()
    )
