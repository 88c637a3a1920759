"""Checkpoints in the original release's layout: saving and resuming.

Keys are the release's (`model/resnet_model/block_groups/0/...`, `global_step`), so its checkpoints
load here and ours there; they do not depend on the Keras generation. Encoders that the release
does not know are stored under `model/encoder/`.
"""

from __future__ import annotations

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
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer
from simclr_tf.training.finite import failure, not_finite


def save_weights(model: keras.Model, directory: str, step: int) -> str:
    """Writes a checkpoint of only weights and step, `ckpt-STEP`; returns its prefix."""
    checkpoint = tf.train.Checkpoint(
        model=nested_variables(model_variables(model)),
        global_step=tf.Variable(step, dtype=tf.int64, trainable=False),
    )
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
        checkpoint = tf.train.Checkpoint(
            model=nested_variables(model_variables(model)),
            optimizer=self._state,
            global_step=self._step,
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

    def newest_healthy(self) -> tuple[str | None, list[str]]:
        """Returns the newest checkpoint without NaN or infinity, and those that are newer."""
        latest = self.latest
        if latest is None:
            return None, []
        others = [p for p in all_checkpoints(self._directory) if p != latest]
        sick: list[str] = []
        for prefix in (latest, *others):
            if StoredWeights(prefix).is_finite():
                return prefix, sick
            sick.append(prefix)
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
        for index, variable in self._state.items():
            key = f"optimizer/{index}{VALUE}"
            if shapes.get(key) != tuple(variable.shape):
                raise UserError(
                    f"Expected the state of this optimizer in {prefix}; its entry {index} does not "
                    "fit. Resume with the optimizer and the TensorFlow lane it was saved with, or "
                    "start a new model_dir with --checkpoint."
                )
            variable.assign(stored.tensor(key))
        # The schedule and the views depend on this counter.
        batches_taken(self._optimizer).assign(stored.step)
        return stored.step


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
