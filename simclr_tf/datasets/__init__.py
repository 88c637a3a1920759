"""Where images come from: folders, lists, tables, a TFDS name, the embedded digits, tf.data.

Example:
    >>> from simclr_tf.datasets import open_source
    >>> source = open_source("/path/to/images", "train")
    >>> source.num_examples, source.class_names
    (900, ['cat', 'dog'])
"""

from __future__ import annotations

import os

from absl import logging

from simclr_tf.datasets import mnist, tfds_source
from simclr_tf.datasets.folder import open_layout
from simclr_tf.datasets.folder_layout import read_layout
from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.kinds import Kind, kind_of, named_paths
from simclr_tf.datasets.layout import Layout
from simclr_tf.datasets.path_list import lay_out_paths, read_list
from simclr_tf.datasets.record_layout import read_record_layout
from simclr_tf.datasets.source import ImageSource
from simclr_tf.datasets.table_layout import read_table_layout
from simclr_tf.datasets.user import source_from_dataset
from simclr_tf.errors import UserError
from simclr_tf.images import transparency

__all__ = ["ImageSource", "InMemorySource", "folders_of", "open_source", "source_from_dataset"]


def open_source(
    dataset: str,
    split: str,
    *,
    data_dir: str | None = None,
    eval_fraction: float = 0.1,
    seed: int = 0,
    on_bad_image: str = "skip",
    transparent: str = transparency.DEFAULT,
    image_column: str | None = None,
    label_column: str | None = None,
    white_level: int = 0,
) -> ImageSource:
    """Opens a set of images by name or path.

    `mnist_5k` is the embedded set; an existing folder, or what looks like a path, is a folder of
    images, a list (.txt) or a table (.csv, .tsv, .parquet); anything else is looked up in
    TensorFlow Datasets.

    Args:
        dataset: `mnist_5k`, a path, several folders and files separated by commas, or a TFDS name
            with optional config and version.
        split: a split expression: `train`, `train[:80%]`, `train[1000:]`, `train+test`.
        data_dir: where prepared TFDS data are read from and written to; the folder of the relative
            paths of a list or table (None: its own).
        eval_fraction: share of a folder without evaluation sub-folder held out as 'test'.
        seed: draws which files are held out. Two runs that must not see each other's held-out
            images (pretraining and fine-tuning, say) need the same seed here.
        on_bad_image: 'skip' or 'fail', for all but TFDS.
        transparent: what shows through transparent pixels of folders and TFDS data sets: 'white',
            'black', 'mean' (the image's mean colour, weighted by opacity) or 'keep' (the colours
            that the files happen to store there).
        image_column: a table's column of paths; None: see `table.read_table`.
        label_column: a table's column of labels; None: see `table.read_table`; 'none': no labels.
        white_level: the value of 16-bit TIFF files that becomes white; 0: the largest that their
            bits can hold.

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
            "Expected a data set: mnist_5k, a folder of images, a list or table of them, or a "
            "TensorFlow Datasets name; received: ''. Pass --dataset."
        )
    transparency.check_transparent(transparent)
    kind = kind_of(dataset, data_dir)
    columns = {"image_column": image_column, "label_column": label_column}
    if kind in (Kind.DIGITS, Kind.TFDS) and any(columns.values()):
        raise UserError(
            f"Expected a table or TFRecord files for --image_column and --label_column; received: "
            f"'{dataset}', {kind.value}. Leave them out."
        )
    if kind is Kind.DIGITS:
        return mnist.open_mnist_5k(split)
    if kind is Kind.TFDS:
        return tfds_source.open_tfds(dataset, split, data_dir=data_dir, transparent=transparent)
    if kind is Kind.FOLDER and os.sep not in dataset and not dataset.startswith((".", "~")):
        logging.info("'%s' is taken as the folder of that name.", dataset)
    layout = _layout(kind, dataset, data_dir, eval_fraction, seed, columns)
    return open_layout(
        layout,
        dataset,
        split,
        on_bad_image=on_bad_image,
        transparent=transparent,
        white_level=white_level,
    )


def folders_of(dataset: str, data_dir: str | None = None) -> list[str]:
    """Returns the folders whose images `open_source` would read, whatever their names.

    What writes must stay out of them. A table names each of its files: a new one changes nothing.

    Args:
        dataset: As for `open_source`.
        data_dir: As for `open_source`.

    Raises:
        UserError: A list of folders can't be read.

    Example:
        >>> folders_of("photos"), folders_of("labels.csv"), folders_of("cifar10")
        (['photos'], [], [])
    """
    if not dataset.strip():
        return []
    kind = kind_of(dataset, data_dir)
    if kind is Kind.FOLDER:
        return [dataset]
    if kind in (Kind.PATHS, Kind.LIST):
        paths = named_paths(dataset) if kind is Kind.PATHS else _listed(dataset, data_dir)
        return [path for path in paths if os.path.isdir(path)]
    return []


def _layout(
    kind: Kind,
    dataset: str,
    data_dir: str | None,
    eval_fraction: float,
    seed: int,
    columns: dict[str, str | None],
) -> Layout:
    """Returns the layout of a folder, a list, a table or TFRecord files."""
    path = os.path.expanduser(dataset)
    if kind is Kind.TABLE:
        return read_table_layout(path, eval_fraction, seed, root=data_dir, **columns)
    if kind is Kind.RECORDS:
        features = {name.replace("column", "feature"): value for name, value in columns.items()}
        return read_record_layout(path, eval_fraction, seed, **features)
    given = [f"--{name}" for name, value in columns.items() if value is not None]
    if given:
        raise UserError(
            f"Expected a table or TFRecord files for {' and '.join(given)}; received: '{dataset}', "
            f"{kind.value}. Leave {'it' if len(given) == 1 else 'them'} out."
        )
    if kind is Kind.PATHS:
        return lay_out_paths(named_paths(dataset), dataset, eval_fraction, seed)
    if kind is Kind.LIST:
        root = os.path.expanduser(data_dir) if data_dir else os.path.dirname(path) or os.curdir
        paths = _listed(dataset, data_dir)
        layout = lay_out_paths(paths, dataset, eval_fraction, seed, root=root)
        layout.described_by = [path]
        return layout
    return read_layout(path, eval_fraction, seed)


def _listed(dataset: str, data_dir: str | None) -> list[str]:
    return read_list(os.path.expanduser(dataset), data_dir)
