"""What is settled before anything is built: the compute type and the run's folder."""

from __future__ import annotations

import dataclasses
import os

from simclr_tf.config import Config
from simclr_tf.datasets import folders_of
from simclr_tf.datasets.apart import check_folder_apart
from simclr_tf.devices import precision
from simclr_tf.errors import UserError
from simclr_tf.models.named_networks import CIFAR_STEM_SIDE
from simclr_tf.runs import building
from simclr_tf.runs import folder as run_folder

_SMALL_IMAGE = 64  # pixels; below, the stem of ImageNet's networks is known to cost accuracy


def settle(config: Config) -> tuple[Config, list[str]]:
    """Returns the settings that this run uses, and opens its folder.

    Args:
        config: The settings asked for; `model_dir` and `dataset` are set.

    Returns:
        The settings, with `auto` resolved and with what an earlier part of the run settled; and
        the lines that say so.

    Raises:
        UserError: The folder lies among the images, can't be written, holds another run, or holds
            none where one is to be evaluated.
    """
    lines: list[str] = []
    model_dir = str(config.model_dir)
    for images in folders_of(str(config.dataset), config.data_dir):
        line = check_folder_apart(images, model_dir, "--model_dir")
        lines += [line] if line else []
    config, precision_lines = _settle_precision(config)
    config, taken = run_folder.as_begun(config)
    if config.mode == "eval" and not os.path.isdir(model_dir):
        raise UserError(
            f"Expected the model_dir of a run to evaluate; {model_dir} does not exist. "
            "Train first, or name another --model_dir."
        )
    lines += [*taken, *precision_lines, *run_folder.open_folder(config)]
    stem = _stem_line(config)
    return config, [*lines, *([stem] if stem and config.mode != "eval" else [])]


def _stem_line(config: Config) -> str | None:
    """Returns a warning where a ResNet's first layers leave little of small images."""
    asked = config.encoder != "resnet" or config.resnet_stem != "auto"
    if asked or not CIFAR_STEM_SIDE < config.image_size <= _SMALL_IMAGE:
        return None
    left = -(-config.image_size // 32)
    return (
        f"Warning: at {config.image_size} pixels the ResNet has the stem for ImageNet's images, "
        f"which leaves {left} x {left} positions to its last blocks. --resnet_stem=cifar may learn "
        "more, at four times the cost; --resnet_stem=imagenet keeps it without this line."
    )


def slow_precision(config: Config) -> list[str]:
    """Returns a line where mixed precision is measured to slow down training on this machine.

    It builds networks, which draw random weights: call it before the run's seed is set.
    """
    on_tpu = config.use_tpu or config.strategy == "tpu"
    if config.mode == "eval" or not precision.may_be_slow(config.mixed_precision, on_tpu):
        return []
    fresh = dataclasses.replace(building.recipe_of(config), encoder_weights=None)
    measured = precision.measure_slowdown(
        fresh.make_encoder,
        config.mixed_precision,
        (config.image_size, config.image_size, config.channels),
    )
    line = precision.slowdown_line(config.mixed_precision, measured)
    return [line] if line else []


def _settle_precision(config: Config) -> tuple[Config, list[str]]:
    """Returns the settings with `auto` resolved, as in the run's folder, and lines to print."""
    earlier = run_folder.read_settings(str(config.model_dir))
    settled, line = precision.resolve(
        config.mixed_precision,
        None if earlier is None else earlier.get("mixed_precision", "none"),
        config.use_tpu or config.strategy == "tpu",
    )
    return dataclasses.replace(config, mixed_precision=settled), [line] if line else []
