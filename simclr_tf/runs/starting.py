"""Where training starts: at the run's newest checkpoint, at another run's weights, or afresh."""

from __future__ import annotations

from collections.abc import Mapping

from simclr_tf.checkpoints.loading import LoadReport, load_weights
from simclr_tf.checkpoints.store import CheckpointStore
from simclr_tf.config import Config
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR


def start(
    config: Config, model: SimCLR | Classifier, store: CheckpointStore, writer: Writer
) -> int:
    """Resumes, starts from `--checkpoint`, or leaves the model as it was made.

    Args:
        config: The settings.
        model: The run's model, whose weights are set.
        store: The run's checkpoints.
        writer: Who prints where it starts.

    Returns:
        The steps that were taken before.

    Raises:
        UserError: No checkpoint of the folder is healthy, or `--checkpoint` does not fit.
    """
    healthy, sick = store.newest_healthy()
    if healthy is not None:
        step = store.restore(healthy)
        left = f" (left out: {_listed(sick)})" if sick else ""
        writer.say(f"Resuming from {healthy} at step {step}{left}.")
        return step
    if sick:
        raise UserError(
            f"Expected a checkpoint to resume from in {config.model_dir}; received: "
            f"{_listed(sick)}. Start afresh with another --model_dir."
        )
    if config.checkpoint:
        _start_from(config.checkpoint, config, model, writer)
    if config.train_mode != "pretrain" and config.zero_init_logits_layer:
        model.reset_head()
    return 0


def _listed(sick: Mapping[str, str]) -> str:
    return ", ".join(f"{prefix} ({what})" for prefix, what in sick.items())


def _start_from(
    checkpoint: str, config: Config, model: SimCLR | Classifier, writer: Writer
) -> None:
    report = load_weights(model, checkpoint, config.variable_schema)
    _check_report(report, config)
    writer.say(f"Starting from {checkpoint}: {report.describe()}")
    few_labels = config.label_fraction < 1 or config.train_mode == "distill"
    head = any(path.startswith("supervised_head/") for path in report.loaded)
    if few_labels and head and not config.zero_init_logits_layer:
        # Pretraining's online head has seen every label.
        writer.say(
            "The linear head starts as the checkpoint's, which has learned from the labels "
            "of that run; --zero_init_logits_layer starts it afresh."
        )


def _check_report(report: LoadReport, config: Config) -> None:
    """Refuses a checkpoint that leaves part of the encoder, or a needed layer, at random."""
    partial = not report.encoder_fits()
    if config.train_mode != "pretrain" and config.ft_proj_selector > 0:
        needed = [f"_projection_head/linear_layers/{i}/" for i in range(config.ft_proj_selector)]
        absent = [*report.missing, *report.mismatched]
        partial = partial or any(path.startswith(tuple(needed)) for path in absent)
    if partial:
        held = report.recipe
        holds = f" It holds {held.describe()}." if held is not None else ""
        raise UserError(
            f"Expected a checkpoint of the same architecture in {config.checkpoint}; "
            f"{report.describe()}{holds} Set resnet_depth, width_multiplier, sk_ratio, "
            "se_ratio, image_size (its stem), encoder and projection head to those it was "
            "trained with."
        )
