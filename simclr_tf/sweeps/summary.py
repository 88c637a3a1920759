"""What a sweep tells: a line a trial, a table, `sweep.csv`, and the best run's settings."""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Callable
from typing import Any

from simclr_tf.files.atomic_file import new_file
from simclr_tf.sweeps.record import Record, Trial
from simclr_tf.sweeps.sampling import importance

TABLE_FILE, BEST_FILE = "sweep.csv", "best.flags"
# A path on Linux may hold bytes that are no text; they are written as they are.
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
_LONGEST = 60  # characters of a line in the table that is printed
Say = Callable[[str], None]


def describe(record: Record, trial: Trial) -> str:
    """Returns how a trial ended, in one line."""
    if not trial.is_finished:
        return f"{trial.state}: {trial.line}"
    best = record.best()
    assert best is not None and trial.value is not None and best.value is not None
    beside = (
        "the best so far"
        if best is trial or best.number == trial.number
        else f"best so far {best.value:.4f} of trial {best.number}"
    )
    took = duration(trial.seconds)
    return f"{record.sweep.metric} {trial.value:.4f} after {took}; {beside}"


def write_best(record: Record) -> str | None:
    """Writes `best.flags`, the settings of the best run, for `simclr_tf.run --flagfile=`.

    Returns:
        Its path; None where no trial is finished.
    """
    best = record.best()
    if best is None:
        return None
    path = os.path.join(record.folder, BEST_FILE)
    lines = [
        f"# Trial {best.number} of a sweep: {best}.",
        f"# {record.sweep.metric} {best.value!r}, the best of {len(record.trials)} trials.",
        *record.sweep.settings_of(best.settings).to_flags(),
    ]
    with new_file(path) as partial, open(partial, "w", **_TEXT) as file:
        file.write("\n".join([*lines, ""]))
    return path


def write_summary(record: Record, say: Say) -> None:
    """Prints the table, best first; writes `sweep.csv`, `best.flags` and the rest of `sweep.json`.

    Args:
        record: Of a sweep with a finished trial.
        say: Prints a line.
    """
    best = record.best()
    assert best is not None
    flagfile, table = write_best(record), os.path.join(record.folder, TABLE_FILE)
    _write_table(record, table)
    again = shlex.join(
        ["python", "-m", "simclr_tf.run", f"--flagfile={flagfile}"]
        + [f"--model_dir={os.path.join(record.folder, 'best')}"]
    )
    shares = importance(record.sweep, record.trials)
    folder = record.folder_of(best)
    found = {"trial": best.number, "value": best.value, "folder": folder, "command": again}
    record.write(best=found, importance=shares)
    say("")
    for line in table_lines(record):
        say(line)
    say("")
    if shares:
        listed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        count = sum(trial.is_finished for trial in record.trials)
        say(f"Share in the variance of {record.sweep.metric} over {count} trials: {listed}.")
    say(f"Best: trial {best.number}, {record.sweep.metric} {best.value:.4f}: {folder}")
    say(f"Again: {again}")
    say(f"Wrote {table} and {flagfile}. Side by side: python -m simclr_tf.report {record.folder}")


def table_lines(record: Record) -> list[str]:
    """Returns the trials as aligned text, best first."""
    names = [dimension.name for dimension in record.sweep.space]
    rows = [["trial", record.sweep.metric, *names, "time"]]
    for trial in record.ranked():
        line = trial.line if len(trial.line) <= _LONGEST else f"{trial.line[:_LONGEST]}..."
        shown = trial.state if trial.value is None else f"{trial.value:.4f}"
        values = [str(trial.settings[name]) for name in names]
        rows.append([str(trial.number), shown, *values, duration(trial.seconds), line])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
            + row[len(widths) :]
        ).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """Returns seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _write_table(record: Record, path: str) -> None:
    names = [dimension.name for dimension in record.sweep.space]
    header = ["trial", "state", record.sweep.metric, *names, "seconds", "folder", "line"]
    with new_file(path) as partial, open(partial, "w", newline="", **_TEXT) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for trial in record.ranked():
            value = "" if trial.value is None else repr(trial.value)
            values = [trial.settings[name] for name in names]
            seconds = round(trial.seconds, 1)
            writer.writerow(
                [trial.number, trial.state, value, *values, seconds, trial.name, trial.line]
            )
