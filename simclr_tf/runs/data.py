"""The images of a run: opened, checked against its settings, and with a share of the labels."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource, open_source
from simclr_tf.datasets.folder_walk import left_out_line
from simclr_tf.datasets.labelled import LIST_FILE, find_labelled, long_tailed
from simclr_tf.errors import UserError
from simclr_tf.images.batch_errors import in_one_line
from simclr_tf.training.gradient_cache import check_micro_batch_size

# Which images of a folder are held out does not depend on --seed: fine-tuning with another seed
# than pretraining must not be evaluated on images that were trained on.
HELD_OUT_SEED = 0


@dataclasses.dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        train: The images to train on: all of `train_split`, or what `label_fraction` leaves of it.
        test: `eval_split`; None where nothing is evaluated.
        whole: All of `train_split` with all its labels.
        labelled: Positions in `whole` of the images whose labels are used; None: all of them.
    """

    train: ImageSource
    test: ImageSource | None
    whole: ImageSource
    labelled: np.ndarray | None = None


def open_data(config: Config, replicas: int) -> tuple[RunData, list[str]]:
    """Opens the splits of a run and checks that they fit its settings and devices.

    Args:
        config: The settings.
        replicas: How many devices share a batch.

    Returns:
        The images, and the lines that say what was left out of them.

    Raises:
        UserError: No such data set, or it does not fit.
    """
    whole = _open(config, config.train_split)
    test = None if config.mode == "train" else _open(config, config.eval_split)
    lines = [left_out_line(whole.name, whole.left_out)] if whole.left_out else []
    for source in (whole, test):
        _check_channels(config, source)
    _check_labels(config, whole)
    if config.imbalance > 1:
        with data_errors(whole):
            tail = long_tailed(whole.read_labels(), config.imbalance, config.label_seed)
        split, count = whole.split, whole.num_examples
        whole = whole.subset(tail)
        whole.split = f"{split}, imbalance {config.imbalance:g}"
        lines.append(f"Using {len(tail)} of {count} images, a long tail of classes.")
    if config.mode != "eval":  # which may run on other devices than training
        _check_batch_size(config, replicas)
    _check_classes(config, whole, test)
    if config.label_fraction >= 1:
        return RunData(whole, test, whole), lines
    labelled = _find_labelled(config, whole)
    hides = config.train_mode == "distill"  # it learns from the other images too
    train = whole.hide_labels(labelled) if hides else whole.subset(labelled)
    train.split = f"{whole.split}, label_fraction {config.label_fraction:g}"
    return RunData(train, test, whole, labelled), lines


def count_of(source: ImageSource) -> int:
    """Returns the number of images of an opened split; only a user's tf.data may not know it."""
    assert source.num_examples is not None
    return source.num_examples


@contextlib.contextmanager
def data_errors(source: ImageSource) -> Iterator[None]:
    """Turns an error that the data caused inside a TensorFlow step into one line."""
    with in_one_line(), source.user_errors():
        yield


def _open(config: Config, split: str) -> ImageSource:
    return open_source(
        str(config.dataset),
        split,
        data_dir=config.data_dir,
        eval_fraction=config.eval_fraction,
        seed=HELD_OUT_SEED,
        on_bad_image=config.on_bad_image,
        transparent=config.transparent,
        image_column=config.image_column,
        label_column=config.label_column,
        white_level=config.white_level,
    )


def _check_channels(config: Config, source: ImageSource | None) -> None:
    if source is not None and source.image_shape[2] != config.channels:
        raise UserError(
            f"Expected images of --channels={config.channels} in {source.name}; received: "
            f"{source.image_shape[2]}. Pass --channels={source.image_shape[2]}, and augmentations "
            "without color where these are not 3."
        )


def _check_labels(config: Config, train: ImageSource) -> None:
    named = [
        f"--{name}={getattr(config, name)}"
        for name, off in (("imbalance", 1), ("class_balance", "none"))
        if getattr(config, name) != off
    ]
    if named and (train.num_classes or 0) < 2:
        classes = f"{train.num_classes} class" if train.num_classes else "no labels"
        raise UserError(
            f"Expected images of two classes or more with {named[0]}; {train.name} has {classes}. "
            "Leave it away, or sort the images into one folder per class."
        )
    needs_labels = config.train_mode == "finetune" or (
        config.train_mode == "distill" and config.distill_labels_weight > 0
    )
    if needs_labels and train.num_classes is None:
        purpose = "fine-tuning" if config.train_mode == "finetune" else "distill_labels_weight"
        raise UserError(
            f"Expected a labelled data set for {purpose}; {train.name} has no labels. "
            "Sort the images into one folder per class, or pretrain."
        )
    if needs_labels and train.num_classes == 1:
        raise UserError(
            f"Expected two classes or more; {train.name} has one. "
            "Sort the images into one folder per class, or pretrain."
        )


def _check_classes(config: Config, train: ImageSource, test: ImageSource | None) -> None:
    if test is not None and train.num_classes and test.num_classes != train.num_classes:
        raise UserError(
            f"Expected as many classes in {config.eval_split} as in {config.train_split}; "
            f"received: {test.num_classes} and {train.num_classes}. Fix the data set."
        )


def _check_batch_size(config: Config, replicas: int) -> None:
    if config.train_batch_size % replicas:
        raise UserError(
            f"Expected train_batch_size to be a multiple of the {replicas} replicas; received: "
            f"{config.train_batch_size}. "
            f"Pass --train_batch_size={replicas * max(1, 256 // replicas)}."
        )
    if config.micro_batch_size:
        check_micro_batch_size(config.train_batch_size // replicas, config.micro_batch_size)


def _find_labelled(config: Config, whole: ImageSource) -> np.ndarray:
    """Returns the positions of the labelled images: those listed in the folder, else drawn ones."""
    with data_errors(whole):
        return find_labelled(
            whole,
            config.label_fraction,
            config.label_seed,
            os.path.join(str(config.model_dir), LIST_FILE),
            check=config.mode != "eval",
        )
