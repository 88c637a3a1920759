"""Walks a folder of images: which files and folders are data, and which are left out."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Sequence

from absl import logging

from simclr_tf.datasets.decoding import IMAGE_EXTENSIONS
from simclr_tf.datasets.own_folders import RUN_PICTURES, kind_of_own
from simclr_tf.errors import UserError

# Image formats that are not read here: reported.
_FOREIGN_EXTENSIONS = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".ico"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".orf", ".rw2"}
)

# Folders that link to each other are reached in as many ways as they can be put in order.
_MOST_LINKS = 100


def list_images(root: str, skipped: collections.Counter[str], left_out: list[str]) -> list[str]:
    """Returns the images in a folder and below it, sorted.

    Args:
        root: the folder.
        skipped: counts files that look like images but are not read, by kind.
        left_out: gets descriptions of the folders that hold a run, an export or features.
    """
    found: list[str] = []
    for _, folder, entries in _visit(root, left_out):
        found += _images(folder, entries, skipped)
    left_out.sort()
    return sorted(found)


def visited_folders(root: str) -> set[str]:
    """Returns every folder, with links resolved, whose images `read_layout` takes for data."""
    return {real for real, _, _ in _visit(root, [])}


def own_images(folder: str) -> str | None:
    """Returns the first image in or below a folder that no run drew; None if there is none.

    Args:
        folder: where a run was or will be written; the pictures that a run draws do not count.
    """
    for _, current, entries in _visit(folder, [], is_own=True):
        names = {name for name, _ in entries}
        drawn = RUN_PICTURES if kind_of_own(current, names) else frozenset()
        for name, is_folder in entries:
            if not is_folder and _is_image(name) and name not in drawn:
                return os.path.relpath(os.path.join(current, name), folder)
    return None


def left_out_line(root: str, left_out: Sequence[str]) -> str:
    """Returns the line that says which folders were left out of a folder of images."""
    count = f" ({len(left_out)} folders)" if len(left_out) > 5 else ""
    return f"Left out of '{root}', as no data: {some(left_out)}{count}."


def entries_of(folder: str) -> Iterator[tuple[str, bool]]:
    """Yields (name, is a folder) of a folder's entries, sorted by name."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry.name, entry.is_dir()) for entry in scan)
    except OSError as error:
        raise UserError(
            f"Expected a folder that can be read; received: '{folder}' "
            f"({(error.strerror or str(error)).lower()})."
        ) from error
    yield from entries


def some(names: Sequence[str], limit: int = 5) -> str:
    """Returns the first names, with dots where there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def report_skipped(root: str, skipped: collections.Counter[str]) -> None:
    """Logs what looks like images but is not read."""
    parts = [f"{count} {kind}" for kind, count in sorted(skipped.items()) if count]
    if parts:
        logging.warning("Ignored in '%s' (not read as images): %s", root, ", ".join(parts))


def _visit(
    root: str, left_out: list[str], is_own: bool = False
) -> Iterator[tuple[str, str, list[tuple[str, bool]]]]:
    """Yields every folder that may hold data: (path with links resolved, path, entries).

    Args:
        root: Where to begin.
        left_out: Gets descriptions of the folders that hold a run, an export or features.
        is_own: Whether `root` itself may hold one of these.
    """
    visits: collections.Counter[str] = collections.Counter()
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        current, above = waiting.pop()
        real = os.path.realpath(current)
        if real in above:  # a link back up
            continue
        visits[real] += 1
        if visits[real] > _MOST_LINKS:
            raise UserError(
                f"Expected at most {_MOST_LINKS} ways to a folder of images; received: links in "
                f"'{root}' that lead to '{real}' on more. Remove links that refer to each other."
            )
        entries = list(entries_of(current))
        kind = kind_of_own(current, {name for name, _ in entries})
        if kind is not None and current == root and not is_own:
            raise UserError(
                f"Expected a folder of images; received: '{root}', which holds {kind}. Name the "
                "folder of the images, or move the images out of it."
            )
        if kind is not None and current != root:
            left_out.append(_left_out(root, current, kind, entries))
            continue
        yield real, current, entries
        waiting += [
            (os.path.join(current, name), above | {real})
            for name, is_folder in entries
            if is_folder and not name.startswith(".")
        ]


def _images(
    folder: str, entries: Sequence[tuple[str, bool]], skipped: collections.Counter[str]
) -> list[str]:
    """Returns the paths of the images directly in a folder, and counts what is not read."""
    images = []
    for name, is_folder in entries:
        if is_folder:
            continue
        if name.startswith("."):
            skipped["hidden"] += _extension(name) in IMAGE_EXTENSIONS
        elif _is_image(name):
            images.append(os.path.join(folder, name))
        elif _extension(name) in _FOREIGN_EXTENSIONS:
            skipped[_extension(name)] += 1
    return images


def _left_out(root: str, folder: str, kind: str, entries: Sequence[tuple[str, bool]]) -> str:
    """Returns the words for a folder that is left out, with the number of a user's images in it."""
    images = [n for n, is_folder in entries if not is_folder and _is_image(n)]
    strange = [name for name in images if name not in RUN_PICTURES]
    text = f"{os.path.relpath(folder, root)} ({kind})"
    if strange and kind != "projector files":
        text = text.replace(")", f", and {len(strange)} images beside it)")
    return text


def _is_image(name: str) -> bool:
    return not name.startswith(".") and _extension(name) in IMAGE_EXTENSIONS


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()
