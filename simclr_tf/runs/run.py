"""One run, from settings to results. Each of its steps is a file beside this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.reader import newest_checkpoint
from simclr_tf.compat import deterministic
from simclr_tf.config import Config
from simclr_tf.devices import precision
from simclr_tf.devices.process_state import isolated
from simclr_tf.devices.strategy import make_strategy
from simclr_tf.devices.workers import joins_workers, lost_worker, named_workers
from simclr_tf.errors import LostWorkerError, UserError
from simclr_tf.files.lock import sole_trainer
from simclr_tf.files.storage import storage_errors
from simclr_tf.files.writers import Writer
from simclr_tf.loggers.logger import LoggedRun
from simclr_tf.loggers.names import chosen
from simclr_tf.loggers.together import Loggers, flat
from simclr_tf.optim.schedules import get_train_steps
from simclr_tf.runs import folder as run_folder
from simclr_tf.runs.building import BuiltRun, build
from simclr_tf.runs.comparison import COMPARISON_FILE, compare_with_baselines
from simclr_tf.runs.data import count_of, open_data
from simclr_tf.runs.evaluating import Evaluator
from simclr_tf.runs.exporting import ExportFunction
from simclr_tf.runs.following import follow
from simclr_tf.runs.gain import Gain, take_best
from simclr_tf.runs.planning import plan
from simclr_tf.runs.settling import settle, slow_precision
from simclr_tf.runs.training import train
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR


def train_and_evaluate(config: Config, export_fn: ExportFunction) -> dict[str, float]:
    """Trains, evaluates new checkpoints, or trains and then evaluates, by `config.mode`.

    Args:
        config: The settings; `model_dir` and `dataset` must be set.
        export_fn: Called as `export_fn(model, path, overwrite=True, details=...)` after an
            evaluation; `details` describes the run, for the model card.

    Returns:
        The last evaluation's results, by the release's names; empty for `mode=train`.

    Raises:
        UserError: A setting, the data, a checkpoint or the folder does not fit.
        NotFiniteError: Loss, weights or results became NaN or infinite.
        StorageError: The folder can no longer be written.
        LostWorkerError: Another worker of the run ended.
        Interruption: SIGINT or SIGTERM came; a checkpoint of the step is written.

    Example:
        >>> config = Config(dataset='mnist_5k', eval_split='test', image_size=28, model_dir='a')
        >>> train_and_evaluate(config, tf_hub_export.export_saved_model)

    With `dry_run` all that a run does before its first step is done, a few steps are measured, and
    the plan is printed; nothing is written, and the results are empty.
    """
    config.validate()
    if config.model_dir is None or config.dataset is None:
        raise UserError("Expected model_dir and dataset; received: None. Name both.")
    # Seed, policy and determinism of the process are restored afterwards.
    with (
        isolated(),
        deterministic(config.deterministic),
        storage_errors(config.model_dir, newest_checkpoint),
        named_workers(config.workers, config.worker_index),
        _lost_workers(config),
        run_folder.left_as_found(config.model_dir) if config.dry_run else contextlib.nullcontext(),
    ):
        return _open_and_run(config, export_fn)


@contextlib.contextmanager
def _lost_workers(config: Config) -> Iterator[None]:
    """Turns what TensorFlow says when another worker ends into one line."""
    try:
        yield
    except tf.errors.OpError as error:
        what = lost_worker(error) if joins_workers(config.strategy) else None
        if what is None:
            raise
        kept = newest_checkpoint(str(config.model_dir))
        raise LostWorkerError(
            f"Stopped: {what}. The last checkpoint is {kept or 'not yet written'}: start every "
            "worker again with the same command, and the run goes on."
        ) from error


def _open_and_run(config: Config, export_fn: ExportFunction) -> dict[str, float]:
    config, settled = settle(config)
    strategy = make_strategy(
        config.strategy,
        cpu_replicas=config.cpu_replicas,
        use_tpu=config.use_tpu,
        tpu_name=config.tpu_name,
        tpu_zone=config.tpu_zone,
        gcp_project=config.gcp_project,
        master=config.master,
    )
    writer = Writer.of(strategy)
    # A folder may be evaluated while a run trains in it, but not trained in twice.
    trains = config.mode != "eval" and writer.is_chief
    with sole_trainer(str(config.model_dir)) if trains else contextlib.nullcontext():
        return _run(config, export_fn, strategy, writer, settled)


def _run(
    config: Config,
    export_fn: ExportFunction,
    strategy: tf.distribute.Strategy,
    writer: Writer,
    settled: list[str],
) -> dict[str, float]:
    slowed = slow_precision(config)
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(precision.policy_name(config.mixed_precision))
    data, left_out = open_data(config, strategy.num_replicas_in_sync)
    train_steps = get_train_steps(
        count_of(data.train), config.train_epochs, config.train_batch_size, config.train_steps
    )
    with strategy.scope():
        model, taught = build(config, data, train_steps)
    for line in (*settled, *slowed, *left_out, *taught):
        writer.say(line)

    run = BuiltRun(config, model, data, train_steps, strategy, writer)
    if config.dry_run:
        plan(run)
        return {}
    with _loggers(config, writer) as loggers:
        if config.mode == "train":
            train(run, loggers)
            return {}
        evaluator = Evaluator(config, model, data, export_fn, writer, loggers)
        if config.mode == "eval":
            loggers.start()
            return _follow(config, model, evaluator, train_steps, writer)
        step = train(run, loggers)
        results = evaluator.evaluate(step)
        compared = compare_with_baselines(config, model, data, results, writer)
        if compared:
            loggers.summary(flat(compared, "comparison"), step)
            loggers.file(os.path.join(str(config.model_dir), COMPARISON_FILE))
        return results


def _loggers(config: Config, writer: Writer) -> Loggers:
    """Returns the run's loggers, not yet open; of several workers the chief alone has any."""
    if not writer.is_chief:
        return Loggers()
    run = LoggedRun(str(config.model_dir), config.to_dict(), config.mode == "eval", writer.say)
    return Loggers(chosen(config.loggers), run)


def _follow(
    config: Config,
    model: SimCLR | Classifier,
    evaluator: Evaluator,
    train_steps: int,
    writer: Writer,
) -> dict[str, float]:
    """Evaluates checkpoints as they come; last, with early stopping, the best."""
    folder = str(config.model_dir)
    results = follow(
        folder,
        model,
        evaluator.evaluate,
        train_steps,
        writer,
        has_stopped=lambda: Gain.of_folder(folder).is_over,
    )
    step = take_best(model, folder, train_steps, writer)
    if step == train_steps:
        return results
    # The newest export is what other commands take: the best.
    run_folder.drop_exports_after(folder, step)
    return evaluator.evaluate(step)
