"""A baseline that knows the labels: the run's network trained on them for as many steps."""

from __future__ import annotations

from simclr_tf.config import Config
from simclr_tf.errors import UserError
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
}


def train_supervised(settings: Json, folder: str, changes: Json) -> tuple[OpenedEncoder, float]:
    """Trains the network of a run on labels, with its data, batch, length and optimizer.

    Images are augmented as in fine-tuning: of the run's augmentations crop and flip alone. The
    folder is a run like others: the same call goes on from where an interrupted one stopped.

    Args:
        settings: Of the run that it stands beside.
        folder: Its `model_dir`.
        changes: Settings in place of the run's: data set and splits.

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
    config = Config.from_settings({**settings, **changes, **_FROM_SCRATCH, "model_dir": folder})
    results = train_and_evaluate(config, export_saved_model)
    return open_encoder(folder), float(results["eval/label_top_1_accuracy"])
