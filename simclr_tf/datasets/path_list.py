"""Folders and files of images, listed in a text file or on the command line."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from absl import logging

from simclr_tf.datasets.folder_layout import list_splits
from simclr_tf.datasets.folder_walk import some
from simclr_tf.datasets.layout import EVALUATION, TRAIN, Layout, Listing, lay_out
from simclr_tf.errors import UserError

LIST_EXTENSION = ".txt"
_TEST = "test"


def read_list(path: str, root: str | None = None) -> list[str]:
    """Returns the paths that a text file lists, one a line; lines that begin with # are comments.

    Args:
        path: The list, UTF-8.
        root: The folder of its relative paths; None: the list's own.

    Raises:
        UserError: It can't be read, or lists nothing.

    Example:
        >>> read_list("lists/images.txt")
        ['lists/photos', '/data/cat.jpg']
    """
    root = os.path.expanduser(root) if root else os.path.dirname(path) or os.curdir
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may wait for ever
        raise UserError(
            f"Expected a list of images and folders; received: {path}, which is no regular file."
        )
    try:
        # File names may hold bytes that are not UTF-8.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise UserError(
            f"Expected a list of images and folders; received: {path}, which can't be read "
            f"({(error.strerror or str(error)).lower()})."
        ) from error
    found = [line for line in lines if line and not line.startswith("#")]
    if any("\0" in line for line in found):
        raise UserError(
            f"Expected a list of images and folders in text, UTF-8; received: {path}, which is "
            "none. Name folders, or save it as UTF-8."
        )
    if not found:
        raise UserError(
            f"Expected a path in each line of {path}; received: none. Add images or folders."
        )
    return [os.path.join(root, os.path.expanduser(line)) for line in found]


def lay_out_paths(
    paths: Sequence[str], named: str, eval_fraction: float, seed: int, *, root: str | None = None
) -> Layout:
    """Lists the images of several folders and files.

    - Each folder is read as if it were alone (`folder_layout.read_layout`), and the same of its
      files are held out: pretraining on several and fine-tuning on one of them mix nothing. A
      folder's only evaluation split counts as 'test'.
    - Labels are those of the class folders, where all that is listed are folders and each has
      class folders of the same names; otherwise there are none.
    - Of the files that are listed one by one a share is held out.

    Args:
        paths: Folders and files; what is no folder counts as a file.
        named: What the list is called in messages.
        eval_fraction: The share held out, between 0 and 1.
        seed: Draws which files are held out.
        root: The folder that files are named below; None: the deepest that holds them all.

    Returns:
        The layout. Its images are not opened.

    Raises:
        UserError: As `read_layout`; or a folder lies in another one.

    Example:
        >>> lay_out_paths(["2023", "2024"], "2023,2024", 0.1, seed=0).splits["train"].class_names
        ['beach', 'city']
    """
    folders = [path for path in dict.fromkeys(paths) if os.path.isdir(path)]
    files = [path for path in dict.fromkeys(paths) if not os.path.isdir(path)]
    _require_apart(folders, named)
    left_out: list[str] = []
    layouts = []
    for folder in folders:
        in_folder: list[str] = []
        layouts.append(lay_out(folder, list_splits(folder, in_folder), eval_fraction, seed))
        left_out += [os.path.join(folder, words) for words in in_folder]
    listings = [item for layout in layouts for item in layout.splits.values()]
    known = {os.path.abspath(path) for item in listings for path in item.paths}
    single = {os.path.abspath(path): path for path in files}
    files = [path for place, path in single.items() if place not in known]
    if files:  # drawn by their names as they are written
        listing = Listing(files, None, None)
        layouts.append(lay_out(root or "", {TRAIN: listing}, eval_fraction, seed))
    root = root or _common([*folders, *files])
    result = lay_out(root, _joined(layouts, named), eval_fraction, seed)
    result.left_out = left_out
    return result


def _require_apart(folders: Sequence[str], named: str) -> None:
    real = sorted((os.path.join(os.path.realpath(folder), ""), folder) for folder in folders)
    for (outer, holder), (inner, held) in itertools.pairwise(real):
        if inner.startswith(outer):
            raise UserError(
                f"Expected folders apart from each other in {named}; received: '{held}', which "
                f"lies in '{holder}' or is the same. Leave it out."
            )


def _common(paths: Sequence[str]) -> str:
    """Returns the deepest folder that holds all paths; a folder holds itself."""
    places = [path if os.path.isdir(path) else os.path.dirname(path) for path in paths]
    return os.path.commonpath([os.path.abspath(place) for place in places])


def _joined(layouts: Sequence[Layout], named: str) -> dict[str, Listing]:
    """Returns the splits of several layouts as one data set's."""
    parts = [{_name(split, lay): item for split, item in lay.splits.items()} for lay in layouts]
    names = [item.class_names for part in parts for item in part.values()]
    labelled = names[0] is not None and all(other == names[0] for other in names)
    if not labelled and any(other is not None for other in names):
        kinds = {", ".join(other[:3]) if other else "no class folders" for other in names}
        logging.warning(
            "%s has no labels: not all that is listed has class folders of the same names (%s).",
            named, some([f"'{kind}'" for kind in sorted(kinds)], 3),
        )  # fmt: skip
    joined = {}
    for split in dict.fromkeys(name for part in parts for name in part):
        listings = [part[split] for part in parts if split in part]
        joined[split] = Listing(
            [path for item in listings for path in item.paths],
            [label for item in listings for label in item.labels or ()] if labelled else None,
            names[0] if labelled else None,
        )
    return joined


def _name(split: str, layout: Layout) -> str:
    evaluation = [name for name in layout.splits if name in EVALUATION]
    return _TEST if evaluation == [split] else split
