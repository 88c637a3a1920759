"""What every kind of image files gives before one is opened: files, classes and splits."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simclr_tf.datasets.splits import resolve_split
from simclr_tf.errors import UserError

if TYPE_CHECKING:
    from simclr_tf.datasets.records import RecordFiles

TRAIN = "train"
# Which split answers to which name of an evaluation split, best first.
EVALUATION = {
    "validation": ("validation", "val", "test"),
    "val": ("val", "validation", "test"),
    "test": ("test", "validation", "val"),
}
# Other words for these, in tables and in the names of files.
OTHER_SPLIT_NAMES = {
    "training": TRAIN, "valid": "validation", "dev": "validation", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The images of one split, in an order such that every slice is stratified.

    Attributes:
        paths: the files, or the names of records in files (`records.Records`).
        labels: class ids, or None without labels.
        class_names: names by class id, or None.
    """

    paths: list[str]
    labels: list[int] | None
    class_names: list[str] | None


@dataclass
class Layout:
    """The splits of a data set.

    Attributes:
        root: the folder that files are named below.
        splits: listing by split name.
        aliases: other names of the evaluation splits -> name in `splits`.
        left_out: folders below it that hold a run, an export or features, in words.
        described_by: files that say which images there are: a table, a list.
        damaged: (name, reason) of what is known to be unreadable, by split name; not in `splits`.
        opener: opens images that are no files of their own; None: all are.
    """

    root: str
    splits: dict[str, Listing]
    aliases: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    described_by: list[str] = field(default_factory=list)
    damaged: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    opener: RecordFiles | None = None


def lay_out(root: str, listings: Mapping[str, Listing], eval_fraction: float, seed: int) -> Layout:
    """Holds out a share where there is no evaluation split, and orders the files of each.

    Which files are held out depends on their names and the seed only, so adding files moves few
    others.

    Args:
        root: the folder that files are named below.
        listings: listing by split name, in any order of files.
        eval_fraction: the share of each class that is held out as 'test' where there is only
            'train', between 0 and 1.
        seed: draws which files are held out.

    Returns:
        The layout; 'test', 'val' and 'validation' all find the one that exists.

    Raises:
        UserError: `eval_fraction` is out of its range.

    Example:
        >>> listing = Listing([f"/data/{i}.png" for i in range(10)], None, None)
        >>> sorted(lay_out("/data", {"train": listing}, 0.1, seed=0).splits)
        ['test', 'train']
    """
    splits = dict(listings)
    if set(splits) == {TRAIN}:
        splits = _hold_out(root, splits[TRAIN], eval_fraction, seed)
    aliases = {}
    for alias, candidates in EVALUATION.items():
        found = next((name for name in candidates if name in splits), None)
        if found is not None and alias not in splits:
            aliases[alias] = found
    return Layout(root, {n: _interleaved(root, item) for n, item in splits.items()}, aliases)


def select(layout: Layout, name: str, split: str) -> tuple[Listing, list[tuple[str, str]]]:
    """Returns the images of a split expression, and (name, reason) of its unreadable ones.

    Args:
        layout: The splits.
        name: The data set as the user names it, for messages.
        split: A split expression (see `splits.resolve_split`).

    Raises:
        UserError: The split is unknown or selects nothing, or joins images with labels to others
            without.

    Example:
        >>> select(read_layout("photos", 0.1, 0), "photos", "train[:80%]")[0].labels
    """
    sizes = {part: len(listing.paths) for part, listing in layout.splits.items()}
    ranges = resolve_split(split, sizes, dataset=name, aliases=layout.aliases)
    parts = [layout.splits[r.name] for r in ranges]
    if len({part.labels is None for part in parts}) > 1:
        raise UserError(
            f"Expected splits that all have labels, or none; received: '{split}' of "
            f"'{name}', some with and some without."
        )
    paths = [path for r, p in zip(ranges, parts, strict=True) for path in p.paths[r.start : r.stop]]
    labels = None
    if parts[0].labels is not None:
        labels = []
        for r, part in zip(ranges, parts, strict=True):
            labels += (part.labels or [])[r.start : r.stop]
    damaged = [item for part in {r.name for r in ranges} for item in layout.damaged.get(part, ())]
    return Listing(paths, labels, parts[0].class_names), damaged


def _hold_out(root: str, listing: Listing, eval_fraction: float, seed: int) -> dict[str, Listing]:
    """Splits off a share of each class as 'test', at least one image of a class of two or more."""
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
    """Orders files so that every slice has about the class shares of the whole."""
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
    """Returns a random-looking sort key that depends on the seed and the name below `root` only.

    A path outside of `root` (a table may name it) counts as it is written.
    """
    start = os.path.join(root, "")
    name = path[len(start) :] if path.startswith(start) else path
    written = os.fsencode(name.replace(os.sep, "/"))
    return hashlib.sha1(b"%d:%s" % (seed, written)).digest()
