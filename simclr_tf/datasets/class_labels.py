"""Labels as people write them, words or numbers -> class ids and names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from simclr_tf.datasets.folder_walk import some
from simclr_tf.datasets.layout import TRAIN, Listing
from simclr_tf.errors import UserError

_INTEGER = re.compile(r"[+-]?\d+")


def class_order(labels: Sequence[str]) -> list[str]:
    """Returns the distinct labels in the order of their ids: whole numbers by size, else by name.

    So labels 0 to C - 1 are their own ids, and words have the ids that folders of these names get.

    Args:
        labels: One text an image.

    Example:
        >>> class_order(["10", "9", "10"]), class_order(["dog", "cat"])
        (['9', '10'], ['cat', 'dog'])
    """
    distinct = set(labels)
    if all(_INTEGER.fullmatch(label) for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def labelled_listings(
    splits: Mapping[str, tuple[list[str], list[str] | None]],
    of: str,
    names: Sequence[str] | None = None,
) -> dict[str, Listing]:
    """Gives the labels of every split class ids: those of 'train', where there is such a split.

    Args:
        splits: Split name -> its files and their labels, None for a split without labels.
        of: Whose they are, for messages.
        names: Every class in the order of ids, where that is known.

    Returns:
        Split name -> listing.

    Raises:
        UserError: A split has a class that 'train' lacks.

    Example:
        >>> labelled_listings({"train": (["a.png"], ["cat"])}, "pets.csv")["train"].class_names
        ['cat']
    """
    if names is None:
        of_train = splits.get(TRAIN, ([], None))[1]
        every = [label for _, labels in splits.values() for label in labels or ()]
        names = class_order(of_train if of_train is not None else every)
    ids = {name: number for number, name in enumerate(names)}
    listings = {}
    for split, (paths, labels) in splits.items():
        if labels is None:
            listings[split] = Listing(paths, None, None)
            continue
        unknown = sorted(set(labels) - ids.keys())
        if unknown:
            raise UserError(
                f"Expected the labels of split {split} of '{of}' to be those of its split train "
                f"({some(names)}); received: {some(unknown)}, which the latter lacks. "
                "Change the labels or the splits."
            )
        listings[split] = Listing(paths, [ids[label] for label in labels], list(names))
    return listings
