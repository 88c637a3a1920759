"""Tables that grow by a row now and then, and are cut back where a run goes on from earlier."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping

from simclr_tf.files.atomic_file import new_file


def trim_csv(path: str, last_step: int) -> None:
    """Drops the rows of a CSV file whose `step` is above `last_step`; no file is no error."""
    if not os.path.exists(path):
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if "step" not in header:  # another program's file
        return
    place = header.index("step")
    kept = [r for r in rows if len(r) > place and r[place].isdigit() and int(r[place]) <= last_step]
    if len(kept) == len(rows):
        return
    with new_file(path) as partial, open(partial, "w", newline="") as file:
        csv.writer(file).writerows([header, *kept])


def append_csv(path: str, row: Mapping[str, object]) -> None:
    """Appends a row to a CSV file, with the columns of its header; the first row makes it."""
    exists = os.path.exists(path)
    columns = list(row)
    if exists:
        with open(path, newline="") as file:
            columns = next(csv.reader(file), columns)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if not exists:
            writer.writeheader()
        writer.writerow(row)
