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
from simclr_tf.compat import loss_scale
from simclr_tf.files.csv_files import append_csv, trim_csv
from simclr_tf.files.writers import Writer
from simclr_tf.training.finite import failure
from simclr_tf.training.simclr import SimCLR
from simclr_tf.typing import Logs

if TYPE_CHECKING:
    from tqdm import tqdm

_ALONE = Writer()
# float16: an update that overflows is skipped and changes no weight; a loss that has not recovered
# after this many steps will not.
_SKIPPED_STEPS = 10


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


def _scalar(value: tf.Tensor) -> float:
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
            short: f"{_scalar(logs[name]):.3f}"
            for name, short in (
                ("contrast_loss", "loss"),
                ("contrast_acc", "contrast_acc"),
                ("supervised_acc", "supervised_acc"),
            )
            if name in logs
        }
        if "contrast_loss" in logs:
            self.loss = _scalar(logs["contrast_loss"])
        if "loss" not in shown and "total_loss" in logs:
            shown["loss"] = f"{_scalar(logs['total_loss']):.3f}"
        self._bar.set_postfix({**shown, **self._notes}, refresh=False)
        self._bar.update(self._batch_size)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar's line, so that nothing is printed into it: after an error too."""
        if self._bar is not None:
            self._bar.close()


class StopOnNotFinite(StepCallback):
    """Ends `fit` at the first step whose loss is NaN or infinite.

    The progress bar reads the losses of every step anyway, so this costs no further waiting. A
    model with a loss scale (float16) skips updates that overflow: there a loss must stay
    non-finite for 10 steps, or up to the end. Gradients that overflow with a finite loss are no
    failure.

    Args:
        first_step: Steps that were taken before.
        train_steps: Steps of the whole run.
        last_checkpoint: Returns the newest checkpoint's prefix, or None.

    Raises:
        NotFiniteError: In `fit`; it says step, learning rate, checkpoint and what to try.
    """

    def __init__(
        self, first_step: int, train_steps: int, last_checkpoint: Callable[[], str | None]
    ) -> None:
        super().__init__(first_step)
        self._train_steps, self._last_checkpoint = train_steps, last_checkpoint
        self._in_a_row = 0

    def on_step(self, step: int, logs: Logs) -> None:
        if "loss" not in logs:
            return
        loss = float(np.mean(np.asarray(logs["loss"])))
        if math.isfinite(loss):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        may_recover = self._in_a_row < _SKIPPED_STEPS and step < self._train_steps
        if may_recover and loss_scale(self.model.optimizer) is not None:
            # Otherwise the mean since the last summary would stay non-finite.
            for metric in self.model.metrics:
                metric.reset_state()
            return
        rate = float(np.mean(np.asarray(logs.get("learning_rate", math.nan))))
        raise failure(self.model, f"the loss is {loss:g}", step, rate, self._last_checkpoint())


class SkippedSteps(StepCallback):
    """Counts the updates that a loss scale (float16) skipped because gradients overflowed.

    The scale falls at each of them. A few at the start are normal: they find the right scale.

    Args:
        first_step: Steps that were taken before.
    """

    def __init__(self, first_step: int) -> None:
        super().__init__(first_step)
        self._scale: float | None = None
        self._taken = self._skipped = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._scale = loss_scale(self.model.optimizer)

    def on_step(self, step: int, logs: Logs) -> None:
        if self._scale is None:
            return
        scale = loss_scale(self.model.optimizer)
        assert scale is not None
        self._taken += 1
        # 1 is the lowest scale, where it no longer falls.
        self._skipped += scale < self._scale or scale < 1.5
        self._scale = scale

    def line(self) -> str | None:
        """Returns a warning; None where at least half of the updates were applied."""
        if 2 * self._skipped <= self._taken:
            return None
        hotter = ", or a higher --temperature" if isinstance(self.model, SimCLR) else ""
        return (
            f"Warning: {self._skipped} of {self._taken} steps moved no weight: their gradients "
            f"overflowed float16. Take --mixed_precision=none or bfloat16{hotter}."
        )


class Summaries(StepCallback):
    """TensorBoard scalars, a picture of the views, and `metrics.csv`, at chosen steps.

    Each value is the mean over the steps since the last summary; tags are the release's
    (`train/contrast_loss`, ..., `learning_rate`). Values that are not finite are left out (an
    empty cell).

    Args:
        first_step: Steps that were taken before.
        folder: Where to write.
        is_due: Whether a summary is written after a step.
        picture: Returns a uint8 picture (h, w, 3) of the views of a step, or None.
        writer: Who writes.
    """

    def __init__(
        self,
        first_step: int,
        folder: str,
        is_due: Callable[[int], bool],
        picture: Callable[[int], np.ndarray | None] | None = None,
        writer: Writer = _ALONE,
    ) -> None:
        super().__init__(first_step)
        self._folder, self._is_due, self._picture = folder, is_due, picture
        self._is_chief = writer.is_chief
        if not self._is_chief:
            self._writer = tf.summary.create_noop_writer()
            return
        self._writer = tf.summary.create_file_writer(folder)
        # An interrupted run repeats the steps after its last checkpoint.
        trim_csv(os.path.join(folder, "metrics.csv"), first_step)

    def on_step(self, step: int, logs: Logs) -> None:
        if not self._is_due(step):
            return
        if self._is_chief:
            self._write(step, logs)
        for metric in self.model.metrics:  # on every worker: the metrics are shared
            metric.reset_state()

    def _write(self, step: int, logs: Logs) -> None:
        values = {name: _scalar(value) for name, value in logs.items() if name != "loss"}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        cells = {**dict.fromkeys(values, ""), **finite}
        append_csv(os.path.join(self._folder, "metrics.csv"), {"step": step, **cells})
        with self._writer.as_default():
            for name, value in finite.items():
                tag = name if name == "learning_rate" else f"train/{name}"
                tf.summary.scalar(tag, value, step)
            picture = self._picture(step) if self._picture is not None else None
            if picture is not None:
                tf.summary.image("views", picture[np.newaxis], step)
        self._writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
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

    def on_step(self, step: int, logs: Logs) -> None:
        if self._is_due(step):
            self._store.save(step)
