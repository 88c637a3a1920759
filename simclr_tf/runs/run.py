"""One run, from settings to results. Each of its steps is a file beside this one."""

from __future__ import annotations

from tensorflow import keras

from simclr_tf.config import Config
from simclr_tf.devices import precision
from simclr_tf.devices.process_state import isolated
from simclr_tf.devices.strategy import make_strategy
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer
from simclr_tf.optim.schedules import get_train_steps
from simclr_tf.runs import folder as run_folder
from simclr_tf.runs.building import build
from simclr_tf.runs.comparison import compare_with_baselines
from simclr_tf.runs.data import count_of, open_data
from simclr_tf.runs.evaluating import Evaluator
from simclr_tf.runs.exporting import ExportFunction
from simclr_tf.runs.following import follow
from simclr_tf.runs.gain import Gain, take_best
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

    Example:
        >>> config = Config(dataset='mnist_5k', eval_split='test', image_size=28, model_dir='a')
        >>> train_and_evaluate(config, tf_hub_export.export_saved_model)
    """
    config.validate()
    if config.model_dir is None or config.dataset is None:
        raise UserError("Expected model_dir and dataset; received: None. Name both.")
    with isolated():  # seed and policy of the process are restored afterwards
        return _run(config, export_fn)


def _run(config: Config, export_fn: ExportFunction) -> dict[str, float]:
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

    if config.mode == "train":
        train(config, model, data, train_steps, strategy, writer)
        return {}
    evaluator = Evaluator(config, model, data, export_fn, writer)
    if config.mode == "eval":
        return _follow(config, model, evaluator, train_steps, writer)
    step = train(config, model, data, train_steps, strategy, writer)
    results = evaluator.evaluate(step)
    compare_with_baselines(config, model, data, results, writer)
    return results


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
