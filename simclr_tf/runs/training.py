"""The training of a run, from its start to its last step, with all that is written meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import tensorflow as tf

from simclr_tf.checkpoints.store import CheckpointStore
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.labelled import LIST_FILE, write_labelled
from simclr_tf.devices.quiet import start_xla
from simclr_tf.files.writers import Writer
from simclr_tf.runs import folder as run_folder
from simclr_tf.runs.batches import TrainingBatches, training_batches
from simclr_tf.runs.callbacks import (
    Checkpoints,
    Progress,
    SkippedSteps,
    StepCallback,
    StopOnNotFinite,
    Summaries,
)
from simclr_tf.runs.data import RunData, count_of, data_errors
from simclr_tf.runs.gain import Gain, take_best
from simclr_tf.runs.monitoring import OnlineEvaluation, is_monitored, unlearned_line
from simclr_tf.runs.picturing import save_views
from simclr_tf.runs.starting import start
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR


def train(
    config: Config,
    model: SimCLR | Classifier,
    data: RunData,
    train_steps: int,
    strategy: tf.distribute.Strategy,
    writer: Writer,
) -> int:
    """Trains the steps that are left.

    Args:
        config: The settings.
        model: The compiled model.
        data: The images.
        train_steps: Steps of the whole run.
        strategy: The strategy that the model was made under.
        writer: Who writes and prints.

    Returns:
        The step that the model is at: with `early_stopping` that of the best checkpoint.

    Raises:
        UserError: A checkpoint or the data do not fit.
        NotFiniteError: The loss or a weight became NaN or infinite.
    """
    store = CheckpointStore(
        model, model.optimizer, str(config.model_dir), config.keep_checkpoint_max, writer
    )
    first_step = start(config, model, store, writer)
    monitored = is_monitored(config, data.train)
    batches = None
    if first_step < train_steps and not Gain.of_run(config).is_over:
        with data_errors(data.train):
            batches = training_batches(config, data.train, model, strategy, first_step)
    _claim_folder(config, data, writer)
    if batches is None:
        writer.say(f"Already trained to step {first_step} of {train_steps}.")
        return take_best(model, str(config.model_dir), first_step, writer)
    writer.say(_announcement(config, data.train, first_step, train_steps, strategy))
    last = _fit(
        config, model, data.train, batches, (first_step, train_steps), store, writer, monitored
    )
    return take_best(model, str(config.model_dir), last, writer)


def _claim_folder(config: Config, data: RunData, writer: Writer) -> None:
    """Writes settings and labelled images, once the settings are known to work."""
    if data.labelled is not None:
        path = os.path.join(str(config.model_dir), LIST_FILE)
        if writer.is_chief:
            write_labelled(data.whole, data.labelled, path)
        count = f"{len(data.labelled)} of {data.whole.num_examples}"
        writer.say(f"Using the labels of {count} images, listed in {path}.")
    if writer.is_chief:
        run_folder.write_settings(config)


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


def _fit(
    config: Config,
    model: SimCLR | Classifier,
    source: ImageSource,
    batches: TrainingBatches,
    steps: tuple[int, int],
    store: CheckpointStore,
    writer: Writer,
    monitored: bool,
) -> int:
    """Takes the steps from the first to the last, with their callbacks; returns the last."""
    first_step, train_steps = steps
    progress = Progress(first_step, train_steps, config.train_batch_size, writer)
    callbacks = _callbacks(config, model, source, steps, store, writer, progress, monitored)
    if config.jit_compile or getattr(model.augment, "jit_compile", False):
        start_xla()
    began = time.monotonic()
    with data_errors(source), contextlib.closing(progress):
        model.fit(
            batches,
            epochs=1,
            steps_per_epoch=train_steps - first_step,
            callbacks=callbacks,
            shuffle=False,  # the data set is already shuffled; Keras 3 would warn otherwise
            verbose=0,
        )
    if writer.is_chief:
        run_folder.write_time(config, first_step, progress.step, time.monotonic() - began)
    lines = [
        *source.notices(),
        *(callback.line() for callback in callbacks),
        unlearned_line(progress.loss, config.train_batch_size, progress.step),
    ]
    for line in filter(None, lines):
        writer.say(line)
    return progress.step


def _callbacks(
    config: Config,
    model: SimCLR | Classifier,
    source: ImageSource,
    steps: tuple[int, int],
    store: CheckpointStore,
    writer: Writer,
    progress: Progress,
    monitored: bool,
) -> list[StepCallback]:
    first_step, train_steps = steps
    epoch_steps = max(1, round(count_of(source) / config.train_batch_size))
    checkpoint_steps = config.checkpoint_steps or config.checkpoint_epochs * epoch_steps
    summary_due = _due(config.train_summary_steps or checkpoint_steps, train_steps)
    checkpoint_due = _due(checkpoint_steps, train_steps)
    pictured = save_views(config, model, source, first_step, writer)
    found: list[StepCallback] = [
        progress,
        # Before the others: no summary and no checkpoint of a step that is not finite.
        StopOnNotFinite(first_step, train_steps, lambda: store.latest),
        SkippedSteps(first_step),
        Summaries(first_step, str(config.model_dir), summary_due, pictured, writer),
    ]
    if monitored:
        found.append(OnlineEvaluation(config, source, first_step, checkpoint_due, progress))
    # Last: a checkpoint says that all else of its step is written.
    return [*found, Checkpoints(first_step, store, checkpoint_due)]


def _due(every: int, last: int) -> Callable[[int], bool]:
    """Returns a test of whether a step is a multiple of `every` (0: never) or the last."""
    return lambda step: step == last or (every > 0 and step % every == 0)
