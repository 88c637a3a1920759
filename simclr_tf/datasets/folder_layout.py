"""What a folder of images holds: which files, which classes, which splits. Reads names only."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from absl import logging

from simclr_tf.datasets.decoding import IMAGE_EXTENSIONS
from simclr_tf.datasets.own_folders import RUN_PICTURES, kind_of_own
from simclr_tf.errors import UserError

TRAIN = "train"
# Which folder answers to which name of an evaluation split, best first.
_EVALUATION = {
    "validation": ("validation", "val", "test"),
    "val": ("val", "validation", "test"),
    "test": ("test", "validation", "val"),
}
# Formats that a person would call images, but that are not read here: worth a line.
_FOREIGN_EXTENSIONS = frozenset(
    {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".ico"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".orf", ".rw2"}
)


@dataclass(frozen=True)
class Listing:
    """The image files of one split, in an order of which every slice is stratified.

    Attributes:
        paths: the files.
        labels: class ids, or None without class folders.
        class_names: names by class id, or None.
    """

    paths: list[str]
    labels: list[int] | None
    class_names: list[str] | None


@dataclass
class Layout:
    """The splits of a folder.

    Attributes:
        splits: listing by split name.
        aliases: other names of the evaluation splits -> name in `splits`.
        left_out: folders below it that hold a run, an export or features.
    """

    splits: dict[str, Listing]
    aliases: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read_layout(root: str, eval_fraction: float, seed: int) -> Layout:
    """Lists a folder of images.

    - Sub-folders that hold images are classes, in the order of their sorted names; deeper folders
      belong to the class above them. Without sub-folders the images have no labels.
    - `train/` with or without `test/`, `val/` or `validation/` at the top are splits, and their
      sub-folders the classes. 'test', 'val' and 'validation' all find the one that exists.
    - Without an evaluation folder, a share of each class is held out as 'test'. Which files are
      held out depends on their names and the seed only, so adding files moves few others.
    - Names that begin with a dot are ignored. Links are followed.
    - Folders that hold a run, an export or features (`own_folders.kind_of_own`) are left out, with
      all that is in them: the pictures that a run draws are no data.

    Args:
        root: the folder.
        eval_fraction: the share held out, between 0 and 1.
        seed: draws which files are held out.

    Returns:
        The layout. Its files are not opened.

    Raises:
        UserError: the folder is missing, unreadable, empty or one of a run; images lie beside
            class folders; or an evaluation folder has classes that `train/` lacks.

    Example:
        >>> read_layout("/data/flowers", eval_fraction=0.1, seed=0).splits["train"].class_names
        ['daisy', 'rose']
    """
    if not os.path.exists(root):
        raise UserError(
            f"Expected a folder of images; received: '{root}', which does not exist. "
            "Pass --dataset=/path/to/images, mnist_5k or a TensorFlow Datasets name."
        )
    if not os.path.isdir(root):
        raise UserError(f"Expected a folder of images; received: '{root}', which is a file.")
    skipped: collections.Counter[str] = collections.Counter()
    left_out: list[str] = []
    images, contents = _group(root, _walk(root, skipped, left_out))
    listings = _by_split_folder(root, images, contents)
    if listings is None:
        listings = {TRAIN: _listing(root, images, contents)}
    _report(root, skipped)
    if not any(listing.paths for listing in listings.values()):
        besides = f" beside {_some(left_out)}" if left_out else ""
        raise UserError(
            f"Expected images ({', '.join(sorted(IMAGE_EXTENSIONS))}) in '{root}'; "
            f"received: none{besides}."
        )
    if set(listings) == {TRAIN}:
        listings = _hold_out(root, listings[TRAIN], eval_fraction, seed)
    aliases = {}
    for alias, candidates in _EVALUATION.items():
        found = next((name for name in candidates if name in listings), None)
        if found is not None and alias not in listings:
            aliases[alias] = found
    listings = {name: _interleaved(root, item) for name, item in listings.items()}
    return Layout(listings, aliases, left_out)


def visited_folders(root: str) -> set[str]:
    """Returns every folder, without links, whose images `read_layout` takes for data."""
    return {real for real, _, _ in _visit(root, [])}


def own_images(folder: str) -> str | None:
    """Returns the first image in a folder or below it that no run of ours drew; None without.

    Args:
        folder: where a run was or will be written; the pictures of a run in it do not count.
    """
    for _, current, entries in _visit(folder, [], is_own=True):
        names = {name for name, _ in entries}
        drawn = RUN_PICTURES if kind_of_own(current, names) else frozenset()
        for name, is_folder in entries:
            if not is_folder and _is_image(name) and name not in drawn:
                return os.path.relpath(os.path.join(current, name), folder)
    return None


def _by_split_folder(
    root: str, images: Sequence[str], contents: dict[str, list[str]]
) -> dict[str, Listing] | None:
    """Returns the listing of every split folder, or None where the folders are classes."""
    known = {TRAIN, *_EVALUATION}
    folders = [name for name in contents if name.lower() in known]
    others = [name for name in contents if name.lower() not in known]
    splits = {name.lower(): name for name in folders}
    if len(splits) < len(folders):
        raise UserError(f"Expected one folder for each split in '{root}'; received: {folders}.")
    # A class may be called 'train' (and another 'bus'): then there is no evaluation folder.
    if not splits or (others and not (TRAIN in splits and len(splits) > 1)):
        if splits:
            logging.warning(
                "Folders %s of '%s' are taken as classes, because %s lie beside them.",
                folders, root, others[:3],
            )  # fmt: skip
        return None
    if images or others:
        logging.warning(
            "Ignored in '%s', beside the split folders %s: folders %s and %d images.",
            root, folders, others, len(images),
        )  # fmt: skip
    paths = {split: os.path.join(root, name) for split, name in splits.items()}
    return _with_train_classes(
        root,
        {
            split: _listing(folder, *_group(folder, contents[splits[split]]))
            for split, folder in paths.items()
        },
    )


def _group(folder: str, paths: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Separates the images directly in a folder from those in each of its sub-folders."""
    direct: list[str] = []
    contents: dict[str, list[str]] = collections.defaultdict(list)
    for path in paths:
        first, _, rest = path[len(folder) :].lstrip(os.sep).partition(os.sep)
        (contents[first] if rest else direct).append(path)
    for name, is_folder in _entries(folder):
        if is_folder and not name.startswith(".") and name not in contents:
            logging.info("Ignored '%s': no images in it.", os.path.join(folder, name))
    return direct, dict(contents)


def _with_train_classes(root: str, listings: dict[str, Listing]) -> dict[str, Listing]:
    """Gives evaluation splits the class ids of the training split."""
    train = listings.get(TRAIN)
    if train is None or train.class_names is None:
        return listings
    result = {}
    for split, listing in listings.items():
        if listing.class_names is not None:
            unknown = sorted(set(listing.class_names) - set(train.class_names))
            if unknown:
                raise UserError(
                    f"Expected the class folders of '{os.path.join(root, split)}' to be those of "
                    f"'{os.path.join(root, TRAIN)}' ({_some(train.class_names)}); "
                    f"received: {_some(unknown)}, which the latter lacks. Rename or move them."
                )
            missing = sorted(set(train.class_names) - set(listing.class_names))
            if missing:
                logging.warning("No images in split %s for classes: %s", split, _some(missing))
            new_id = {
                old: train.class_names.index(name) for old, name in enumerate(listing.class_names)
            }
            labels = [new_id[label] for label in listing.labels or []]
            listing = Listing(listing.paths, labels, train.class_names)
        result[split] = listing
    return result


def _listing(folder: str, images: Sequence[str], classes: dict[str, list[str]]) -> Listing:
    if classes and images:
        raise UserError(
            f"Expected either images or class folders in '{folder}'; received: both "
            f"({len(images)} images such as '{os.path.basename(images[0])}' beside "
            f"{_some(sorted(classes))}). Move the images into a class folder or elsewhere."
        )
    if not classes:
        return Listing(list(images), None, None)
    names = sorted(classes)
    paths = [path for name in names for path in classes[name]]
    labels = [label for label, name in enumerate(names) for _ in classes[name]]
    return Listing(paths, labels, names)


def _hold_out(root: str, listing: Listing, eval_fraction: float, seed: int) -> dict[str, Listing]:
    """Splits off a share of each class as 'test'; a class of two or more gives at least one."""
    if not 0 < eval_fraction < 1:
        raise UserError(
            f"Expected eval_fraction between 0 and 1; received: {eval_fraction}. It is the share "
            f"of '{root}' that is held out for evaluation."
        )
    chosen: dict[str, list[int]] = {TRAIN: [], "test": []}
    for members in _members_by_class(listing):
        members = sorted(members, key=lambda i: _draw(root, listing.paths[i], seed))
        held = max(1, round(len(members) * eval_fraction)) if len(members) > 1 else 0
        held = min(held, len(members) - 1)
        chosen["test"] += members[:held]
        chosen[TRAIN] += members[held:]
    return {name: _select(listing, indices) for name, indices in chosen.items()}


def _interleaved(root: str, listing: Listing) -> Listing:
    """Orders files so that every slice has about the classes' shares of the whole."""
    positions = []
    for members in _members_by_class(listing):
        members = sorted(members, key=lambda i: _draw(root, listing.paths[i], 0))
        positions += [((rank + 0.5) / len(members), i) for rank, i in enumerate(members)]
    return _select(listing, [i for _, i in sorted(positions)])


def _members_by_class(listing: Listing) -> list[list[int]]:
    members: dict[int, list[int]] = collections.defaultdict(list)
    for i in range(len(listing.paths)):
        members[listing.labels[i] if listing.labels is not None else 0].append(i)
    return [members[label] for label in sorted(members)]


def _select(listing: Listing, indices: Sequence[int]) -> Listing:
    labels = listing.labels
    return Listing(
        [listing.paths[i] for i in indices],
        None if labels is None else [labels[i] for i in indices],
        listing.class_names,
    )


def _draw(root: str, path: str, seed: int) -> bytes:
    """Returns a random-looking sort key that depends on the seed and the relative path only."""
    relative = os.fsencode(os.path.relpath(path, root).replace(os.sep, "/"))
    return hashlib.sha1(b"%d:%s" % (seed, relative)).digest()


def _images(
    folder: str, entries: Sequence[tuple[str, bool]], skipped: collections.Counter[str]
) -> list[str]:
    """Returns the paths of the images directly in a folder; counts what looks like one."""
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


def _walk(root: str, skipped: collections.Counter[str], left_out: list[str]) -> list[str]:
    """Returns the images in a folder and below it."""
    found: list[str] = []
    for _, folder, entries in _visit(root, left_out):
        found += _images(folder, entries, skipped)
    left_out.sort()
    return sorted(found)


def _visit(
    root: str, left_out: list[str], is_own: bool = False
) -> Iterator[tuple[str, str, list[tuple[str, bool]]]]:
    """Yields every folder that may hold data: (path without links, path, entries).

    Args:
        root: Where to begin.
        left_out: Gets the folders that hold something of ours, in words.
        is_own: Whether `root` may hold something of ours.
    """
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        current, above = waiting.pop()
        real = os.path.realpath(current)
        if real in above:  # a link back up
            continue
        entries = list(_entries(current))
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


def _left_out(root: str, folder: str, kind: str, entries: Sequence[tuple[str, bool]]) -> str:
    """Returns the words for a folder that is left out; images in it that no run drew are told."""
    images = [n for n, is_folder in entries if not is_folder and _is_image(n)]
    strange = [name for name in images if name not in RUN_PICTURES]
    text = f"{os.path.relpath(folder, root)} ({kind})"
    if strange and kind != "projector files":
        text = text.replace(")", f", and {len(strange)} images beside it)")
    return text


def _is_image(name: str) -> bool:
    return not name.startswith(".") and _extension(name) in IMAGE_EXTENSIONS


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
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


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def left_out_line(root: str, left_out: Sequence[str]) -> str:
    """Returns the line that says which folders were left out of a folder of images."""
    count = f" ({len(left_out)} folders)" if len(left_out) > 5 else ""
    return f"Left out of '{root}', as no data: {_some(left_out)}{count}."


def _report(root: str, skipped: collections.Counter[str]) -> None:
    parts = [f"{count} {kind}" for kind, count in sorted(skipped.items()) if count]
    if parts:
        logging.warning("Ignored in '%s' (not read as images): %s", root, ", ".join(parts))
