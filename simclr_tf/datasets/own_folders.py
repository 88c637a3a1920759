"""Folders written by runs, exports and features: never data, recognised by their content."""

from __future__ import annotations

import os
from collections.abc import Collection

from simclr_tf.errors import UserError
from simclr_tf.files.json_files import parse_json

_RUN, _EXPORT, _FEATURES = "flags.json", "model.json", "job.json"
_PROJECTOR = "projector_config.pbtxt"
# Keys that such a file holds in every version so far, and in runs of the original release.
_KEYS = {
    _RUN: {"train_mode", "train_split", "image_size"},
    _EXPORT: {"simclr_tf", "architecture"},
    _FEATURES: {"data", "endpoint", "outputs", "columns"},
}
_KINDS = {_RUN: "a run", _EXPORT: "an export", _FEATURES: "unfinished features"}
_LONGEST = 1 << 20  # bytes of a settings file; another program's file may be of any size
# The pictures that a run draws into its own folder.
RUN_PICTURES = frozenset({"views.png"})


def kind_of_own(folder: str, names: Collection[str]) -> str | None:
    """Returns what one of our output folders holds, such as 'a run'; None for any other folder.

    Its content decides, not its name. Without files of the known names nothing is opened.

    Args:
        folder: the path.
        names: the names of its entries.

    Raises:
        UserError: a file that has to be read for this cannot be read.

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
        held = parse_json(content)
    except ValueError:
        # Truncated, by a power failure perhaps: a run if it has checkpoints.
        return name == _RUN and "checkpoint" in names
    return isinstance(held, dict) and _KEYS[name] <= held.keys()
