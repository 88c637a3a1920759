"""A baseline that knows the labels: the run's network trained on them for as many steps."""

from __future__ import annotations

import dataclasses

from simclr_tf.config import Config
from simclr_tf.config.settings import Settings
from simclr_tf.errors import UserError
from simclr_tf.losses.names import OPTIONS
from simclr_tf.reports.request import EvaluationRequest
from simclr_tf.runs.run import train_and_evaluate
from simclr_tf.typing import Json
from tf_hub_export import export_saved_model
from tf_hub_export.extractors import OpenedEncoder, open_encoder

_FROM_SCRATCH: Json = {
    "mode": "train_then_eval",
    "train_mode": "finetune",
    "fine_tune_after_block": -1,
    "ft_proj_selector": 0,
    "checkpoint": None,
    "encoder_weights": None,
    "teacher": None,
    "label_fraction": 1.0,
    "micro_batch_size": 0,
    "lineareval_batch_norm": False,
    "early_stopping": "none",
    "online_eval": "never",
    "eval_baselines": "never",
    "loggers": "tensorboard",  # it is no run that anyone asked to log elsewhere
}
# Of pretraining and of distillation alone: classifiers refuse them.
_LEFT_BEHIND = {
    "loss", "memory_size", "memory_momentum", "hidden_norm", "distill_temperature",
    "distill_labels_weight", *(name for options in OPTIONS.values() for name in options),
}  # fmt: skip


def train_supervised(settings: Json, folder: str, changes: Json) -> tuple[OpenedEncoder, float]:
    """Trains the network of a run on labels, with its data, batch, length and optimizer.

    Images are augmented as in fine-tuning: of the run's augmentations crop and flip alone. The
    folder is a run like others: the same call goes on from where an interrupted one stopped.

    Args:
        settings: Of the run that it stands beside.
        folder: Its `model_dir`.
        changes: Settings in place of the run's; see `data_changes`.

    Returns:
        Its encoder, and the test accuracy of its own classifier.

    Raises:
        UserError: The settings are not those of a run, or the images have no labels.
    """
    if "train_batch_size" not in settings:
        raise UserError(
            "Expected the model_dir of a run for a supervised baseline of the same length; "
            "received: a model that does not say how it was trained. Leave --supervised_dir away."
        )
    config = supervised_config(settings, folder, changes)
    results = train_and_evaluate(config, export_saved_model)
    return open_encoder(folder), float(results["eval/label_top_1_accuracy"])


def data_changes(request: EvaluationRequest) -> Json:
    """Returns what of the data a request names in place of the run's.

    Of another data set nothing of where the run's lie and how they are split holds.
    """
    changes: Json = {
        "dataset": request.dataset,
        "data_dir": request.data_dir,
        "image_column": request.image_column,
        "label_column": request.label_column,
        "train_split": request.train_split,
        "eval_split": request.test_split,
    }
    given: Json = {name: value for name, value in changes.items() if value is not None}
    if request.dataset is None:
        return given
    return {**changes, "train_split": "train", "eval_split": "test", **given}


def supervised_config(settings: Json, folder: str, changes: Json) -> Config:
    """Returns the settings of the supervised run; arguments as for `train_supervised`."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(Settings)
        if field.name in _LEFT_BEHIND
    }
    given = {**settings, **defaults, **changes, **_FROM_SCRATCH, "model_dir": folder}
    return Config.from_settings(given)
