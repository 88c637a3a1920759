"""Early stopping: which checkpoint was the best, and whether that is too long ago."""

from __future__ import annotations

import contextlib
import math
import os
import re

from tensorflow import keras

from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.reader import BEST, WATCH
from simclr_tf.checkpoints.store import save_weights
from simclr_tf.config import Config
from simclr_tf.errors import UserError
from simclr_tf.evaluation.monitor import FIGURES
from simclr_tf.files.csv_files import read_csv
from simclr_tf.files.json_files import read_json, write_json
from simclr_tf.files.writers import Writer

FILE = "online_evaluation.csv"


class Gain:
    """What a run has gained in one figure since it began to watch it.

    The measurements stand in the run's `online_evaluation.csv`; `best/` holds the weights of the
    best step, and a file that says which figure is watched from which step on, so that other
    commands know it too.

    Args:
        figure: Name among `FIGURES`; 'none' never ends a run.
        patience: Measurements without gain that end it.

    Attributes:
        best_step: Step of the best value; None before the first.
        best: That value.
    """

    def __init__(self, figure: str = "none", patience: int = 1) -> None:
        self.figure, self._patience = figure, patience
        self.best_step: int | None = None
        self.best = math.nan
        self._since = 0

    @classmethod
    def of_folder(cls, folder: str, patience: int | None = None) -> Gain:
        """Returns what the run in a folder has gained; 'none' where it watches nothing.

        Args:
            folder: The run's `model_dir`.
            patience: In place of the one that the run began with.
        """
        path = os.path.join(folder, BEST, WATCH)
        watched = read_json(path)
        figure, began = watched.get("figure"), watched.get("from_step", 0)
        if not isinstance(figure, str) or figure not in FIGURES:
            return cls()
        patience = patience or watched.get("patience", 1)
        if not isinstance(patience, int) or not isinstance(began, int):
            raise UserError(
                f"Expected whole numbers for patience and from_step in {path}; received: "
                f"{patience!r} and {began!r}. Fix or remove it."
            )
        gain = cls(figure, patience)
        for step, value in _measured(folder, figure):
            if step > began:
                gain.add(step, value)
        kept = gain.best_step is None or os.path.exists(f"{gain.prefix(folder)}.index")
        return gain if kept else cls()

    @classmethod
    def of_run(cls, config: Config) -> Gain:
        """Returns what a run has gained in the figure that its settings watch."""
        gain = cls.of_folder(str(config.model_dir), config.early_stopping_patience)
        if gain.figure == config.early_stopping:
            return gain
        return cls(config.early_stopping, config.early_stopping_patience)

    @classmethod
    def begin(cls, config: Config, first_step: int) -> Gain:
        """Returns `of_run`, and writes what is watched; a run that watches nothing says so.

        Args:
            config: The run's settings.
            first_step: Steps that were taken before: measurements of a figure that was not watched
                by then do not count.
        """
        path = os.path.join(str(config.model_dir), BEST, WATCH)
        if config.early_stopping == "none":
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            return cls()
        gain = cls.of_run(config)
        watched = read_json(path)
        from_step = watched.get("from_step", 0) if gain.best_step is not None else first_step
        os.makedirs(os.path.dirname(path), exist_ok=True)
        values = {"figure": gain.figure, "patience": config.early_stopping_patience}
        write_json(path, {**values, "from_step": from_step})
        return gain

    def add(self, step: int, value: float) -> bool:
        """Takes note of a value; returns whether it is the best so far."""
        better = value > self.best if FIGURES[self.figure] else value < self.best
        if self.best_step is None or better:
            self.best_step, self.best, self._since = step, value, 0
            return True
        self._since += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether the run has gained nothing for too long."""
        return self.figure != "none" and self._since >= self._patience

    def prefix(self, folder: str) -> str:
        """Returns the prefix of the best checkpoint of the run in a folder."""
        return os.path.join(folder, BEST, f"ckpt-{self.best_step}")

    def keep(self, model: keras.Model, folder: str, before: int | None) -> None:
        """Writes the weights of the best step.

        The best before stays: a run that is killed ahead of this step's checkpoint goes on from
        the checkpoint before, and forgets this step.

        Args:
            model: The model, at the best step.
            folder: The run's `model_dir`.
            before: The best step before.
        """
        save_weights(model, os.path.join(folder, BEST), int(self.best_step or 0))
        self.forget_all_but({before, self.best_step}, folder)

    def forget_all_but(self, steps: set[int | None], folder: str) -> None:
        """Deletes the best checkpoints of other steps."""
        home = os.path.join(folder, BEST)
        for name in os.listdir(home) if os.path.isdir(home) else ():
            found = re.match(r"ckpt-(\d+)\.", name)
            if found and int(found[1]) not in steps:
                os.remove(os.path.join(home, name))


def take_best(model: keras.Model, folder: str, last_step: int, writer: Writer) -> int:
    """Loads the best checkpoint into a model, where the run watches for one; returns its step.

    Args:
        model: The run's model, at the last step.
        folder: The run's `model_dir`.
        last_step: The step that is returned where there is no best.
        writer: Who says it.
    """
    gain = Gain.of_folder(folder)
    if gain.best_step is None:
        return last_step
    load_weights(model, gain.prefix(folder))
    ended = f"Stopped at step {last_step}, " if gain.is_over else ""
    writer.say(
        f"{ended}{gain.figure} was best at step {gain.best_step} ({gain.best:.3f}): taking the "
        f"weights of {os.path.join(folder, BEST)}."
    )
    return gain.best_step


def _measured(folder: str, figure: str) -> list[tuple[int, float]]:
    measured = []
    for row in read_csv(os.path.join(folder, FILE)):
        # Not measured yet, or the last row of a process that was killed.
        with contextlib.suppress(KeyError, ValueError):
            measured.append((int(row["step"]), float(row[figure])))
    return measured
