"""What happens between the steps of a run: progress, summaries, checkpoints."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.store import CheckpointStore
from simclr_tf.devices.interruption import Notice
from simclr_tf.errors import Interruption
from simclr_tf.files.csv_files import append_csv, trim_csv
from simclr_tf.files.writers import Writer
from simclr_tf.loggers.together import Loggers
from simclr_tf.runs.event_files import trim_events
from simclr_tf.typing import Logs

if TYPE_CHECKING:
    from tqdm import tqdm

_ALONE = Writer()
_NOWHERE = Loggers()


class StepCallback(keras.callbacks.Callback):
    """A callback that counts steps over the whole run, resumed ones included.

    Args:
        first_step: Steps that were taken before this `fit`.
    """

    def __init__(self, first_step: int) -> None:
        super().__init__()
        self.step = first_step

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.step += 1
        self.on_step(self.step, logs or {})

    def on_step(self, step: int, logs: Logs) -> None:
        """Called after each step with its number and the metrics since the last summary."""

    def line(self) -> str | None:
        """Returns what is to be said at the end of training; None: nothing."""
        return None


def scalar(value: tf.Tensor) -> float:
    """Returns the number in a step's log."""
    return float(np.mean(np.asarray(value)))


class Progress(StepCallback):
    """A progress bar with loss, accuracy, images per second and the time left.

    Args:
        first_step: Steps that were taken before.
        train_steps: Steps of the whole run.
        batch_size: Images per step.
        writer: Who shows it: one of several workers.
    """

    def __init__(
        self, first_step: int, train_steps: int, batch_size: int, writer: Writer = _ALONE
    ) -> None:
        super().__init__(first_step)
        self._train_steps, self._batch_size, self._writer = train_steps, batch_size, writer
        self._bar: tqdm | None = None
        self._notes: dict[str, str] = {}
        self.loss = math.nan  # mean of the contrastive loss since the last summary

    def note(self, name: str, value: float) -> None:
        """Shows a figure beside those of the steps from now on."""
        self._notes[name] = f"{value:.3f}"

    def on_train_begin(self, logs: Logs | None = None) -> None:
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._train_steps * self._batch_size,
            initial=self.step * self._batch_size,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=interactive,
            mininterval=0.5 if interactive else 15,  # seconds; few lines in a log file
            desc="Training",
            disable=not self._writer.is_chief,
        )

    def on_step(self, step: int, logs: Logs) -> None:
        assert self._bar is not None
        shown = {
            short: f"{scalar(logs[name]):.3f}"
            for name, short in (
                ("contrast_loss", "loss"),
                ("contrast_acc", "contrast_acc"),
                ("supervised_acc", "supervised_acc"),
            )
            if name in logs
        }
        if "contrast_loss" in logs:
            self.loss = scalar(logs["contrast_loss"])
        if "loss" not in shown and "total_loss" in logs:
            shown["loss"] = f"{scalar(logs['total_loss']):.3f}"
        self._bar.set_postfix({**shown, **self._notes}, refresh=False)
        self._bar.update(self._batch_size)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar's line, so that nothing is printed into it: after an error too."""
        if self._bar is not None:
            self._bar.close()


class Summaries(StepCallback):
    """`metrics.csv`, and scalars and a picture of the views to the loggers, at chosen steps.

    Each value is the mean over the steps since the last summary; tags are the release's
    (`train/contrast_loss`, ..., `learning_rate`). Values that are not finite are left out (an
    empty cell).

    Args:
        first_step: Steps that were taken before.
        folder: Where to write.
        is_due: Whether a summary is written after a step.
        picture: Returns a uint8 picture (h, w, 3) of the views of a step, or None.
        writer: Who writes.
        loggers: Where to log, apart from `metrics.csv`.
    """

    def __init__(
        self,
        first_step: int,
        folder: str,
        is_due: Callable[[int], bool],
        picture: Callable[[int], np.ndarray | None] | None = None,
        writer: Writer = _ALONE,
        loggers: Loggers = _NOWHERE,
    ) -> None:
        super().__init__(first_step)
        self._folder, self._is_due, self._picture = folder, is_due, picture
        self._is_chief, self._loggers = writer.is_chief, loggers
        if self._is_chief:
            # An interrupted run repeats the steps after its last checkpoint.
            trim_csv(os.path.join(folder, "metrics.csv"), first_step)
            trim_events(folder, first_step)

    def on_step(self, step: int, logs: Logs) -> None:
        if not self._is_due(step):
            return
        if self._is_chief:
            self._write(step, logs)
        self.model.reset_metrics()  # on every worker: the metrics are shared

    def _write(self, step: int, logs: Logs) -> None:
        values = {name: scalar(value) for name, value in logs.items() if name != "loss"}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        cells = {**dict.fromkeys(values, ""), **finite}
        append_csv(os.path.join(self._folder, "metrics.csv"), {"step": step, **cells})
        tags = {name: name if name == "learning_rate" else f"train/{name}" for name in finite}
        self._loggers.scalars({tags[name]: finite[name] for name in finite}, step, "train")
        if self._picture is not None and self._loggers.takes_pictures:
            picture = self._picture(step)
            if picture is not None:
                self._loggers.picture("views", picture, step)


class Checkpoints(StepCallback):
    """Writes a checkpoint when one is due, or when the process is asked to end.

    Args:
        first_step: Steps that were taken before.
        store: Where to write.
        is_due: Whether a checkpoint is written after a step.
        notice: Whether a signal has come; None: signals are not waited for.
    """

    def __init__(
        self,
        first_step: int,
        store: CheckpointStore,
        is_due: Callable[[int], bool],
        notice: Notice | None = None,
    ) -> None:
        super().__init__(first_step)
        self._store, self._is_due, self._notice = store, is_due, notice

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._store.take_up_metrics()

    def on_step(self, step: int, logs: Logs) -> None:
        number = None if self._notice is None else self._notice.number
        if number is not None or self._is_due(step):
            prefix = self._store.save(step)
        if number is not None:
            raise Interruption(number, f"step {step} is kept in {prefix}")
        if self._notice is not None:
            self._notice.waits = True  # from the first step on there is something to lose

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._notice is not None:
            self._notice.waits = False
