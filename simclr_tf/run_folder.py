"""A run's folder: which settings it belongs to, and the results that it holds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from simclr_tf.config import Config, differences
from simclr_tf.errors import UserError
from simclr_tf.json_files import write_json

FLAGS_FILE, RESULT_FILE = "flags.json", "result.json"


def read_settings(model_dir: str) -> dict[str, Any] | None:
    """Returns the settings of the run that a folder holds; None if it holds none.

    Raises:
        UserError: The file is damaged.
    """
    path = os.path.join(model_dir, FLAGS_FILE)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"Expected the settings of a run in {path}; it can't be read ({error}). "
            "Mend the file or choose another --model_dir."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(
            f"Expected the settings of a run in {path}; received: {type(settings).__name__}. "
            "Mend the file or choose another --model_dir."
        )
    return settings


def open_folder(config: Config) -> list[str]:
    """Makes sure that `model_dir` can be written and belongs to this run.

    Args:
        config: The settings of the run that is about to start.

    Returns:
        Lines that announce settings which have changed and may.

    Raises:
        UserError: The folder can't be written, or holds a run of other settings.
    """
    folder = config.model_dir
    assert folder is not None
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


def write_results(model_dir: str, results: Mapping[str, float], step: int) -> None:
    """Writes `result.json` and `result_STEP.json`, under the release's names."""
    values = {**results, "global_step": float(step)}
    write_json(os.path.join(model_dir, RESULT_FILE), values)
    write_json(os.path.join(model_dir, f"result_{step}.json"), values)


def prune_exports(folder: str, keep: int) -> None:
    """Deletes all but the newest `keep` numbered exports; 0 keeps all."""
    steps = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    for step in steps[:-keep] if keep > 0 else []:
        shutil.rmtree(os.path.join(folder, str(step)))
