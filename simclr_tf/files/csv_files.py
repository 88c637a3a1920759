"""Tables that grow by a row now and then, and are cut back where a run goes on from earlier."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Mapping

from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import new_file


def read_csv(path: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, by the names in its first line; none where there is no file.

    A row that is shorter, as the last of a process that was killed, lacks the cells behind; what
    stands behind the last column is left out.

    Raises:
        UserError: The file is no table.

    Example:
        >>> read_csv('run/metrics.csv')[0]['step']
        '10'
    """
    if not os.path.exists(path):
        return []
    header, *rows = _cells(path) or [[]]
    return [dict(zip(header, row, strict=False)) for row in rows]


def is_number(text: str) -> bool:
    """Returns whether a cell or a name is a whole number: `isdigit` takes '²' too."""
    return text.isascii() and text.isdigit() and len(text) < 20


def _cells(path: str, lines: int | None = None) -> list[list[str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(itertools.islice(csv.reader(file), lines))
    except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8
        raise UserError(
            f"Expected a readable table in {path}; received: {error}. Fix or remove it."
        ) from error


def trim_csv(path: str, last_step: int) -> None:
    """Drops the rows of a CSV file whose `step` is above `last_step`; no file is no error."""
    if not os.path.exists(path):
        return
    header, *rows = _cells(path) or [[]]
    if "step" not in header:  # another program's file
        return
    place = header.index("step")
    kept = [
        r for r in rows if len(r) > place and is_number(r[place]) and int(r[place]) <= last_step
    ]
    if len(kept) == len(rows):
        return
    with new_file(path) as partial, open(partial, "w", newline="") as file:
        csv.writer(file).writerows([header, *kept])


def append_csv(path: str, row: Mapping[str, object]) -> None:
    """Appends a row to a CSV file, with the columns of its header; the first row makes it."""
    exists = os.path.exists(path)
    columns = list(row)
    if exists:
        columns = next(iter(_cells(path, 1)), columns)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if not exists:
            writer.writeheader()
        writer.writerow(row)
