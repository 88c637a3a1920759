"""What a table of images holds: its files, classes and splits."""

from __future__ import annotations

import os

from absl import logging

from simclr_tf.datasets.class_labels import labelled_listings
from simclr_tf.datasets.layout import OTHER_SPLIT_NAMES, TRAIN, Layout, lay_out
from simclr_tf.datasets.table import NO_COLUMN, Table, read_table
from simclr_tf.errors import UserError


def read_table_layout(
    path: str,
    eval_fraction: float,
    seed: int,
    *,
    root: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Layout:
    """Lists the images of a table (see `table.read_table`).

    - Paths are absolute, or lie below `root`. A file that is named twice counts once.
    - Labels that are whole numbers are classes in the order of their size, words in the order of
      their names. All rows of a split have one, or none has.
    - A column `split` names the split of each row: train, validation (val, valid, dev), test, or
      any word. Where it is missing, or says only train, a share of each class is held out.

    Args:
        path: The table.
        eval_fraction: The share held out, between 0 and 1.
        seed: Draws which files are held out.
        root: The folder of its relative paths; None: the table's own.
        image_column: As for `read_table`.
        label_column: As for `read_table`.

    Returns:
        The layout. Its images are not opened.

    Raises:
        UserError: The table can't be read, is empty, or contradicts itself.

    Example:
        >>> read_table_layout("labels.csv", 0.1, seed=0).splits["train"].class_names
        ['cat', 'dog']
    """
    table = read_table(path, image_column, label_column)
    root = os.path.expanduser(root) if root else os.path.dirname(path) or os.curdir
    rows = _distinct_rows(path, table, root)
    splits: dict[str, tuple[list[str], list[str] | None]] = {}
    for split, places in _by_split(path, table, rows).items():
        files = [rows[place] for place in places]
        splits[split] = (files, _labels_of(path, split, table, places))
    layout = lay_out(root, labelled_listings(splits, path), eval_fraction, seed)
    layout.described_by = [path]
    return layout


def _distinct_rows(path: str, table: Table, root: str) -> dict[int, str]:
    """Returns the file of every row, by its place in the table; of a file named twice the first."""
    rows: dict[int, str] = {}
    first: dict[str, int] = {}
    for place, written in enumerate(table.paths):
        file = os.path.join(root, os.path.expanduser(written))
        known = first.setdefault(os.path.abspath(file), place)
        if known == place:
            rows[place] = file
            continue
        for what, values in (("label", table.labels), ("split", table.splits)):
            if values is not None and values[known] != values[place]:
                raise UserError(
                    f"Expected one {what} of '{written}' in {path}; received: '{values[known]}' in "
                    f"row {table.rows[known]} and '{values[place]}' in row {table.rows[place]}. "
                    "Keep one of the rows."
                )
    if not rows:
        raise UserError(f"Expected rows below the names of columns in {path}; received: none.")
    if len(rows) < len(table.paths):
        again = len(table.paths) - len(rows)
        logging.warning("%s: %d rows name a file again; it counts once.", path, again)
    return rows


def _by_split(path: str, table: Table, rows: dict[int, str]) -> dict[str, list[int]]:
    if table.splits is None:
        return {TRAIN: list(rows)}
    splits: dict[str, list[int]] = {}
    for place in rows:
        written = table.splits[place].lower()
        if not written:
            raise UserError(
                f"Expected a split in every row of {path}, as it has a column of them; received: "
                f"none in row {table.rows[place]}. Name one, or take the column out."
            )
        splits.setdefault(OTHER_SPLIT_NAMES.get(written, written), []).append(place)
    return splits


def _labels_of(path: str, split: str, table: Table, places: list[int]) -> list[str] | None:
    if table.labels is None:
        return None
    labels = [table.labels[place] for place in places]
    empty = [place for place in places if not table.labels[place]]
    if len(empty) == len(places):
        return None
    if empty:
        raise UserError(
            f"Expected a label in every row of split {split} of {path}, or in none; received: "
            f"{len(empty)} of {len(places)} rows without, the first being row "
            f"{table.rows[empty[0]]}. Fill them in, take them out, or pass "
            f"--label_column={NO_COLUMN}."
        )
    return labels
