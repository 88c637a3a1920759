"""Pictures of the views that a pretraining run learns from."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.evaluation import pictures
from simclr_tf.files.writers import Writer
from simclr_tf.runs.batches import Inputs, pictured_batch
from simclr_tf.runs.data import data_errors
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

PICTURED_IMAGES = 8
VIEWS_FILE = "views.png"


def save_views(
    config: Config,
    model: SimCLR | Classifier,
    source: ImageSource,
    first_step: int,
    writer: Writer,
) -> Callable[[int], np.ndarray] | None:
    """Writes `views.png`; returns the function that draws the views of later steps.

    Args:
        config: The settings.
        model: The model that makes the views.
        source: The images.
        first_step: Steps that were taken before.
        writer: Who writes.

    Returns:
        Step -> uint8 picture (h, w, 3); None where this process draws none.
    """
    if config.train_mode != "pretrain" or not writer.is_chief:
        return None
    with data_errors(source):
        inputs = pictured_batch(config, source, PICTURED_IMAGES)

    def views(step: int) -> np.ndarray:
        seed = tf.constant([config.seed, step], tf.int32)
        return model.views(inputs, seed).numpy()

    def picture(step: int) -> np.ndarray:
        drawn = views(step)
        half = len(drawn) // 2
        return pictures.view_grid([drawn[:half], drawn[half:]])

    path = os.path.join(str(config.model_dir), VIEWS_FILE)
    pictures.save_views(path, _originals(inputs), views(first_step))
    writer.say(f"Wrote {path}: look at what the model is asked to recognise.")
    return picture


def _originals(inputs: Inputs) -> np.ndarray:
    """Returns the images before augmentation; the first views where the host makes the views."""
    if isinstance(inputs, tuple):
        return inputs[0].numpy()
    return (inputs["image"] if isinstance(inputs, dict) else inputs).numpy()
