"""What a sweep has tried: `sweep.json` in its folder, written whole after each change.

It is all that a sweep goes on from. Optuna's own stores hold half-drawn trials after a kill, and
can't open a trial again that has ended.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, Literal, get_args

from simclr_tf.config.settings import Value
from simclr_tf.errors import UserError
from simclr_tf.files.json_files import read_json, write_json
from simclr_tf.files.outputs import check_output_path
from simclr_tf.sweeps.definition import Sweep

SWEEP_FILE = "sweep.json"
_RUN_FILE = "flags.json"

State = Literal["open", "finished", "failed", "refused"]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        number: From 0, in the order of the draws.
        settings: Its values of the space.
        state: `open` until its run has ended; `finished` with a value; `failed` where the run ended
            otherwise; `refused` where its settings can't work.
        value: Of the metric.
        line: Why it failed or was refused.
        code: Exit code of its run; None where none has ended, or was ever started.
        seconds: That its processes ran.
    """

    number: int
    settings: dict[str, Value]
    state: State = "open"
    value: float | None = None
    line: str = ""
    code: int | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"trial_{self.number:04d}"

    @property
    def is_finished(self) -> bool:
        """Whether it has a value."""
        return self.state == "finished"

    @property
    def has_ended(self) -> bool:
        """Whether it is not to be run again."""
        return self.state != "open"

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


class Record:
    """The trials of a sweep, in its folder.

    Args:
        folder: The sweep's.
        sweep: What it is.

    Attributes:
        trials: In the order of their numbers.
    """

    def __init__(self, folder: str, sweep: Sweep) -> None:
        self.folder, self.sweep = folder, sweep
        self.trials: list[Trial] = []

    @classmethod
    def begin(cls, folder: str, sweep: Sweep) -> Record:
        """Returns what a folder holds of a sweep, nothing in a new one.

        Args:
            folder: Of the sweep; it exists and is locked.
            sweep: What is asked for.

        Raises:
            UserError: It holds another sweep, or the file is damaged.
        """
        held = _read(folder)
        if held:
            sweep.check_same(held["sweep"], folder)
        record = cls(folder, sweep)
        record.trials = [Trial(**trial) for trial in held.get("trials", ())]
        return record

    @classmethod
    def read(cls, folder: str) -> Record:
        """Returns what a folder holds of a sweep.

        Raises:
            UserError: It holds none, or the file is damaged.
        """
        held = _read(folder)
        if not held:
            raise UserError(f"Expected the folder of a sweep; {folder} has no {SWEEP_FILE}.")
        return cls.begin(folder, Sweep.from_dict(held["sweep"]))

    def put(self, trial: Trial) -> Trial:
        """Adds a trial or replaces the one of its number, and writes the file."""
        self.trials[trial.number : trial.number + 1] = [trial]
        self.write()
        return trial

    def write(self, **more: object) -> None:
        """Writes the file.

        Args:
            more: What else it says.
        """
        held = {
            "sweep": self.sweep.to_dict(),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }
        write_json(os.path.join(self.folder, SWEEP_FILE), {**held, **more})

    def folder_of(self, trial: Trial) -> str:
        """Returns the `model_dir` of a trial's run."""
        return os.path.join(self.folder, trial.name)

    def ranked(self) -> list[Trial]:
        """Returns all trials: the finished ones from the best on, then the others."""
        sign = -1 if self.sweep.larger_is_better else 1

        def place(trial: Trial) -> tuple[bool, float, int]:
            value = math.inf if trial.value is None else sign * trial.value
            return (not trial.is_finished, value, trial.number)

        return sorted(self.trials, key=place)

    def best(self) -> Trial | None:
        """Returns the best of the finished trials."""
        return next((trial for trial in self.ranked() if trial.is_finished), None)


def check_folder(given: str) -> str:
    """Returns the path of a sweep's folder, after checking that it can be written.

    Args:
        given: What the user typed; `~` is the home folder.

    Raises:
        UserError: It holds something else than a sweep, or can't be written.
    """
    folder = os.path.expanduser(given)
    if os.path.isfile(os.path.join(folder, _RUN_FILE)):
        raise UserError(
            f"Expected --sweep_dir to be a new folder, or that of a sweep; received: {given!r}, "
            "the model_dir of a run. Choose another path."
        )
    try:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    except OSError:
        names = []  # it is named below
    # The lock of a process that was killed before it wrote more.
    if SWEEP_FILE not in names and any(not name.startswith(".") for name in names):
        raise UserError(
            f"Expected --sweep_dir to be a new folder, or that of a sweep; received: {given!r}, "
            f"which holds files but no {SWEEP_FILE}. Choose another path."
        )
    return check_output_path(
        "--sweep_dir", given, folder=True, overwrite=True, ours=lambda path: True
    )


def _read(folder: str) -> dict[str, Any]:
    """Returns what `sweep.json` holds; nothing where there is none.

    Raises:
        UserError: It was damaged, or changed by hand or by another program.
    """
    path = os.path.join(folder, SWEEP_FILE)
    held = read_json(path)
    if not held:
        return {}
    try:
        swept = {dimension.name for dimension in Sweep.from_dict(held["sweep"]).space}
        right = all(
            trial["number"] == number and _is_trial(trial, swept)
            for number, trial in enumerate(held["trials"])
        )
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(
            f"Expected what a sweep wrote in {path}; received: another form. "
            "Restore it, or pass another --sweep_dir."
        )
    return held


def _is_trial(held: dict[str, Any], swept: set[str]) -> bool:
    """Returns whether this is what `Trial` is made from, with a value for each name in the space.

    May raise what looking into something else raises.
    """
    return (
        set(held) == {field.name for field in dataclasses.fields(Trial)}
        and held["state"] in get_args(State)
        and set(held["settings"]) == swept
        and (held["state"] == "finished") == isinstance(held["value"], float)
        and isinstance(held["seconds"], (int, float))
        and isinstance(held["line"], str)
        and (held["code"] is None or isinstance(held["code"], int))
    )
