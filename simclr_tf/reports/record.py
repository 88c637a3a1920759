"""What a run left in its folder, read back for a report."""

from __future__ import annotations

import base64
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from simclr_tf.errors import UserError
from simclr_tf.files.csv_files import read_csv
from simclr_tf.files.json_files import read_json
from simclr_tf.typing import Json

SETTINGS = "flags.json"

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What is known of a run. Whatever it has not written yet is empty.

    Attributes:
        folder: The run's `model_dir`.
        name: Last part of the folder's path.
        settings: All its settings.
        results: `result.json`, by the release's names.
        comparison: `comparison.json`.
        evaluation: `evaluation.json`.
        metrics: Rows of `metrics.csv`: `step` and means since the row before.
        online: Rows of `online_evaluation.csv`.
        times: Rows of `training_time.csv`: a row for each process that trained.
        views: `views.png` as a data URI; empty without.
    """

    folder: str
    name: str
    settings: Json
    results: Json
    comparison: Json
    evaluation: Json
    metrics: list[Row]
    online: list[Row]
    times: list[Row]
    views: str

    @property
    def seconds(self) -> float:
        """Seconds of training, of all processes together; 0 where none was recorded."""
        return sum(row.get("seconds", 0.0) for row in self.times)

    @property
    def images(self) -> float:
        """Images that were trained on in these seconds."""
        return sum(row.get("images", 0.0) for row in self.times)

    @property
    def last_step(self) -> int:
        """The last step that anything was written of."""
        steps = [row["step"] for row in self.metrics if "step" in row]
        steps.append(_number(self.results.get("global_step")) or 0)
        return int(max((step for step in steps if math.isfinite(step)), default=0))


def is_run(folder: str) -> bool:
    """Returns whether a folder is a run's `model_dir`."""
    return os.path.isfile(os.path.join(folder, SETTINGS))


def find_runs(paths: Sequence[str]) -> list[str]:
    """Returns the run folders that paths name: themselves, or the runs inside of them.

    Raises:
        UserError: A path is no folder, or holds no run.

    Example:
        >>> find_runs(["runs"])
        ['runs/a', 'runs/b']
    """
    found: list[str] = []
    for given in paths:
        path = os.path.expanduser(given).rstrip(os.sep) or os.sep
        inside = sorted(os.listdir(path)) if os.path.isdir(path) else []
        runs = [path] if is_run(path) else [p for n in inside if is_run(p := os.path.join(path, n))]
        if not runs:
            raise UserError(
                f"Expected the model_dir of a run, or a folder of runs; received: {given!r}, "
                f"without a {SETTINGS}. Correct the path."
            )
        found += runs
    return list(dict.fromkeys(found))


def read_record(folder: str) -> RunRecord:
    """Reads a run's folder.

    Raises:
        UserError: A file in it is damaged.
    """

    def beside(name: str) -> str:
        return os.path.join(folder, name)

    return RunRecord(
        folder=folder,
        name=os.path.basename(os.path.abspath(folder)),
        settings=read_json(beside(SETTINGS)),
        results=read_json(beside("result.json")),
        comparison=read_json(beside("comparison.json")),
        evaluation=read_json(beside("evaluation.json")),
        metrics=_table(beside("metrics.csv")),
        online=_table(beside("online_evaluation.csv")),
        times=_table(beside("training_time.csv")),
        views=_picture(beside("views.png")),
    )


def _table(path: str) -> list[Row]:
    """Returns the numbers of a CSV file; cells that are none are left out."""
    return [
        {name: number for name, cell in row.items() if (number := _number(cell)) is not None}
        for row in read_csv(path)
    ]


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _picture(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        return "data:image/png;base64," + base64.b64encode(file.read()).decode("ascii")
