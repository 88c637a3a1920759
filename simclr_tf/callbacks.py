"""What happens beside the steps of a run: progress, summaries, checkpoints."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints import CheckpointStore


class StepCallback(keras.callbacks.Callback):
    """A callback that counts steps over the whole run, resumed ones included.

    Args:
        first_step: Steps that were taken before this `fit`.
    """

    def __init__(self, first_step: int) -> None:
        super().__init__()
        self.step = first_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        self.on_step(self.step, logs or {})

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Called after each step with its number and the metrics since the last summary."""


def _scalar(value: Any) -> float:
    return float(np.mean(np.asarray(value)))


class Progress(StepCallback):
    """A progress bar with loss, accuracy, images per second and the time left.

    Args:
        first_step: Steps that were taken before.
        train_steps: Steps of the whole run.
        batch_size: Images per step.
    """

    def __init__(self, first_step: int, train_steps: int, batch_size: int) -> None:
        super().__init__(first_step)
        self._train_steps, self._batch_size = train_steps, batch_size
        self._bar: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._train_steps * self._batch_size,
            initial=self.step * self._batch_size,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=interactive,
            mininterval=0.5 if interactive else 15,  # a log file gets a line now and then
            desc="Training",
        )

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        shown = {
            short: f"{_scalar(logs[name]):.3f}"
            for name, short in (
                ("contrast_loss", "loss"),
                ("contrast_acc", "contrast_acc"),
                ("supervised_acc", "supervised_acc"),
            )
            if name in logs
        }
        if "loss" not in shown and "total_loss" in logs:
            shown["loss"] = f"{_scalar(logs['total_loss']):.3f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(self._batch_size)

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it is, on a line of its own: also after an error or interruption."""
        if self._bar is not None:
            self._bar.close()


class Summaries(StepCallback):
    """TensorBoard scalars, a picture of the views, and `metrics.csv`, every so many steps.

    Each value is the mean over the steps since the last summary; tags are the release's
    (`train/contrast_loss`, ..., `learning_rate`).

    Args:
        first_step: Steps that were taken before.
        folder: Where to write.
        is_due: Whether a summary is written after a step.
        picture: Returns a uint8 picture (h, w, 3) of the views of a step, or None.
    """

    def __init__(
        self,
        first_step: int,
        folder: str,
        is_due: Callable[[int], bool],
        picture: Callable[[int], np.ndarray | None] | None = None,
    ) -> None:
        super().__init__(first_step)
        self._folder, self._is_due, self._picture = folder, is_due, picture
        self._writer = tf.summary.create_file_writer(folder)
        # What an interrupted run wrote after its last checkpoint comes again.
        trim_csv(os.path.join(folder, "metrics.csv"), first_step)

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        if not self._is_due(step):
            return
        values = {name: _scalar(value) for name, value in logs.items() if name != "loss"}
        append_csv(os.path.join(self._folder, "metrics.csv"), {"step": step, **values})
        with self._writer.as_default():
            for name, value in values.items():
                tag = name if name == "learning_rate" else f"train/{name}"
                tf.summary.scalar(tag, value, step)
            picture = self._picture(step) if self._picture is not None else None
            if picture is not None:
                tf.summary.image("views", picture[np.newaxis], step)
        self._writer.flush()
        for metric in self.model.metrics:
            metric.reset_state()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()


class Checkpoints(StepCallback):
    """Writes a checkpoint when one is due.

    Args:
        first_step: Steps that were taken before.
        store: Where to write.
        is_due: Whether a checkpoint is written after a step.
    """

    def __init__(
        self, first_step: int, store: CheckpointStore, is_due: Callable[[int], bool]
    ) -> None:
        super().__init__(first_step)
        self._store, self._is_due = store, is_due

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        if self._is_due(step):
            self._store.save()


def trim_csv(path: str, last_step: int) -> None:
    """Drops the rows of a CSV file whose `step` is above `last_step`; no file is no error."""
    if not os.path.exists(path):
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if "step" not in header:  # another program's file
        return
    place = header.index("step")
    kept = [r for r in rows if len(r) > place and r[place].isdigit() and int(r[place]) <= last_step]
    if len(kept) == len(rows):
        return
    partial = f"{path}.partial"
    with open(partial, "w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
    os.replace(partial, path)


def append_csv(path: str, row: dict[str, Any]) -> None:
    """Adds a row to a CSV file, under the columns that its first row set."""
    exists = os.path.exists(path)
    columns = list(row)
    if exists:
        with open(path, newline="") as file:
            columns = next(csv.reader(file), columns)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if not exists:
            writer.writeheader()
        writer.writerow(row)
