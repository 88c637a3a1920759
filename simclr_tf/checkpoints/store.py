"""Checkpoints in the original release's layout: saving and resuming.

Keys are the release's (`model/resnet_model/block_groups/0/...`, `global_step`), so its checkpoints
load here and ours there; they do not depend on the Keras generation. Encoders that the release
does not know are stored under `model/encoder/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.reader import VALUE, StoredWeights, all_checkpoints, newest_checkpoint
from simclr_tf.checkpoints.variables import model_variables, nested_variables
from simclr_tf.compat import (
    batches_taken,
    kept_learning_rate,
    optimizer_variables,
    raw_variable,
)
from simclr_tf.errors import DamagedFileError, UserError
from simclr_tf.files.writers import Writer
from simclr_tf.training.finite import failure, not_finite


def save_weights(model: keras.Model, directory: str, step: int) -> str:
    """Writes a checkpoint of only weights and step, `ckpt-STEP`; returns its prefix."""
    checkpoint = tf.train.Checkpoint(
        model=nested_variables(model_variables(model)),
        global_step=tf.Variable(step, dtype=tf.int64, trainable=False),
    )
    _remove_torn(directory)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=None)
    return manager.save(checkpoint_number=step)


class CheckpointStore:
    """The checkpoints of one run: `ckpt-STEP` files in a folder, old ones deleted.

    Args:
        model: A `SimCLR` or `Classifier`.
        optimizer: Its optimizer, built (`optimizer.build(model.trainable_variables)`).
        directory: The run's `model_dir`.
        max_to_keep: How many checkpoints stay; 0 keeps all.
        writer: Who writes: other workers save into a scratch folder, and read from `directory`.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        directory: str,
        max_to_keep: int = 5,
        writer: Writer | None = None,
    ) -> None:
        self._directory = directory
        self._writer = writer or Writer()
        self._model = model
        self._optimizer = optimizer
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._state = {str(i): raw_variable(v) for i, v in enumerate(_state_of(optimizer))}
        self._metrics = {
            f"{metric.name}-{i}": raw_variable(variable)
            for metric in model.running_means()
            for i, variable in enumerate(metric.variables)
        }
        skipped = model.skipped_steps
        self._counters = {} if skipped is None else {"skipped_steps": skipped}
        memory = getattr(model, "memory", None)
        self._memory = {} if memory is None else memory.variables()
        self._metrics_before: dict[str, np.ndarray] = {}
        checkpoint = tf.train.Checkpoint(
            model=nested_variables(model_variables(model)),
            optimizer=self._state,
            global_step=self._step,
            metrics=self._metrics,
            counters=self._counters,
            memory=self._memory,
        )
        self._checkpoint = checkpoint
        self._manager = None
        if self._writer.is_chief:
            self._manager = tf.train.CheckpointManager(
                checkpoint, directory, max_to_keep=max_to_keep or None
            )

    @property
    def latest(self) -> str | None:
        """Prefix of the newest checkpoint, or None."""
        return newest_checkpoint(self._directory)

    def newest_healthy(self) -> tuple[str | None, dict[str, str]]:
        """Returns the newest checkpoint that can be trained on, and what ails those that are newer.

        TensorFlow's files hold a checksum of each tensor and of their index, which are all read.
        """
        latest = self.latest
        if latest is None:
            return None, {}
        others = [p for p in all_checkpoints(self._directory) if p != latest]
        sick: dict[str, str] = {}
        for prefix in (latest, *others):
            try:
                if StoredWeights(prefix).is_finite():
                    return prefix, sick
                sick[prefix] = "NaN or infinity"
            except DamagedFileError:
                sick[prefix] = "damaged"
        return None, sick

    def save(self, step: int) -> str:
        """Writes a checkpoint; returns its prefix.

        Args:
            step: Batches that the run has trained on, as the run counts them: an optimizer does not
                always count a step that the loss scale of float16 skips.

        Raises:
            NotFiniteError: A weight or the optimizer's state is NaN or infinite: nothing is
                written, so that no healthy checkpoint is deleted for it.
        """
        bad = not_finite({**model_variables(self._model), **self._state})
        if bad is not None:
            rate = getattr(self._optimizer, "inner_optimizer", self._optimizer).learning_rate
            what = f"{bad} is not finite"
            raise failure(self._model, what, step, float(np.asarray(rate)), self.latest)
        self._step.assign(step)
        if self._writer.is_chief:
            _remove_torn(self._directory)
        with self._writer.folder(self._directory) as folder:
            manager = self._manager or tf.train.CheckpointManager(self._checkpoint, folder, 1)
            return manager.save(checkpoint_number=step)

    def restore(self, prefix: str | None = None) -> int:
        """Restores weights, optimizer and step of `prefix` (None: the newest); returns the step.

        Raises:
            UserError: There is no checkpoint, or one of another model or optimizer.
        """
        prefix = prefix or self.latest
        if prefix is None:
            raise UserError(
                f"Expected a checkpoint in {self._directory}; received: none. Train first, or pass "
                "another folder."
            )
        report = load_weights(self._model, prefix)
        if report.missing or report.unused or report.mismatched:
            raise UserError(
                f"Expected a checkpoint of this model at {prefix}; {report.describe()} "
                "Use the settings that it was trained with, or another model_dir."
            )
        stored = StoredWeights(prefix)
        shapes = stored.tensor_shapes()
        self._restore_all(self._state, "optimizer", stored, prefix)
        self._restore_all(self._memory, "memory", stored, prefix)
        names = {name: f"metrics/{name}{VALUE}" for name in self._metrics}
        self._metrics_before = {n: stored.tensor(key) for n, key in names.items() if key in shapes}
        counters = {f"counters/{name}": variable for name, variable in self._counters.items()}
        for name, variable in {**counters, "save_counter": self._checkpoint.save_counter}.items():
            if f"{name}{VALUE}" in shapes:
                variable.assign(stored.tensor(f"{name}{VALUE}"))
        # The schedule and the views depend on this counter.
        batches_taken(self._optimizer).assign(stored.step)
        return stored.step

    def _restore_all(
        self, variables: Mapping[str, tf.Variable], part: str, stored: StoredWeights, prefix: str
    ) -> None:
        """Restores a part that a checkpoint must hold whole."""
        shapes = stored.tensor_shapes()
        for name, variable in variables.items():
            key = f"{part}/{name}{VALUE}"
            if shapes.get(key) != tuple(variable.shape):
                raise UserError(
                    f"Expected the state of this {part} in {prefix}; its entry {name} does not "
                    "fit. Resume with the settings and the TensorFlow lane it was saved with, or "
                    "start a new model_dir with --checkpoint."
                )
            variable.assign(stored.tensor(key))

    def take_up_metrics(self) -> None:
        """Sets the running means to those of the checkpoint restored, once.

        So a summary after a resumption averages the steps before it too. `fit` resets the means as
        it begins: call this afterwards.
        """
        for name, value in self._metrics_before.items():
            self._metrics[name].assign(value)
        self._metrics_before = {}


def _remove_torn(directory: str) -> None:
    """Deletes what a process left that was killed while TensorFlow wrote a checkpoint."""
    if not tf.io.gfile.isdir(directory):
        return
    for name in tf.io.gfile.listdir(directory):
        if re.fullmatch(r"ckpt-\d+(_temp/?|\..*tempstate.*)", name):
            path = os.path.join(directory, name)
            (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)


def _state_of(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns the optimizer's variables except step and learning rate, in a stable order."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    skip = {id(raw_variable(batches_taken(inner)))}
    rate = kept_learning_rate(inner)
    if rate is not None:
        skip.add(id(raw_variable(rate)))
    state = []
    for owner in (inner, optimizer):
        for variable in optimizer_variables(owner):
            if id(raw_variable(variable)) not in skip:
                skip.add(id(raw_variable(variable)))
                state.append(variable)
    return state
