"""A run's folder: the settings of its run, its results and exports."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simclr_tf.config import Config, differences, unsaid
from simclr_tf.errors import UserError
from simclr_tf.files.csv_files import append_csv, is_number
from simclr_tf.files.json_files import read_json, write_json

FLAGS_FILE, RESULT_FILE = "flags.json", "result.json"
TIME_FILE = "training_time.csv"


def read_settings(model_dir: str) -> dict[str, Any] | None:
    """Returns the settings of the run that a folder holds; None if it holds none.

    Raises:
        UserError: The file is damaged.
    """
    path = os.path.join(model_dir, FLAGS_FILE)
    if not os.path.exists(path):
        return None
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(
            f"Expected the settings of a run in {path}; it can't be read ({error.__cause__}). "
            "Fix the file or choose another --model_dir."
        ) from error


def open_folder(config: Config) -> list[str]:
    """Makes sure that `model_dir` can be written and belongs to this run.

    Args:
        config: The settings of the run that is about to start.

    Returns:
        Lines that announce changed settings, those that may change.

    Raises:
        UserError: The folder can't be written, or holds a run with other settings.
    """
    folder = config.model_dir
    assert folder is not None
    _check_writable(folder)
    earlier = read_settings(folder)
    if earlier is None:
        return []
    identity, changed = differences(earlier, config)
    if identity:
        listed = ", ".join(
            f"{name} ({old} there, {new} now)" for name, (old, new) in identity.items()
        )
        raise UserError(
            f"Expected a model_dir of the same run; {folder} differs in {listed}. "
            "Use those settings, or pass another --model_dir."
        )
    return [
        f"Changed since this run began: {name} from {old} to {new}."
        for name, (old, new) in changed.items()
    ]


@contextlib.contextmanager
def left_as_found(folder: str) -> Iterator[None]:
    """Removes, at the end of a block, the folders that were made in it on the way to one.

    Args:
        folder: Its own and its parents' files are left alone, and so is a folder that holds any.
    """
    path = Path(folder).absolute()
    absent = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in absent:
            with contextlib.suppress(OSError):
                each.rmdir()


def _check_writable(folder: str) -> None:
    """Makes the folder, and a file in it that is deleted again."""
    try:
        os.makedirs(folder, exist_ok=True)
        probe = os.path.join(folder, f".writable-{os.getpid()}")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise UserError(
            f"Expected a model_dir that can be written; received: {folder} ({error.strerror}). "
            "Pass another --model_dir."
        ) from error


def complete(settings: Mapping[str, object]) -> dict[str, Any]:
    """Returns a run's settings with those that an earlier version used without recording them."""
    return {**unsaid(settings), **settings}


def as_begun(config: Config) -> tuple[Config, list[str]]:
    """Returns the settings with which the run in `model_dir` continues as it began.

    What a run did before a setting existed may not be today's default. The run keeps doing it,
    unless another value is asked for, which `open_folder` then refuses.

    Args:
        config: The settings of the run that is about to start.

    Returns:
        The settings, and lines that say which were taken from the earlier part of the run.
    """
    earlier = read_settings(str(config.model_dir))
    if earlier is None:
        return config, []
    defaults = Config().to_dict()
    taken = {
        name: value
        for name, value in unsaid(earlier).items()
        if getattr(config, name) == defaults[name]
    }
    lines = [
        f"This run began before --{name} existed: it goes on as it began, with --{name}={value}."
        for name, value in taken.items()
    ]
    return dataclasses.replace(config, **taken), lines


def write_settings(config: Config) -> None:
    """Writes `flags.json`; settings that an earlier version did not record stay out of it."""
    path = os.path.join(str(config.model_dir), FLAGS_FILE)
    earlier = read_settings(str(config.model_dir))
    hidden = {} if earlier is None else unsaid(earlier)
    write_json(path, {n: value for n, value in config.to_dict().items() if n not in hidden})


def write_results(model_dir: str, results: Mapping[str, float], step: int) -> None:
    """Writes `result.json` and `result_STEP.json`, under the release's names."""
    values = {**results, "global_step": float(step)}
    write_json(os.path.join(model_dir, RESULT_FILE), values)
    write_json(os.path.join(model_dir, f"result_{step}.json"), values)


def write_time(config: Config, first_step: int, last_step: int, seconds: float) -> None:
    """Adds a row to `training_time.csv`: what this process trained, and how long it took.

    Args:
        config: The run's settings.
        first_step: Steps that were taken before.
        last_step: Its last step.
        seconds: Of training, with the compilation of its first step.
    """
    images = (last_step - first_step) * config.train_batch_size
    row = {
        "first_step": first_step, "last_step": last_step, "images": images,
        "seconds": round(seconds, 3),
    }  # fmt: skip
    append_csv(os.path.join(str(config.model_dir), TIME_FILE), row)


def drop_exports_after(model_dir: str, step: int) -> None:
    """Deletes the exports of later steps than `step`."""
    folder = os.path.join(model_dir, "saved_model")
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if is_number(name) and int(name) > step:
            shutil.rmtree(os.path.join(folder, name))


def prune_exports(folder: str, keep: int) -> None:
    """Deletes all but the newest `keep` numbered exports; 0 keeps all."""
    steps = sorted(
        int(name)
        for name in os.listdir(folder)
        if is_number(name) and os.path.exists(os.path.join(folder, name, "saved_model.pb"))
    )
    for step in steps[:-keep] if keep > 0 else []:
        shutil.rmtree(os.path.join(folder, str(step)))
