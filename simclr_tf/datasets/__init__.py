"""Where images come from: a TFDS name, a folder, the embedded digits, or a user's tf.data.

Example:
    >>> from simclr_tf.datasets import open_source
    >>> source = open_source("/path/to/images", "train")
    >>> source.num_examples, source.class_names
    (900, ['cat', 'dog'])
"""

from __future__ import annotations

import os

from absl import logging

from simclr_tf.datasets import mnist, tfds_builder, tfds_source
from simclr_tf.datasets.folder import open_folder
from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.source import ImageSource
from simclr_tf.datasets.user import source_from_dataset
from simclr_tf.errors import UserError
from simclr_tf.images import transparency

__all__ = ["ImageSource", "InMemorySource", "folder_of", "open_source", "source_from_dataset"]


def open_source(
    dataset: str,
    split: str,
    *,
    data_dir: str | None = None,
    eval_fraction: float = 0.1,
    seed: int = 0,
    on_bad_image: str = "skip",
    transparent: str = transparency.DEFAULT,
) -> ImageSource:
    """Opens a set of images by name or path.

    `mnist_5k` is the embedded set; an existing folder, or what looks like a path, is a folder of
    images; anything else is looked up in TensorFlow Datasets.

    Args:
        dataset: `mnist_5k`, a path, or a TFDS name with optional config and version.
        split: a split expression: `train`, `train[:80%]`, `train[1000:]`, `train+test`.
        data_dir: where prepared TFDS data are read from and written to.
        eval_fraction: share of a folder without evaluation sub-folder held out as 'test'.
        seed: draws which files are held out. Two runs that must not see each other's held-out
            images (pretraining and fine-tuning, say) need the same seed here.
        on_bad_image: 'skip' or 'fail', for folders.
        transparent: what shows through transparent pixels of folders and TFDS data sets: 'white',
            'black', 'mean' (the image's mean colour, weighted by opacity) or 'keep' (the colours
            that the files happen to store there).

    Returns:
        The source.

    Raises:
        UserError: the data set or split is unknown, missing, empty or unreadable.

    Example:
        >>> open_source("mnist_5k", "train").num_examples
        4000
    """
    if not dataset or not dataset.strip():
        raise UserError(
            "Expected a data set: mnist_5k, a folder of images or a TensorFlow Datasets name; "
            "received: ''. Pass --dataset."
        )
    transparency.check_transparent(transparent)
    if dataset == mnist.NAME:
        return mnist.open_mnist_5k(split)
    if _is_path(dataset, data_dir):
        if os.sep not in dataset and not dataset.startswith((".", "~")):
            logging.info("'%s' is taken as the folder of that name.", dataset)
        return open_folder(
            dataset,
            split,
            eval_fraction=eval_fraction,
            seed=seed,
            on_bad_image=on_bad_image,
            transparent=transparent,
        )
    return tfds_source.open_tfds(dataset, split, data_dir=data_dir, transparent=transparent)


def folder_of(dataset: str, data_dir: str | None = None) -> str | None:
    """Returns the folder of images that `open_source` would read; None if it would read none.

    Args:
        dataset: As for `open_source`.
        data_dir: As for `open_source`.
    """
    if not dataset.strip() or dataset == mnist.NAME or not _is_path(dataset, data_dir):
        return None
    return dataset


def _is_path(dataset: str, data_dir: str | None) -> bool:
    if dataset.startswith((".", "~", os.sep)) or os.path.exists(os.path.expanduser(dataset)):
        return True
    if os.sep not in dataset:
        return False
    # `imagenet2012_subset/1pct` is a data set with its config; `my_images/flowers` is a path.
    without_version = dataset.split(":")[0]
    if data_dir and os.path.isdir(os.path.join(os.path.expanduser(data_dir), without_version)):
        return False
    return dataset.count("/") > 1 or not tfds_builder.is_tfds_name(dataset)
