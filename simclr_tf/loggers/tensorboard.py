"""TensorBoard's event files in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from simclr_tf.loggers.logger import LoggedRun, Logger


class TensorBoard(Logger):
    """Writes scalars and pictures; a group has a folder of its own, which shows it apart.

    Repeated steps are TensorBoard's own business: it shows the latest.

    Args:
        folder: The run's `model_dir`.
    """

    takes_pictures = True

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def scalars(self, values: Mapping[str, float], step: int, group: str) -> None:
        writer = self._writer(group)
        with writer.as_default():
            for tag, value in values.items():
                tf.summary.scalar(tag, value, step)
        writer.flush()

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        writer = self._writer("")
        with writer.as_default():
            tf.summary.image(name, pixels[np.newaxis], step)
        writer.flush()

    def close(self, exit_code: int) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, group: str) -> tf.summary.SummaryWriter:
        if group not in self._writers:
            folder = os.path.join(self._folder, group)
            self._writers[group] = tf.summary.create_file_writer(folder)
        return self._writers[group]


def open_logger(run: LoggedRun) -> Logger:
    """Returns the logger of a run; files are made when there is something to write."""
    return TensorBoard(run.folder)
