"""The work of a sweep: draw, run, read the figure, remember; from where it stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Sequence

from simclr_tf.errors import Interruption, LostWorkerError, StorageError, UserError
from simclr_tf.files.lock import held
from simclr_tf.sweeps import child
from simclr_tf.sweeps.definition import Sweep
from simclr_tf.sweeps.metrics import read_metric
from simclr_tf.sweeps.record import Record, Trial
from simclr_tf.sweeps.sampling import draw
from simclr_tf.sweeps.summary import describe, write_best, write_summary

_LOCK_FILE = ".sweep.lock"
_MOST_AT_FIRST = 3  # trials that a sweep begins with, none of which can begin
_SIGNALLED = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
_NEVER_BEGAN = (UserError.exit_code, 1)  # 1: behind a traceback
Say = Callable[[str], None]


def run_sweep(
    sweep: Sweep, folder: str, trials: int, say: Say, retry_failed: bool = False
) -> Record:
    """Runs the trials that are left, and writes what they gave.

    Args:
        sweep: The sweep.
        folder: Where it is kept; it is made.
        trials: How many there are to be, with those that have ended.
        say: Prints a line.
        retry_failed: Whether the runs that failed or were refused are tried once more.

    Returns:
        All trials.

    Raises:
        UserError: The folder holds another sweep; its first trials can't begin; none gave a figure.
        StorageError: The disk is full.
        Interruption: A signal came: the run that it reached has written its checkpoint.
    """
    os.makedirs(folder, exist_ok=True)

    def refusal(holder: str) -> UserError:
        return UserError(
            f"Expected a folder in which no other sweep runs; received: {folder}, where {holder} "
            "does. Wait for it, end it, or pass another --sweep_dir."
        )

    with held(os.path.join(folder, _LOCK_FILE), refusal):
        record = Record.begin(folder, sweep)
        if retry_failed:
            _open_again(record, [each for each in record.trials if not each.is_finished])
        total = sweep.total(trials)
        _announce(record, total, trials, say)
        for number in range(total):
            if number == len(record.trials):
                record.put(Trial(number, draw(sweep, record.trials, number)))
            if not record.trials[number].has_ended:
                _run_trial(record, number, total, say)
        if record.best() is None:
            last = record.trials[-1]
            raise UserError(
                f"Expected a trial that ends with {sweep.metric}; received: none of {total}. The "
                f"last: {last.line} Change settings or space, with another --sweep_dir."
            )
        write_summary(record, say)
        return record


def _announce(record: Record, total: int, asked: int, say: Say) -> None:
    sweep = record.sweep
    better = "larger" if sweep.larger_is_better else "smaller"
    say(f"{total} trials in {record.folder}, by {sweep.metric} ({better} is better).")
    if total < asked:
        say(f"The space has no more than {total} combinations.")
    ended = sum(trial.has_ended for trial in record.trials)
    if ended:
        say(f"Going on: {ended} trials have ended already.")


def _run_trial(record: Record, number: int, total: int, say: Say) -> None:
    trial, sweep = record.trials[number], record.sweep
    folder = record.folder_of(trial)
    title = f"Trial {number} ({number + 1} of {total})"
    config = sweep.settings_of(trial.settings, folder)
    try:
        config.validate()
    except UserError as error:
        record.put(dataclasses.replace(trial, state="refused", line=str(error)))
        say(f"{title}: {trial}: refused: {error}")
        return
    child.wait_for_trainer(folder, say)
    say(f"{title}: {trial}: {os.path.join(folder, child.LOG_FILE)}")
    began = time.monotonic()
    try:
        ended = child.run(config.to_flags(), folder)
    except KeyboardInterrupt as error:
        number_of_signal = getattr(error, "number", signal.SIGINT)
        raise _interruption(record, trial, total, began, number_of_signal) from error
    seconds = trial.seconds + time.monotonic() - began
    if ended.code in _SIGNALLED or -ended.code in _SIGNALLED.values():
        # Somebody ended the run alone: the sweep must not count that as its result.
        number_of_signal = _SIGNALLED.get(ended.code, -ended.code)
        raise _interruption(record, trial, total, began, number_of_signal)
    if ended.code == StorageError.exit_code:
        raise StorageError(f"{title}: {ended.line}")
    if ended.code == LostWorkerError.exit_code:
        raise LostWorkerError(f"{title}: {ended.line}")
    trial = record.put(_judged(record, dataclasses.replace(trial, seconds=seconds), ended))
    say(f"{title}: {describe(record, trial)}")
    if trial.is_finished:
        write_best(record)
    elif record.best() is None:
        _stop_at_first(record, trial, ended.code, total)


def _judged(record: Record, trial: Trial, ended: child.Ended) -> Trial:
    """Returns a trial with what its run's end means."""
    trial = dataclasses.replace(trial, code=ended.code)
    if ended.code == UserError.exit_code:
        return dataclasses.replace(trial, state="refused", line=ended.line)
    if ended.code != 0:
        return dataclasses.replace(trial, state="failed", line=ended.line)
    try:
        value = read_metric(record.sweep.metric, record.folder_of(trial))
    except UserError as error:
        return dataclasses.replace(trial, state="failed", line=str(error))
    return dataclasses.replace(trial, state="finished", value=value, line="")


def _stop_at_first(record: Record, trial: Trial, code: int, total: int) -> None:
    """Ends a sweep that will lead nowhere: what its trials share can't work.

    These trials stay open: once the mistake is corrected, the same command runs them.

    Raises:
        UserError: No trial has ended well, and the last ones say why none will.
    """
    began = [each for each in record.trials if each.code is not None]
    without_figure = code == 0
    never_began = all(each.code in _NEVER_BEGAN for each in began)
    if not without_figure and not (never_began and len(began) >= min(_MOST_AT_FIRST, total)):
        return
    alike = [each for each in began if each.code in (code, *_NEVER_BEGAN)]
    _open_again(record, alike)
    count = "a first trial" if len(alike) == 1 else f"one of the first {len(alike)} trials"
    raise UserError(
        f"Expected {count} that works; the last says: {trial.line} Correct it and repeat the "
        "command; or pass other settings, with another --sweep_dir."
    )


def _open_again(record: Record, trials: Sequence[Trial]) -> None:
    for trial in trials:
        record.put(dataclasses.replace(trial, state="open", line="", code=None))


def _interruption(
    record: Record, trial: Trial, total: int, began: float, number: int
) -> Interruption:
    seconds = trial.seconds + time.monotonic() - began
    record.put(dataclasses.replace(trial, seconds=seconds))
    ended = sum(each.has_ended for each in record.trials)
    return Interruption(
        number,
        f"{ended} of {total} trials have ended; the same command goes on with trial "
        f"{trial.number} in {record.folder}",
    )
