"""The end of a pretraining run: its features compared with untrained ones and raw pixels."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tensorflow import keras

from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.devices.memory import machine_memory
from simclr_tf.evaluation import probes
from simclr_tf.files.json_files import write_json
from simclr_tf.files.writers import Writer
from simclr_tf.runs import building
from simclr_tf.runs.data import RunData
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

COMPARISON_FILE = "comparison.json"
# Time: the comparison is quick up to about this many images; --eval_baselines=always ignores this.
QUICK_IMAGES = 10_000
# Memory for features, pixels and scikit-learn's copies of them.
MOST_BYTES = 2 * 2**30
_SHARE_OF_MEMORY = 0.25


def compare_with_baselines(
    config: Config,
    model: SimCLR | Classifier,
    data: RunData,
    results: Mapping[str, float],
    writer: Writer,
) -> dict[str, object]:
    """Prints and writes the comparison of trained features, untrained ones and raw pixels.

    Args:
        config: The run's settings, which decide whether it is wanted.
        model: The trained model.
        data: The run's images.
        results: The evaluation's, by the release's names.
        writer: Only the chief does anything here.

    Returns:
        What was written; empty where nothing was compared.
    """
    if not writer.is_chief or model.supervised_head is None or not is_wanted(config, data.train):
        return {}
    assert data.test is not None
    accuracy = results["eval/label_top_1_accuracy"]
    lines, compared = compare(config, model.encoder, (data.train, data.test), accuracy)
    for line in lines:
        writer.say(line)
    if not compared:
        return {}
    values: dict[str, object] = {"online_linear_head": accuracy, **compared}
    write_json(os.path.join(str(config.model_dir), COMPARISON_FILE), values)
    return values


def is_wanted(config: Config, train_source: ImageSource) -> bool:
    """Returns whether a run ends with the comparison."""
    possible = config.mode == "train_then_eval" and config.train_mode == "pretrain"
    small = (train_source.num_examples or 0) <= QUICK_IMAGES
    chosen = config.eval_baselines
    return possible and (chosen == "always" or (chosen == "auto" and small))


def compare(
    config: Config,
    encoder: keras.Model,
    sources: tuple[ImageSource, ImageSource],
    accuracy: float,
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Compares a trained encoder with its untrained self and with raw pixels.

    Args:
        config: The run's settings.
        encoder: The trained encoder.
        sources: The images of training and of evaluation.
        accuracy: That of the online linear head.

    Returns:
        Lines to print, and what `probes.compare_encoders` returns (empty where the comparison is
        not possible).
    """
    keras.utils.set_random_seed(config.seed)  # as before the first step, also after resuming
    untrained = building.recipe_of(config).make_encoder()
    encoders = {"raw pixels": None, "same encoder, untrained": untrained, "this run": encoder}
    train, test = (
        evaluation_dataset(s, batch_size=config.eval_batch_size, image_size=config.image_size)
        for s in sources
    )
    lines: list[str] = []
    try:
        compared = probes.compare_encoders(
            encoders, train, test, seed=config.seed, max_bytes=byte_limit(), notes=lines
        )
    except ValueError as error:  # only one class, or NaN among the features
        return [*lines, f"No comparison with raw pixels: {' '.join(str(error).split())}"], {}
    return [*lines, probes.comparison_table(compared, "this run", accuracy)], compared


def byte_limit() -> int:
    """Returns how many bytes the comparison may use on this machine."""
    have = machine_memory()
    return MOST_BYTES if have is None else min(MOST_BYTES, int(_SHARE_OF_MEMORY * have))
