"""A table of images, CSV, TSV or Parquet: its columns of paths, labels and splits as text."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from simclr_tf.datasets.folder_walk import some
from simclr_tf.errors import UserError

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet")
NO_COLUMN = "none"
# Compared in lower case, without blanks, hyphens and underscores: `File_Name` is `filename`.
_NAMES = {
    "--image_column": ("path", "image", "file", "filename", "filepath", "imagepath"),
    "--label_column": ("label", "class", "target"),
    "split": ("split",),
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_Row = tuple[int, list[Any]]


class Table(NamedTuple):
    """The columns of a table that matter, row by row.

    Attributes:
        rows: Number of each row in the file, as an editor shows it.
        paths: Paths as they are written.
        labels: Labels as text, '' where a cell is empty; None without such a column.
        splits: Splits as text, '' where a cell is empty; None without such a column.
    """

    rows: list[int]
    paths: list[str]
    labels: list[str] | None
    splits: list[str] | None


def read_table(
    path: str, image_column: str | None = None, label_column: str | None = None
) -> Table:
    """Reads a table of images.

    Args:
        path: CSV (separated by commas, semicolons or tabs), TSV or Parquet file. CSV and TSV are
            UTF-8 with a line of names.
        image_column: Name of the column of paths; None: `path`, `image`, `file`, `filename`,
            `filepath` or `image_path`, whichever is there.
        label_column: Name of the column of labels; None: `label`, `class` or `target`, or no
            labels; 'none': no labels.

    Returns:
        The table. Its images are not opened.

    Raises:
        UserError: It can't be read; a column is missing, there twice, or one of several; a cell
            that is needed is empty or holds no text or whole number.

    Example:
        >>> read_table("labels.csv").labels
        ['cat', 'dog']
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise _unreadable(path, "it is no regular file")  # a pipe may wait for ever
    if path.lower().endswith(".parquet"):
        return _read_parquet(path, image_column, label_column)
    with _delimited(path) as (header, rows):
        chosen = _choose(path, header, image_column, label_column)
        return _table(path, rows, chosen)


@contextlib.contextmanager
def _delimited(path: str) -> Iterator[tuple[list[str], Iterator[_Row]]]:
    """Opens a CSV or TSV file: its header, and its rows with their line numbers."""
    try:
        # File names may hold bytes that are not UTF-8.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            with open(path, "rb") as raw:
                if raw.read(2) in _UTF_16:
                    raise _unreadable(path, "it is UTF-16; save it as UTF-8")
            first = file.readline()
            file.seek(0)
            is_tsv = path.lower().endswith(".tsv")
            separator = "\t" if is_tsv else max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=not is_tsv)
            header = next((cells for cells in reader if cells), None)
            if header is None:
                raise _unreadable(path, "it is empty")
            if not all(name.isprintable() for name in header):
                raise _unreadable(path, "it is no text in UTF-8")
            yield header, _rows(path, reader, len(header))
    except OSError as error:
        raise _unreadable(path, (error.strerror or str(error)).lower()) from error
    except csv.Error as error:
        raise _unreadable(path, f"it is no table of text ({error})") from error


def _rows(path: str, reader: Any, width: int) -> Iterator[_Row]:
    for cells in reader:
        if not cells:  # a blank line
            continue
        if len(cells) != width:
            line = reader.line_num
            raise _unreadable(path, f"line {line} has {len(cells)} cells, the first {width}")
        yield reader.line_num, cells


def _read_parquet(path: str, image_column: str | None, label_column: str | None) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:  # not installed, or built for another NumPy
        raise UserError(
            f"Expected pyarrow to be installed for {path}; received: {error}. "
            "Run pip install 'simclr-tf[parquet]', or save the table as CSV."
        ) from error
    try:
        header = [str(name) for name in parquet.read_schema(path).names]
        chosen = _choose(path, header, image_column, label_column)
        names = [header[place] for place in chosen.values()]
        columns = parquet.read_table(path, columns=list(dict.fromkeys(names)))
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, " ".join(str(error).split())) from error
    lists = [columns.column(name).to_pylist() for name in names]
    places = {flag: number for number, flag in enumerate(chosen)}
    rows = ((number, list(cells)) for number, cells in enumerate(zip(*lists, strict=True), 1))
    return _table(path, rows, places)


def _choose(
    path: str, header: Sequence[str], image_column: str | None, label_column: str | None
) -> dict[str, int]:
    """Returns the place of each column that is used, by the flag that could name it."""
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UserError(
            f"Expected every column of {path} once; received: {some(twice)} twice. Rename one."
        )
    chosen = {}
    for flag, asked in (
        ("--image_column", image_column), ("--label_column", label_column), ("split", None),
    ):  # fmt: skip
        if asked == NO_COLUMN and flag == "--label_column":
            continue
        if asked is not None:
            if asked not in names:
                raise UserError(
                    f"Expected {flag} to be a column of {path} ({some(names, 20)}); "
                    f"received: '{asked}'."
                )
            chosen[flag] = names.index(asked)
            continue
        found = [name for name in names if _plain(name) in _NAMES[flag]]
        if len(found) > 1:
            raise UserError(
                f"Expected one column of {path} that can be {flag}; received: {some(found)}. "
                + (f"Pass {flag}." if flag.startswith("--") else "Rename the others.")
            )
        if found:
            chosen[flag] = names.index(found[0])
    if "--image_column" not in chosen:
        raise UserError(
            f"Expected a first line of names in {path}, one of them of a column of paths "
            f"({', '.join(_NAMES['--image_column'][:-1])}); received: {some(names, 20)}. "
            "Pass --image_column, or add the line."
        )
    return chosen


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _table(path: str, rows: Iterator[_Row], chosen: dict[str, int]) -> Table:
    numbers: list[int] = []
    columns: dict[str, list[str]] = {flag: [] for flag in chosen}
    for number, cells in rows:
        numbers.append(number)
        for flag, place in chosen.items():
            text = _text(cells[place])
            if text is None or (flag == "--image_column" and not text):
                what = "a path" if flag == "--image_column" else "a word or a whole number"
                received = _short(cells[place])
                raise UserError(
                    f"Expected {what} in every row of {path}; received: {received} in row "
                    f"{number}. Mend the row or take it out, or choose another column."
                )
            columns[flag].append(text if flag == "--image_column" else text.strip())
    for flag in ("--label_column", "split"):
        for number, text in zip(numbers, columns.get(flag, ()), strict=False):
            if not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text):
                raise _unreadable(path, f"row {number} is not UTF-8; save it as UTF-8")
    labels = columns.get("--label_column")
    return Table(
        numbers,
        columns["--image_column"],
        None if labels is None else _without_fractions(path, labels),
        columns.get("split"),
    )


def _text(cell: Any) -> str | None:
    """Returns a cell as text, '' for an empty one; None for what is no word or number."""
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, (bool, int, float, str)):
        return str(cell)
    if isinstance(cell, bytes) and b"\0" not in cell:
        return os.fsdecode(cell)
    return None


def _short(cell: Any) -> str:
    """Returns a cell as an error shows it: images may stand in one, as Hugging Face's tables do."""
    if isinstance(cell, (bytes, dict)):
        return "an image or other bytes" if isinstance(cell, bytes) else "a structure"
    return reprlib.repr(cell)


def _without_fractions(path: str, labels: list[str]) -> list[str]:
    """Returns 1.0 as 1 where all labels are numbers: so pandas writes integers with gaps.

    Raises:
        UserError: They are numbers with fractions: measurements, no classes.
    """
    known = {label for label in labels if label}
    if not any("." in label for label in known):
        return labels
    try:
        values = {label: float(label) for label in known}
    except ValueError:
        return labels
    fraction = next(
        (n for n, value in values.items() if not math.isfinite(value) or value % 1), None
    )
    if fraction is not None:
        raise UserError(
            f"Expected classes as labels in {path}; received: numbers with fractions, such as "
            f"{fraction}. Pass another --label_column, or --label_column={NO_COLUMN}."
        )
    return [str(int(values[label])) if label else "" for label in labels]


def _unreadable(path: str, reason: str) -> UserError:
    return UserError(
        f"Expected a table of images ({', '.join(TABLE_EXTENSIONS)}); received: {path}, which "
        f"can't be read: {reason}."
    )
