"""Folders that runs, exports and features were written to: never data, by what is in them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any

from simclr_tf.errors import UserError

_RUN, _EXPORT, _FEATURES = "flags.json", "model.json", "job.json"
_PROJECTOR = "projector_config.pbtxt"
# Keys that a file of ours holds, in every version so far; the original release's run too.
_KEYS = {
    _RUN: {"train_mode", "train_split", "image_size"},
    _EXPORT: {"simclr_tf", "architecture"},
    _FEATURES: {"data", "endpoint", "outputs", "columns"},
}
_KINDS = {_RUN: "a run", _EXPORT: "an export", _FEATURES: "unfinished features"}
_LONGEST = 1 << 20  # bytes of a settings file; another program's may be any size
# The pictures that a run draws into its own folder.
RUN_PICTURES = frozenset({"views.png"})


def kind_of_own(folder: str, names: Collection[str]) -> str | None:
    """Returns what of ours a folder holds, such as 'a run'; None where it holds none.

    Its content decides, not its name. A folder without such files costs no access to the disk.

    Args:
        folder: the path.
        names: the names of its entries.

    Raises:
        UserError: a file that decides it cannot be read.

    Example:
        >>> kind_of_own("runs/digits", os.listdir("runs/digits"))
        'a run'
    """
    for name, kind in _KINDS.items():
        if name in names and _is_ours(folder, name, names):
            return kind
    if _PROJECTOR in names and "sprite.png" in names:
        return "projector files"
    return None


def _is_ours(folder: str, name: str, names: Collection[str]) -> bool:
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            content = file.read(_LONGEST)
    except IsADirectoryError:
        return False
    except OSError as error:
        raise UserError(
            f"Expected to read {path}, which tells a run's folder from one of images; received: "
            f"{(error.strerror or str(error)).lower()}. Let it be read, or move the folder."
        ) from error
    try:
        held: Any = json.loads(content)
    except ValueError:
        # Cut off by a power failure, say: a run's checkpoints lie beside it.
        return name == _RUN and "checkpoint" in names
    return isinstance(held, dict) and _KEYS[name] <= held.keys()
