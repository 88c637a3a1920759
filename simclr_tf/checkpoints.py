"""Checkpoints in the original release's layout: save, resume, load in part, report what differs.

Keys are the release's own (`model/resnet_model/block_groups/0/...`, `global_step`), so its
checkpoints load here and ours there; they do not depend on the Keras generation. Encoders that the
release does not know are stored under `model/encoder/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.core.protobuf import trackable_object_graph_pb2

from simclr_tf.compat import optimizer_variables, raw_variable, short_name
from simclr_tf.errors import UserError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ENCODER, _PROJECTION, _SUPERVISED = "resnet_model/", "_projection_head/", "supervised_head/"


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
    if model.supervised_head is not None:
        variables |= _layer_variables(model.supervised_head, f"{_SUPERVISED}linear_layer/dense")
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
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    filtered: list[str] = field(default_factory=list)

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


def find_checkpoint(path: str) -> str:
    """Returns the checkpoint prefix behind a folder, a prefix or a SavedModel folder.

    Raises:
        UserError: Nothing there that can be read.
    """
    path = os.path.expanduser(path)
    if tf.io.gfile.isdir(path):
        if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
            return os.path.join(path, "variables", "variables")
        latest = tf.train.latest_checkpoint(path)
        if latest is not None:
            return latest
        raise UserError(
            f"Expected a checkpoint or a SavedModel in {path}; found neither. "
            "Pass a model_dir that has been trained, a checkpoint prefix or a SavedModel folder."
        )
    if tf.io.gfile.exists(path + ".index"):
        return path
    raise UserError(
        f"Expected a checkpoint at {path}; found nothing there. "
        "Pass a folder, a prefix (as .../ckpt-100) or a SavedModel folder."
    )


def read_checkpoint(prefix: str) -> Any:
    """Returns TensorFlow's reader of a checkpoint.

    Raises:
        UserError: The files are damaged or no checkpoint.
    """
    try:
        return tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise _damaged(prefix, error) from error


def _read_tensor(reader: Any, prefix: str, key: str) -> np.ndarray:
    """Returns one tensor; the index may be whole and the data behind it cut off."""
    try:
        return reader.get_tensor(key)
    except Exception as error:  # TensorFlow's reader raises IndexError, RuntimeError and others
        raise _damaged(prefix, error) from error


def _damaged(prefix: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"Expected a readable checkpoint at {prefix}; it is damaged ({reason}). Take an earlier "
        "one of the same folder: --checkpoint=PREFIX with another --model_dir starts from it."
    )


def load_weights(model: keras.Model, path: str, variable_schema: str | None = None) -> LoadReport:
    """Loads the weights (not the optimizer) of a checkpoint, as far as names and shapes agree.

    Args:
        model: A `SimCLR` or `Classifier`.
        path: A folder, a checkpoint prefix or a SavedModel folder, ours or the TF2 release's.
        variable_schema: Regular expression; only variables whose `schema_name` matches from the
            start are loaded.

    Returns:
        The report. Nothing is assigned where a name is missing or a shape differs: decide by it.

    Raises:
        UserError: No readable checkpoint there.
    """
    prefix = find_checkpoint(path)
    reader = read_checkpoint(prefix)
    variables = model_variables(model)
    keys = _model_keys(reader, prefix, variables)
    all_shapes = reader.get_variable_to_shape_map()
    shapes = {name: tuple(all_shapes[key]) for name, key in keys.items()}
    report = LoadReport()
    for name, variable in variables.items():
        if variable_schema and not re.match(variable_schema, schema_name(name)):
            report.filtered.append(name)
        elif name not in shapes:
            report.missing.append(name)
        elif shapes[name] != tuple(variable.shape):
            report.mismatched[name] = (shapes[name], tuple(variable.shape))
        else:
            report.loaded.append(name)
    report.unused = sorted(set(shapes) - set(variables))
    tensors = {name: _read_tensor(reader, prefix, keys[name]) for name in report.loaded}
    for name, tensor in tensors.items():
        variables[name].assign(tensor)
    return report


def _model_keys(reader: Any, prefix: str, wanted: Iterable[str]) -> dict[str, str]:
    """Returns path below `model/` -> key in the file, for every variable stored there.

    A variable's key is only one of the ways to it (in a SavedModel `variables/0` is shorter than
    its place in the model): the object graph that lies beside the values knows all of them.
    """
    shapes = reader.get_variable_to_shape_map()
    if _GRAPH not in shapes:
        flat = [k for k in shapes if k.startswith("model/") and k.endswith(_VALUE)]
        return {key.removeprefix("model/").removesuffix(_VALUE): key for key in flat}
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        _read_tensor(reader, prefix, _GRAPH)
    )
    children = [{c.local_name: c.node_id for c in node.children} for node in graph.nodes]
    stored = {
        place: attribute.checkpoint_key
        for place, node in enumerate(graph.nodes)
        for attribute in node.attributes
        if attribute.name == "VARIABLE_VALUE" and attribute.checkpoint_key in shapes
    }
    if "model" not in children[0]:
        return {}
    top = children[0]["model"]
    keys: dict[str, str] = {}
    for path in wanted:
        place: int | None = top
        for name in path.split("/"):
            place = None if place is None else children[place].get(name)
        if place in stored:
            keys[path] = stored[place]
    # What nobody asked for, each under the shortest way to it.
    found, waiting, seen = set(keys.values()), [(top, "")], {top}
    for place, path in waiting:
        if place in stored and stored[place] not in found:
            keys[path] = stored[place]
        for name, child in children[place].items():
            if child not in seen:
                seen.add(child)
                waiting.append((child, f"{path}/{name}" if path else name))
    return keys


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


class CheckpointStore:
    """The checkpoints of one run: `ckpt-STEP` files in a folder, old ones deleted.

    Args:
        model: A `SimCLR` or `Classifier`.
        optimizer: Its optimizer, built (`optimizer.build(model.trainable_variables)`).
        directory: The run's `model_dir`.
        max_to_keep: How many checkpoints stay; 0 keeps all.
    """

    def __init__(
        self, model: keras.Model, optimizer: Any, directory: str, max_to_keep: int = 5
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._state = {str(i): raw_variable(v) for i, v in enumerate(_state_of(optimizer))}
        checkpoint = tf.train.Checkpoint(
            model=nested_variables(model_variables(model)),
            optimizer=self._state,
            global_step=self._step,
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint, directory, max_to_keep=max_to_keep or None
        )

    @property
    def latest(self) -> str | None:
        """Prefix of the newest checkpoint, or None."""
        return self._manager.latest_checkpoint or _newest_file(self._manager.directory)

    def save(self) -> str:
        """Writes a checkpoint at the optimizer's step; returns its prefix."""
        # By way of a tensor: a variable of several replicas is no array.
        step = int(tf.convert_to_tensor(raw_variable(self._optimizer.iterations)))
        self._step.assign(step)
        return self._manager.save(checkpoint_number=step)

    def restore(self, prefix: str | None = None) -> int:
        """Restores weights, optimizer and step of `prefix` (the newest); returns the step.

        Raises:
            UserError: The checkpoint is of another model or optimizer.
        """
        prefix = prefix or self.latest
        report = load_weights(self._model, prefix)
        if report.missing or report.unused or report.mismatched:
            raise UserError(
                f"Expected a checkpoint of this model at {prefix}; {report.describe()} "
                "Use the settings that it was trained with, or another model_dir."
            )
        reader = read_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        for index, variable in self._state.items():
            key = f"optimizer/{index}{_VALUE}"
            if tuple(shapes.get(key, ())) != tuple(variable.shape) or key not in shapes:
                raise UserError(
                    f"Expected the state of this optimizer in {prefix}; its entry {index} does not "
                    "fit. Resume with the optimizer and the TensorFlow lane it was saved with, or "
                    "start a new model_dir with --checkpoint."
                )
            variable.assign(_read_tensor(reader, prefix, key))
        step = read_step(prefix)
        self._optimizer.iterations.assign(step)
        return step


def _newest_file(folder: str) -> str | None:
    """Prefix of the newest `ckpt-STEP` in a folder whose `checkpoint` file is lost or damaged."""
    matches = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in os.listdir(folder)]
    found = [int(match[1]) for match in matches if match]
    return os.path.join(folder, f"ckpt-{max(found)}") if found else None


def read_step(prefix: str) -> int:
    """Returns the step at which a checkpoint was saved (0 if it does not say)."""
    reader = read_checkpoint(prefix)
    key = f"global_step{_VALUE}"
    return int(_read_tensor(reader, prefix, key)) if reader.has_tensor(key) else 0


def _state_of(optimizer: Any) -> list[Any]:
    """The optimizer's variables but step counter and learning rate, in a stable order."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    skip = {id(raw_variable(inner.iterations))}
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
