"""Weights in a file, under the same paths for every format.

| written by | `format` | where its variables are |
|---|---|---|
| this package, the TF2 release while training | `checkpoint` | `model/resnet_model/...` |
| this package, the TF2 release on export | `saved_model` | the object graph below `model` |
| the TF1 release | `tf1_checkpoint` | `base_model/conv2d_7/kernel` and so on |

Values are read from the file, never through a loaded object: the published SavedModels list no
variables and have no gradients.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from simclr_tf.errors import DamagedFileError, UserError
from simclr_tf.files.load_failures import explain
from simclr_tf.models.architecture import is_tf1, recognise, tf1_names
from simclr_tf.models.recipe import Recipe

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Of a run with early stopping: the folder of its best checkpoint, and what says that it is one.
BEST, WATCH = "best", "watch.json"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Below `model`, in the release's vocabulary. Keras lists a model's parts in further places
# (`variables/0`, `layers/3`); a list called `layers` is the release's only in a block group.
_RELEASE_WORD = re.compile(
    r"resnet_model|initial_conv_relu_max_pool|block_groups|\d+|conv2d(_bn_layers|_fixed_padding)?"
    r"|conv2d_[01]|conv_relu_dropblock_layers|(shortcut|projection)_layers|batch_norm_relu(_1)?"
    r"|bn(_relu)?|se_(layer|reduce|expand)|_projection_head|linear_layers?|supervised_head|dense"
    r"|kernel|bias|gamma|beta|moving_mean|moving_variance|encoder|\d+_\w+"
)
_BLOCK_GROUP = re.compile(r"resnet_model/block_groups/\d")


class _Reader(Protocol):
    """What `tf.train.load_checkpoint` returns."""

    def get_variable_to_shape_map(self) -> dict[str, list[int]]: ...

    def get_tensor(self, name: str) -> np.ndarray: ...


class StoredWeights:
    """The weights of a model in a checkpoint or SavedModel, ours or the original release's.

    Args:
        path: A folder, a checkpoint prefix or a SavedModel folder.

    Attributes:
        prefix: Prefix of the files that hold the values.
        format: `checkpoint`, `saved_model` or `tf1_checkpoint`.
        shapes: Path below `model/` -> shape, as `resnet_model/.../kernel`; optimizer slots and
            counters are no weights.
        step: Training step at which it was saved; 0 where the file does not say.
        recipe: The network that it holds; None if it is not one of the release's.

    Raises:
        UserError: There is nothing that can be read.

    Example:
        >>> StoredWeights('/tmp/simclr_test').recipe.resnet_depth
        18
    """

    def __init__(self, path: str) -> None:
        self.prefix = find_checkpoint(path)
        self._reader = _open(self.prefix)
        shapes = self._reader.get_variable_to_shape_map()
        if is_tf1(shapes):
            self.format = "tf1_checkpoint"
            self._names = _tf1_paths(shapes)
            self._step_name = "global_step"
        else:
            in_saved_model = os.path.basename(os.path.dirname(self.prefix)) == "variables"
            self.format = "saved_model" if in_saved_model else "checkpoint"
            self._names = self._tf2_paths(shapes)
            self._step_name = f"global_step{VALUE}"
        self.shapes = {path: tuple(shapes[name]) for path, name in self._names.items()}
        has_step = self._step_name in shapes and not shapes[self._step_name]
        self.step = int(self.tensor(self._step_name)) if has_step else 0
        self.recipe: Recipe | None = recognise(self.shapes)

    def read(self, path: str) -> np.ndarray:
        """Returns the value of one of `shapes`."""
        return self.tensor(self._names[path])

    def tensor(self, name: str) -> np.ndarray:
        """Returns one tensor by its name in the file.

        Raises:
            UserError: The file is damaged: its index may be intact and its data truncated.
        """
        try:
            return self._reader.get_tensor(name)
        except Exception as error:  # TensorFlow's reader raises IndexError, RuntimeError and others
            raise _damaged(self.prefix, error) from error

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape of everything in the file, with slots and counters."""
        shapes = self._reader.get_variable_to_shape_map()
        return {name: tuple(shape) for name, shape in shapes.items()}

    def is_finite(self) -> bool:
        """Returns whether no number in the file, slots included, is NaN or infinite."""
        for name in self.tensor_shapes():
            value = self.tensor(name)
            numbers = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            if numbers and not np.isfinite(value).all():
                return False
        return True

    def _tf2_paths(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
        """Returns path -> name.

        A variable's name is only one of its paths in the object graph (in a SavedModel
        `variables/0` is shorter than its place in the model): the stored graph has all of them.
        """
        if _GRAPH not in shapes:
            flat = [n for n in shapes if n.startswith("model/") and n.endswith(VALUE)]
            return {name.removeprefix("model/").removesuffix(VALUE): name for name in flat}
        try:
            stored_graph = self.tensor(_GRAPH)
            graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(stored_graph)
            known = range(len(graph.nodes))
            if not known or any(c.node_id not in known for n in graph.nodes for c in n.children):
                raise ValueError("its object graph refers to nothing")
        except (DecodeError, TypeError, ValueError) as error:
            raise _damaged(self.prefix, error) from error
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
        names = _walk(children, stored, top, only_release=True)
        # Variables that the release's words do not reach, each under its shortest path.
        found = set(names.values())
        rest = _walk(children, stored, top, only_release=False)
        return names | {path: name for path, name in rest.items() if name not in found}


def find_checkpoint(path: str) -> str:
    """Returns the checkpoint prefix for a folder, a prefix or a SavedModel folder.

    Of a run with early stopping it is the best checkpoint, of others the newest.

    Raises:
        UserError: There is nothing that can be read.
    """
    path = os.path.expanduser(path)
    if tf.io.gfile.isdir(path):
        if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
            return os.path.join(path, "variables", "variables")
        best = os.path.join(path, BEST)
        latest = newest_checkpoint(best) if _is_watched(best) else None
        latest = latest or newest_checkpoint(path)
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


def _is_watched(folder: str) -> bool:
    return bool(tf.io.gfile.exists(os.path.join(folder, WATCH)))


def newest_checkpoint(folder: str) -> str | None:
    """Returns the prefix of a folder's newest checkpoint, or None.

    It is the one that the folder's `checkpoint` file names, even if the folder was moved; where
    that file is lost or damaged, the one with the highest number.
    """
    try:
        state = tf.train.get_checkpoint_state(folder)
    except Exception:  # whatever a damaged file makes the parser raise
        state = None
    if state is not None:
        name = os.path.basename(state.model_checkpoint_path)
        if name and tf.io.gfile.exists(os.path.join(folder, f"{name}.index")):
            return os.path.join(folder, name)
    found = all_checkpoints(folder)
    return found[0] if found else None


def all_checkpoints(folder: str) -> list[str]:
    """Returns the prefixes of a folder's checkpoints, the highest number first."""
    matches = [re.fullmatch(r"(.*-(\d+))\.index", name) for name in tf.io.gfile.listdir(folder)]
    found = [(int(match[2]), match[1]) for match in matches if match]
    return [os.path.join(folder, name) for _, name in sorted(found, reverse=True)]


def read_step(prefix: str) -> int:
    """Returns the step at which a checkpoint was saved (0 if it does not say)."""
    return StoredWeights(prefix).step


def _open(prefix: str) -> _Reader:
    try:
        return tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise _damaged(prefix, error) from error


def _damaged(prefix: str, error: Exception) -> UserError:
    failure = explain(error)
    if failure.kind in ("forbidden", "memory"):
        return UserError(
            f"Expected a readable checkpoint at {prefix}; received: {failure.reason}. "
            f"{failure.advice}"
        )
    return DamagedFileError(
        f"Expected a readable checkpoint at {prefix}; it is damaged ({failure.reason}). Take an "
        "earlier one of the same folder: --checkpoint=PREFIX with another --model_dir starts from "
        "it."
    )


def _tf1_paths(shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    names = tf1_names({name: tuple(shape) for name, shape in shapes.items()})
    used = set(names.values())
    # A name below a variable's is a slot of that variable; a counter's name has no `/`.
    rest = [n for n in shapes if n not in used and "/" in n and n.rpartition("/")[0] not in shapes]
    return names | {name: name for name in rest}


def _walk(
    children: list[dict[str, int]], stored: dict[int, str], top: int, only_release: bool
) -> dict[str, str]:
    """Returns path -> name of the variables below an object, shortest path first."""
    paths: dict[str, str] = {}
    waiting, seen = [(top, "")], {top}
    for place, path in waiting:
        if place in stored:
            paths[path] = stored[place]
        for name, child in children[place].items():
            is_release = (
                _BLOCK_GROUP.fullmatch(path) is not None
                if name == "layers"
                else _RELEASE_WORD.fullmatch(name) is not None
            )
            if child not in seen and (is_release or not only_release):
                seen.add(child)
                waiting.append((child, f"{path}/{name}" if path else name))
    return paths
