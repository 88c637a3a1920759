"""Checkpoints in the original release's layout: save, resume, load in part, report what differs.

Keys are the release's own (`model/resnet_model/block_groups/0/...`, `global_step`), so its
checkpoints load here and ours there; they do not depend on the Keras generation. Encoders that the
release does not know are stored under `model/encoder/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.checkpoints.reader import VALUE, StoredWeights, all_checkpoints, newest_checkpoint
from simclr_tf.compat import batches_taken, optimizer_variables, raw_variable, short_name
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer
from simclr_tf.models.heads import without_batch_norm
from simclr_tf.models.recipe import Recipe
from simclr_tf.training.finite import failure, not_finite

_ENCODER, _PROJECTION, _SUPERVISED = "resnet_model/", "_projection_head/", "supervised_head/"
_LINEAR = [f"{_SUPERVISED}linear_layer/dense/{name}" for name in ("kernel", "bias")]
# Not the release's: batch norm before the linear head.
_LINEAR_NORM = [f"{_SUPERVISED}bn/{name}" for name in ("moving_mean", "moving_variance")]


def model_variables(model: keras.Model) -> dict[str, Any]:
    """Returns every weight of a `SimCLR` or `Classifier` under its checkpoint path.

    Example:
        >>> sorted(model_variables(simclr))[0]
        '_projection_head/linear_layers/0/bn_relu/bn/beta'
    """
    variables = _encoder_variables(model.encoder)
    head = model.projection_head
    for index, (dense, norm) in enumerate(zip(head.dense_layers, head.batch_norms, strict=True)):
        path = f"{_PROJECTION}linear_layers/{index}"
        variables |= _layer_variables(dense, f"{path}/dense")
        variables |= _layer_variables(norm, f"{path}/bn_relu/bn")
    linear = model.supervised_head
    if linear is not None:
        variables |= dict(zip(_LINEAR, (linear.kernel, linear.bias), strict=True))
        if linear.batch_norm is not None:
            norm = linear.batch_norm
            moving = (norm.moving_mean, norm.moving_variance)
            variables |= dict(zip(_LINEAR_NORM, moving, strict=True))
    return variables


def _layer_variables(layer: keras.layers.Layer, path: str) -> dict[str, Any]:
    return {f"{path}/{short_name(variable)}": variable for variable in layer.weights}


def _encoder_variables(encoder: keras.Model) -> dict[str, Any]:
    paths = getattr(encoder, "release_paths", None)
    variables: dict[str, Any] = {}
    if paths is not None:
        for layer in encoder.layers:
            if layer.weights:
                variables |= _layer_variables(layer, f"{_ENCODER}{paths[layer.name]}")
        return variables
    # Layer names of other encoders may carry a counter of the process: places are stable.
    seen: set[int] = set()
    leaves = [layer for layer in encoder._flatten_layers() if layer.weights]
    for index, layer in enumerate(leaves):
        children = [w for child in layer._flatten_layers(include_self=False) for w in child.weights]
        held_below = {id(weight) for weight in children}
        for place, weight in enumerate(layer.weights):
            if id(weight) in held_below or id(weight) in seen:
                continue
            seen.add(id(weight))
            path = f"encoder/{index}_{type(layer).__name__}/{place}_{short_name(weight)}"
            variables[path] = weight
    return variables


def schema_name(path: str) -> str:
    """Returns the name that `variable_schema` is matched against.

    As in the TF1 release, the heads' names begin with `head_contrastive` and `head_supervised`.
    """
    if path.startswith(_PROJECTION):
        return "head_contrastive/" + path.removeprefix(_PROJECTION)
    if path.startswith(_SUPERVISED):
        return "head_supervised/" + path.removeprefix(_SUPERVISED)
    return path


@dataclass
class LoadReport:
    """What loading weights did, variable by variable.

    Attributes:
        loaded: Paths that were loaded.
        missing: Paths that the model has and the checkpoint has not.
        unused: Paths that the checkpoint has and the model has not.
        mismatched: Path -> (shape in the checkpoint, shape in the model).
        filtered: Paths that `variable_schema` left out.
        recipe: What network the checkpoint holds; None if it is none of the release's.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    filtered: list[str] = field(default_factory=list)
    recipe: Recipe | None = None

    def encoder_fits(self) -> bool:
        """Whether the encoder was loaded whole, with nothing of it left over."""
        encoders = (_ENCODER, "encoder/")
        rest = [*self.missing, *self.unused, *self.mismatched]
        return any(p.startswith(encoders) for p in self.loaded) and not any(
            p.startswith(encoders) for p in rest
        )

    def describe(self) -> str:
        """One line that says what was loaded and what was not, with an example of each."""
        parts = [f"{len(self.loaded)} variables loaded"]
        for what, paths in (
            ("missing in the checkpoint", self.missing),
            ("unused in it", self.unused),
            ("left out by variable_schema", self.filtered),
        ):
            if paths:
                parts.append(f"{len(paths)} {what} (as {paths[0]})")
        if self.mismatched:
            path, (theirs, ours) = next(iter(self.mismatched.items()))
            parts.append(
                f"{len(self.mismatched)} of another shape (as {path}: {theirs} there, {ours} here)"
            )
        return "; ".join(parts) + "."


def load_weights(
    model: keras.Model,
    path: str | StoredWeights,
    variable_schema: str | None = None,
    whole: bool = False,
) -> LoadReport:
    """Loads the weights (not the optimizer) of a checkpoint, as far as names and shapes agree.

    Args:
        model: A `SimCLR` or `Classifier`.
        path: A folder, a checkpoint prefix or a SavedModel folder, ours or the release's (TF2 or
            TF1); or the opened file.
        variable_schema: Regular expression; only variables whose `schema_name` matches from the
            start are loaded.
        whole: Whether nothing is assigned unless everything fits.

    Returns:
        The report. Nothing is assigned where a name is missing or a shape differs: decide by it.
        A linear head behind batch norm goes to a plain one as the plain one that it equals.

    Raises:
        UserError: No readable checkpoint there, or one that holds NaN or infinity.
    """
    stored = path if isinstance(path, StoredWeights) else StoredWeights(path)
    variables = model_variables(model)
    report = LoadReport(recipe=stored.recipe)
    folds = set(_LINEAR_NORM) <= set(stored.shapes) and not set(_LINEAR_NORM) & set(variables)
    others = set(stored.shapes) - set(variables) - set(_LINEAR_NORM if folds else ())
    for name in (*variables, *sorted(others)):
        theirs = stored.shapes.get(name)
        ours = tuple(variables[name].shape) if name in variables else None
        if variable_schema and not re.match(variable_schema, schema_name(name)):
            report.filtered.append(name)
        elif theirs is None:
            report.missing.append(name)
        elif ours is None:
            report.unused.append(name)
        elif theirs != ours:
            report.mismatched[name] = (theirs, ours)
        else:
            report.loaded.append(name)
    if whole and (report.missing or report.unused or report.mismatched):
        return report
    tensors = {name: stored.read(name) for name in report.loaded}
    if folds and set(_LINEAR) <= set(tensors):
        whole_head = (stored.read(name) for name in (*_LINEAR, *_LINEAR_NORM))
        tensors |= dict(zip(_LINEAR, without_batch_norm(*whole_head), strict=True))
    bad = not_finite(tensors)
    if bad is not None:
        raise UserError(
            f"Expected finite weights; received: NaN or infinity in {bad} of {path}. "
            "Take an earlier checkpoint."
        )
    for name, tensor in tensors.items():
        variables[name].assign(tensor)
    return report


def nested_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns path -> variable as nested dictionaries of raw variables, for tf.train.Checkpoint."""
    root: dict[str, Any] = {}
    for path, variable in variables.items():
        *folders, name = path.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = raw_variable(variable)
    return root


def save_weights(model: keras.Model, directory: str, step: int) -> str:
    """Writes a checkpoint of weights and step alone, `ckpt-STEP`; returns its prefix."""
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
        writer: Who writes: the others save into a scratch folder, and read from `directory`.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: Any,
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
            step: Batches that the run has trained on. The run counts them: an optimizer need not
                count a step that float16's loss scale skips.

        Raises:
            NotFiniteError: A weight or the optimizer's state is NaN or infinite: nothing is
                written, so that no healthy checkpoint gives way to it.
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
        """Restores weights, optimizer and step of `prefix` (the newest); returns the step.

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
        # The schedule and the views go on from there.
        batches_taken(self._optimizer).assign(stored.step)
        return stored.step


def _state_of(optimizer: Any) -> list[Any]:
    """The optimizer's variables but step counter and learning rate, in a stable order."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    skip = {id(raw_variable(batches_taken(inner)))}
    rate = getattr(inner, "_learning_rate", None)
    if rate is not None:
        skip.add(id(raw_variable(rate)))
    state = []
    for owner in (inner, optimizer):
        for variable in optimizer_variables(owner):
            if id(raw_variable(variable)) not in skip:
                skip.add(id(raw_variable(variable)))
                state.append(variable)
    return state
