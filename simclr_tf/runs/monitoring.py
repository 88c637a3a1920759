"""Figures of the representation during a run: a table, the loggers, early stopping."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import numpy as np

from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.devices.workers import joins_workers
from simclr_tf.errors import UserError
from simclr_tf.evaluation.monitor import inference, online_figures
from simclr_tf.files.csv_files import append_csv, trim_csv
from simclr_tf.loggers.together import Loggers
from simclr_tf.losses.names import NT_XENT
from simclr_tf.runs.callbacks import Progress, StepCallback
from simclr_tf.runs.gain import FILE, Gain
from simclr_tf.typing import Logs

SHARE = 0.03  # of the time of training, unless more is asked for
_LEAST_IMAGES = 20
_QUERY_SHARE = 0.2  # of the images; the others are the neighbours
_NEAR_CHANCE = 0.95
_BEGUN = 100  # steps
_NOWHERE = Loggers()
_PASSES = 6  # what a training step does with an image: two views, each forward and back


class OnlineEvaluation(StepCallback):
    """Measures the encoder when a checkpoint is due, and ends a run that no longer gains.

    Images are drawn from the training images, queries apart from their neighbours. Pretraining does
    not see the labels used here. Nothing is drawn from the random state of training: a run with
    this callback takes the same steps as one without.

    Args:
        config: The run's settings: `online_eval`, its images, `early_stopping` and its patience.
        source: The training images.
        first_step: Steps that were taken before.
        is_due: Whether a measurement may be taken after a step.
        progress: The bar that shows the latest figure.
        clock: Seconds; for tests.
        loggers: Where to log, apart from the table.

    Attributes:
        gain: The best step so far.
        count: Measurements of this process.
    """

    def __init__(
        self,
        config: Config,
        source: ImageSource,
        first_step: int,
        is_due: Callable[[int], bool],
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
        loggers: Loggers = _NOWHERE,
    ) -> None:
        super().__init__(first_step)
        self._config, self._is_due, self._progress, self._clock = config, is_due, progress, clock
        self._loggers = loggers
        self._folder = str(config.model_dir)
        bank, queries = _split(source, config.online_eval_images, config.seed)
        self._images = (bank.num_examples or 0) + (queries.num_examples or 0)
        self._bank, self._queries = (
            evaluation_dataset(s, batch_size=config.eval_batch_size, image_size=config.image_size)
            for s in (bank, queries)
        )
        self._first_step = first_step
        self._began = self._spent = 0.0
        self._last_cost: float | None = None
        self.count = 0
        # An interrupted run repeats the steps since its last checkpoint.
        trim_csv(os.path.join(self._folder, FILE), first_step)
        self.gain = Gain.begin(config, first_step)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._encode = inference(self.model.encoder)
        self._began = self._clock()

    def on_step(self, step: int, logs: Logs) -> None:
        if not self._is_due(step) or not self._is_affordable(step):
            return
        began = self._clock()
        figures = online_figures(self._encode, self._bank, self._queries)
        self._last_cost = self._clock() - began
        self._spent += self._last_cost
        self.count += 1
        if not figures:
            return
        append_csv(os.path.join(self._folder, FILE), {"step": step, **figures})
        tagged = {f"online/{name}": value for name, value in figures.items()}
        self._loggers.scalars(tagged, step, "online")
        shown = next(iter(figures))
        self._progress.note(shown, figures[shown])
        if self.gain.figure in figures:
            before = self.gain.best_step
            if self.gain.add(step, figures[self.gain.figure]):
                self.gain.keep(self.model, self._folder, before)
            if self.gain.is_over:
                self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.gain.best_step is not None:
            self.gain.forget_all_but({self.gain.best_step}, self._folder)

    def line(self) -> str | None:
        """Returns what was measured and what it cost; None where nothing was."""
        if not self.count:
            return None
        share = self._spent / max(self._clock() - self._began, 1e-9)
        times = "once" if self.count == 1 else f"{self.count} times"
        path = os.path.join(self._folder, FILE)
        return f"Measured the features {times} while training, {share:.1%} of its time: {path}."

    def _is_affordable(self, step: int) -> bool:
        """Whether one more measurement keeps the cost below its share of the time so far."""
        if self._config.online_eval == "always" or self.gain.figure != "none":
            return True
        elapsed = self._clock() - self._began
        cost = self._last_cost
        if cost is None:  # a guess from what training takes
            taken = (step - self._first_step) * self._config.train_batch_size * _PASSES
            cost = elapsed * self._images / taken
        return self._spent + cost <= SHARE * elapsed


def is_monitored(config: Config, source: ImageSource) -> bool:
    """Returns whether a run measures its features while it trains.

    Args:
        config: The run's settings.
        source: The training images.

    Raises:
        UserError: `early_stopping` is asked for where its figure can't be measured.
    """
    watched = config.early_stopping
    # Several workers can't read the weights of one alone; a TPU's are not within its host's reach.
    elsewhere = config.use_tpu or config.strategy == "tpu" or joins_workers(config.strategy)
    few = (source.num_examples or 0) < _LEAST_IMAGES
    if watched != "none" and (elsewhere or few):
        received = "several workers or a TPU" if elsewhere else f"{source.num_examples} images"
        raise UserError(
            f"Expected one machine and {_LEAST_IMAGES} images or more with early_stopping; "
            f"received: {received}. Pass --early_stopping=none."
        )
    if watched == "knn_top_1" and not source.labelled:
        raise UserError(
            f"Expected labels for early_stopping=knn_top_1; {source.name} has none. "
            "Pass --early_stopping=effective_rank."
        )
    if elsewhere or few:
        return False
    wanted = config.online_eval == "auto" and config.train_mode == "pretrain"
    return wanted or config.online_eval == "always" or watched != "none"


def chance_is_known(config: Config) -> bool:
    """Returns whether `unlearned_line` knows the loss of a network that knows nothing."""
    return config.loss == NT_XENT and not config.memory_size


def unlearned_line(loss: float, batch_size: int, step: int) -> str | None:
    """Returns a warning where a run ends with the loss of a network that knows nothing.

    Args:
        loss: Mean contrastive loss of the last steps; NaN where there is none.
        batch_size: Images a step, on all replicas.
        step: Steps taken. A run that has hardly begun is not warned of.

    Example:
        >>> unlearned_line(9.7, 64, 1000)[:46]
        'Warning: the contrastive loss ended at 9.700; '
    """
    # All similarities equal: each row chooses among 2N - 1 others, and there are two directions.
    chance = 2 * math.log(max(2 * batch_size - 1, 1))
    if step < _BEGUN or not loss > _NEAR_CHANCE * chance:
        return None
    return (
        f"Warning: the contrastive loss ended at {loss:.3f}; a network that tells no images apart "
        f"has 2 ln(2 x {batch_size} - 1) = {chance:.3f}. Nothing was learned: change the learning "
        "rate, or the views if views.png shows nothing that they share."
    )


def _split(source: ImageSource, count: int, seed: int) -> tuple[ImageSource, ImageSource]:
    """Draws neighbours and queries from the images, none in both."""
    total = source.num_examples or 0
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    queries = max(2, round(_QUERY_SHARE * len(chosen)))
    return source.subset(np.sort(chosen[queries:])), source.subset(np.sort(chosen[:queries]))
