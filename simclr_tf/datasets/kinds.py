"""What `--dataset` names: the digits, a folder, a list, a table, TFRecord files, or a TFDS name."""

from __future__ import annotations

import enum
import glob
import os

from simclr_tf.datasets import mnist, tfds_builder
from simclr_tf.datasets.decoding import IMAGE_EXTENSIONS
from simclr_tf.datasets.folder_walk import entries_of
from simclr_tf.datasets.path_list import LIST_EXTENSION
from simclr_tf.datasets.record_layout import holds_record_files, is_record_file
from simclr_tf.datasets.table import TABLE_EXTENSIONS
from simclr_tf.errors import UserError


class Kind(enum.Enum):
    """A kind of data set."""

    DIGITS = "the embedded digits"
    FOLDER = "a folder of images"
    PATHS = "several folders and files, separated by commas"
    LIST = "a text file of paths"
    TABLE = "a table of paths and labels"
    RECORDS = "TFRecord files"
    TFDS = "a name of TensorFlow Datasets"


def kind_of(dataset: str, data_dir: str | None = None) -> Kind:
    """Returns what a data set's name stands for; opens nothing.

    What exists comes first. Else what ends as a list or table does, or looks like a path, is one;
    anything else is looked up in TensorFlow Datasets.

    Args:
        dataset: As for `open_source`.
        data_dir: As for `open_source`.

    Example:
        >>> kind_of("labels.csv"), kind_of("cifar10")
        (<Kind.TABLE: ...>, <Kind.TFDS: ...>)
    """
    if dataset == mnist.NAME:
        return Kind.DIGITS
    path = os.path.expanduser(dataset)
    if os.path.isdir(path):
        records = holds_record_files(path) and not _holds_class_folders(path)
        return Kind.RECORDS if records else Kind.FOLDER
    if _names_records(path):
        return Kind.RECORDS
    if "," in dataset and not os.path.exists(path):
        return Kind.PATHS
    if path.lower().endswith(LIST_EXTENSION):
        return Kind.LIST
    if path.lower().endswith(TABLE_EXTENSIONS):
        return Kind.TABLE
    return Kind.FOLDER if _is_path(dataset, data_dir) else Kind.TFDS


def named_paths(dataset: str) -> list[str]:
    """Returns the folders and files that a `Kind.PATHS` names.

    Raises:
        UserError: One does not exist, or is a list or a table.

    Example:
        >>> named_paths("~/2023, ~/2024")
        ['/home/me/2023', '/home/me/2024']
    """
    parts = [part.strip() for part in dataset.split(",") if part.strip()]
    if not parts:
        raise UserError(
            f"Expected folders and files, separated by commas; received: '{dataset}'. Name one."
        )
    for part in parts:
        path = os.path.expanduser(part)
        if not os.path.exists(path):
            raise UserError(
                f"Expected folders and files, separated by commas; received: '{part}', which does "
                "not exist. Correct --dataset."
            )
        other = is_record_file(path) or path.lower().endswith((LIST_EXTENSION, *TABLE_EXTENSIONS))
        if other and os.path.isfile(path):
            raise UserError(
                f"Expected folders and images, separated by commas; received: '{part}' among "
                "them. Name a list, a table or TFRecord files alone."
            )
    return [os.path.expanduser(part) for part in parts]


def _holds_class_folders(path: str) -> bool:
    """Returns whether images lie in folders below: a record file beside these is something else."""
    folders = [os.path.join(path, name) for name, is_folder in entries_of(path) if is_folder]
    return any(
        not is_folder and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
        for folder in folders
        for name, is_folder in entries_of(folder)
    )


def _names_records(path: str) -> bool:
    """Returns whether a path that is no folder names TFRecord files, by a pattern perhaps."""
    if ".tfrec" in os.path.basename(path).lower():
        return is_record_file(path) or glob.has_magic(path)
    # `mnist:3.*.*` is a pattern too, of TFDS.
    return any(is_record_file(file) for file in glob.glob(path))


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
