"""Steps that NaN or infinity makes worthless: they end a run, or are counted."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from simclr_tf.compat import loss_scale
from simclr_tf.runs.callbacks import StepCallback, scalar
from simclr_tf.training.finite import failure
from simclr_tf.training.simclr import SimCLR
from simclr_tf.typing import Logs

# A step that is skipped changes no weight: a loss that has not recovered after so many will not.
_SKIPPED_STEPS = 10


class StopOnNotFinite(StepCallback):
    """Ends `fit` at the first step whose loss is NaN or infinite.

    The progress bar reads the losses of every step anyway, so this costs no further waiting. A
    model with a loss scale (float16) skips updates that overflow, and one with `skip_non_finite`
    skips the whole step: there it must stay so for 10 steps, or (float16) up to the end.
    Gradients that overflow a loss scale with a finite loss are no failure.

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
        self._in_a_row = self._count = self._skipped = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.model.skip_non_finite:  # those of the run before this `fit` too
            self._count = int(np.asarray(self.model.skipped_steps))

    def on_step(self, step: int, logs: Logs) -> None:
        if "loss" not in logs:
            return
        loss = scalar(logs["loss"])
        if not self._is_lost(loss, logs):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        skips = self.model.skip_non_finite
        # A loss that is NaN at the end may come from the weights; a step that is skipped does not.
        last = step == self._train_steps and not skips
        may_recover = self._in_a_row < _SKIPPED_STEPS and not last
        if may_recover and (skips or loss_scale(self.model.optimizer) is not None):
            if not math.isfinite(loss):
                # Otherwise the mean since the last summary would stay non-finite.
                self.model.reset_metrics()
            return
        rate = scalar(logs.get("learning_rate", math.nan))
        what = f"the loss is {loss:g}"
        if skips:
            what = f"loss or gradient is NaN or infinite, {self._in_a_row} steps in a row"
        raise failure(self.model, what, step, rate, self._last_checkpoint())

    def _is_lost(self, loss: float, logs: Logs) -> bool:
        if not self.model.skip_non_finite:
            return not math.isfinite(loss)
        before, self._count = self._count, round(scalar(logs["skipped_steps"]))
        self._skipped += self._count - before
        return self._count > before

    def line(self) -> str | None:
        """Returns how many steps were skipped; None where none was."""
        if not self._skipped:
            return None
        steps = "step was" if self._skipped == 1 else "steps were"
        return (
            f"Warning: {self._skipped} {steps} skipped, as loss or gradient was NaN or infinite. "
            "A few do no harm; at more, lower --learning_rate or set --clip_gradients."
        )


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
