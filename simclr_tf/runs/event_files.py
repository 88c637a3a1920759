"""TensorBoard's event files: cut back where a run goes on from an earlier step."""

from __future__ import annotations

import glob
import os

import tensorflow as tf

from simclr_tf.files.atomic_file import new_file


def trim_events(folder: str, last_step: int) -> None:
    """Drops the events of a folder's files whose step is above `last_step`.

    A run that was killed repeats the steps after its last checkpoint: without this, TensorBoard
    would draw them twice. Half a record at the end of a file, which a kill leaves, goes too. Files
    without such steps stay untouched: another process may be writing to them.

    Args:
        folder: The run's `model_dir`; the folders within it are left alone.
        last_step: The step that the run goes on from.
    """
    for path in glob.glob(os.path.join(glob.escape(folder), "events.out.tfevents.*")):
        kept, dropped = [], 0
        for record in _records(path):
            if tf.compat.v1.Event.FromString(record).step > last_step:
                dropped += 1
            else:
                kept.append(record)
        if dropped:
            with new_file(path) as partial, tf.io.TFRecordWriter(partial) as writer:
                for record in kept:
                    writer.write(record)


def _records(path: str) -> list[bytes]:
    """Returns the records of a file, up to the first that is damaged."""
    found: list[bytes] = []
    try:
        for record in tf.data.TFRecordDataset(path):
            found.append(record.numpy())
    except tf.errors.DataLossError:
        pass
    return found
