"""The training of a run, from its start to its last step, with all that is written meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable

import tensorflow as tf

from simclr_tf.checkpoints.store import CheckpointStore
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.labelled import LIST_FILE, write_labelled
from simclr_tf.devices.interruption import Notice, noted
from simclr_tf.devices.quiet import start_xla
from simclr_tf.devices.workers import joins_workers
from simclr_tf.files.writers import Writer
from simclr_tf.loggers.together import Loggers
from simclr_tf.runs import folder as run_folder
from simclr_tf.runs.batches import TrainingBatches, training_batches
from simclr_tf.runs.building import BuiltRun
from simclr_tf.runs.callbacks import (
    Checkpoints,
    Progress,
    StepCallback,
    Summaries,
)
from simclr_tf.runs.data import RunData, count_of, data_errors
from simclr_tf.runs.gain import Gain, take_best
from simclr_tf.runs.lost_steps import SkippedSteps, StopOnNotFinite
from simclr_tf.runs.monitoring import (
    OnlineEvaluation,
    chance_is_known,
    is_monitored,
    unlearned_line,
)
from simclr_tf.runs.picturing import VIEWS_FILE, save_views
from simclr_tf.runs.starting import start
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR


def train(run: BuiltRun, loggers: Loggers) -> int:
    """Trains the steps that are left.

    Args:
        run: The run.
        loggers: Where to log; opened here, once the settings are known to work.

    Returns:
        The step that the model is at: with `early_stopping` that of the best checkpoint.

    Raises:
        UserError: A checkpoint or the data do not fit.
        NotFiniteError: The loss or a weight became NaN or infinite.
        Interruption: A signal came; a checkpoint of the last step is written.
    """
    config, model, data, train_steps, strategy, writer = run
    store, first_step, batches = prepare(run)
    loggers.start()
    _claim_folder(config, data, writer, loggers)
    if batches is None:
        writer.say(f"Already trained to step {first_step} of {train_steps}.")
        return take_best(model, str(config.model_dir), first_step, writer)
    writer.say(_announcement(config, data.train, first_step, train_steps, strategy))
    last = _Fit(config, model, data.train, store, writer, loggers, first_step, train_steps).run(
        batches
    )
    return take_best(model, str(config.model_dir), last, writer)


def prepare(run: BuiltRun) -> tuple[CheckpointStore, int, TrainingBatches | None]:
    """Takes up the run where it stands and opens its batches; refuses what can't be trained.

    In the run's folder nothing is written.

    Args:
        run: The run.

    Returns:
        The checkpoints; the steps that were taken before; the batches, None where no step is left.

    Raises:
        UserError: A checkpoint or the data do not fit.
    """
    config, model, data, train_steps, strategy, writer = run
    store = CheckpointStore(
        model, model.optimizer, str(config.model_dir), config.keep_checkpoint_max, writer
    )
    first_step = start(config, model, store, writer)
    is_monitored(config, data.train)  # refuses what it can't watch, before the folder is claimed
    if first_step >= train_steps or Gain.of_run(config).is_over:
        return store, first_step, None
    with data_errors(data.train):
        batches = training_batches(config, data.train, model, strategy, first_step, writer.say)
    return store, first_step, batches


def checkpoint_interval(config: Config, source: ImageSource) -> int:
    """Returns the steps between checkpoints."""
    epoch_steps = max(1, round(count_of(source) / config.train_batch_size))
    return config.checkpoint_steps or config.checkpoint_epochs * epoch_steps


def _claim_folder(config: Config, data: RunData, writer: Writer, loggers: Loggers) -> None:
    """Writes settings and labelled images, once the settings are known to work."""
    if data.labelled is not None:
        path = os.path.join(str(config.model_dir), LIST_FILE)
        if writer.is_chief:
            write_labelled(data.whole, data.labelled, path)
        count = f"{len(data.labelled)} of {data.whole.num_examples}"
        writer.say(f"Using the labels of {count} images, listed in {path}.")
    if writer.is_chief:
        run_folder.write_settings(config)
        loggers.file(os.path.join(str(config.model_dir), run_folder.FLAGS_FILE))


def _announcement(
    config: Config,
    source: ImageSource,
    first_step: int,
    train_steps: int,
    strategy: tf.distribute.Strategy,
) -> str:
    classes = f"{source.num_classes} classes" if source.num_classes else "no labels"
    return (
        f"Training on {source.num_examples} images of {source.name} ({classes}), "
        f"step {first_step} to {train_steps}, {config.train_batch_size} images a step, "
        f"{strategy.num_replicas_in_sync} replica(s)."
    )


@dataclasses.dataclass(frozen=True)
class _Fit:
    """The steps from the first to the last, with all that happens between them."""

    config: Config
    model: SimCLR | Classifier
    source: ImageSource
    store: CheckpointStore
    writer: Writer
    loggers: Loggers
    first_step: int
    train_steps: int

    def run(self, batches: TrainingBatches) -> int:
        """Takes the steps; returns the last."""
        config, writer = self.config, self.writer
        progress = Progress(self.first_step, self.train_steps, config.train_batch_size, writer)
        # A checkpoint needs all workers, and a signal reaches one: there it ends the process.
        alone = not joins_workers(config.strategy)
        began = time.monotonic()
        with noted() if alone else contextlib.nullcontext() as notice:
            callbacks = self._callbacks(progress, notice)
            start_compiler(config, self.model)
            try:
                with data_errors(self.source), contextlib.closing(progress):
                    self.model.fit(
                        batches,
                        epochs=1,
                        steps_per_epoch=self.train_steps - self.first_step,
                        callbacks=callbacks,
                        shuffle=False,  # it is already shuffled; Keras 3 would warn otherwise
                        verbose=0,
                    )
            finally:
                if writer.is_chief and progress.step > self.first_step:
                    seconds = time.monotonic() - began
                    run_folder.write_time(config, self.first_step, progress.step, seconds)
        lines = [
            *self.source.notices(),
            *(callback.line() for callback in callbacks),
            unlearned_line(progress.loss, config.train_batch_size, progress.step)
            if chance_is_known(config)
            else None,
        ]
        for line in filter(None, lines):
            writer.say(line)
        return progress.step

    def _callbacks(self, progress: Progress, notice: Notice | None) -> list[StepCallback]:
        config, source, first_step = self.config, self.source, self.first_step
        checkpoint_steps = checkpoint_interval(config, source)
        summary_due = _due(config.train_summary_steps or checkpoint_steps, self.train_steps)
        checkpoint_due = _due(checkpoint_steps, self.train_steps)
        pictured = save_views(config, self.model, source, first_step, self.writer)
        if pictured is not None:
            self.loggers.file(os.path.join(str(config.model_dir), VIEWS_FILE))
        folder = str(config.model_dir)
        found: list[StepCallback] = [
            progress,
            # Before the others: no summary and no checkpoint of a step that is not finite.
            StopOnNotFinite(first_step, self.train_steps, lambda: self.store.latest),
            SkippedSteps(first_step),
            Summaries(first_step, folder, summary_due, pictured, self.writer, self.loggers),
        ]
        if is_monitored(config, source):
            watched = (config, source, first_step, checkpoint_due, progress)
            found.append(OnlineEvaluation(*watched, loggers=self.loggers))
        # Last: a checkpoint says that all else of its step is written.
        return [*found, Checkpoints(first_step, self.store, checkpoint_due, notice)]


def start_compiler(config: Config, model: SimCLR | Classifier) -> None:
    """Starts XLA where the step or its views are compiled."""
    if config.jit_compile or getattr(model.augment, "jit_compile", False):
        start_xla()


def _due(every: int, last: int) -> Callable[[int], bool]:
    """Returns a test of whether a step is a multiple of `every` (0: never) or the last."""
    return lambda step: step == last or (every > 0 and step % every == 0)
