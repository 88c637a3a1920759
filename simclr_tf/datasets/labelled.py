"""A share of the labels: which images keep theirs, drawn by class, and the file that lists them."""

from __future__ import annotations

import csv
import io
import os

import numpy as np

from simclr_tf.datasets.source import ImageSource
from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import new_file

LIST_FILE = "labelled_images.csv"
_COLUMNS = ("position", "file", "label", "class")


def choose_labelled(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draws the same share of every class, at least one image each.

    With the same seed a larger share contains the smaller one: the images of 1% are among those of
    10%.

    Args:
        labels: Class ids (N,).
        fraction: Share of each class, in (0, 1]; rounded to the nearest number of images.
        seed: Draws the order in which a class's images are taken.

    Returns:
        int64 (n,), ascending positions in `labels`.

    Source: SimCLR section 6 and SimCLRv2 section 3.1: class-balanced 1% and 10% of ImageNet.

    Example:
        >>> choose_labelled(np.array([0, 0, 0, 0, 1, 1]), 0.5, seed=0).shape
        (3,)
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.RandomState((seed, int(label))).permutation(members)
        chosen.append(order[: max(1, int(fraction * len(members) + 0.5))])
    return np.sort(np.concatenate(chosen))


def long_tailed(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Draws a long-tailed part of a data set: each class has fewer images than the one before.

    Class c of C keeps n r^(-c / (C - 1)) images, n being those of the largest class: the first
    keeps all, the last 1 / r of them; at least one each, and no more than there are.

    Args:
        labels: Class ids (N,).
        ratio: r, at least 1, of the first class's images to the last's.
        seed: Draws which images.

    Returns:
        int64 (n,), ascending positions in `labels`.

    Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples" (arXiv
    1901.05555), section 5.1.

    Example:
        >>> len(long_tailed(np.repeat([0, 1, 2], 100), 100, seed=0))
        111
    """
    classes, counts = np.unique(labels, return_counts=True)
    chosen = []
    for rank, (label, count) in enumerate(zip(classes, counts, strict=True)):
        share = ratio ** (-rank / max(len(classes) - 1, 1))
        order = np.random.RandomState((seed, int(label))).permutation(count)
        kept = order[: max(1, int(counts.max() * share + 0.5))]
        chosen.append(np.flatnonzero(labels == label)[kept])
    return np.sort(np.concatenate(chosen))


def find_labelled(
    source: ImageSource, fraction: float, seed: int, path: str, check: bool = True
) -> np.ndarray:
    """Returns the positions of the labelled images: those in the list, else freshly drawn ones.

    Args:
        source: A labelled source.
        fraction: As for `choose_labelled`.
        seed: As for `choose_labelled`.
        path: The list; an existing one is used as it is.
        check: Whether the labels in the list are compared with the source's.

    Returns:
        int64 (n,), ascending positions in the source's fixed order.

    Raises:
        UserError: The list is damaged, or lists other images.

    Example:
        >>> find_labelled(open_source("mnist_5k", "train"), 0.01, 0, "run/labelled_images.csv")
    """
    if not os.path.exists(path):
        return choose_labelled(source.read_labels(), fraction, seed)
    positions, labels = _read_list(source, path)
    if check and not np.array_equal(source.read_labels()[positions], labels):
        raise _misfit(path, source, "another label for some image")
    return positions


def write_labelled(source: ImageSource, positions: np.ndarray, path: str) -> None:
    """Writes the list of labelled images, complete or not at all; an existing one is kept.

    Args:
        source: The source that `positions` refer to.
        positions: int64 (n,).
        path: CSV file: `position` (in the split, from 0), `file` (below the data set's folder;
            empty where images are not files), `label` (class id) and `class` (its name).
    """
    if os.path.exists(path):
        return
    labels = source.read_labels()[positions]
    files, names = source.file_names(), source.class_names
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for position, label in zip(positions, labels, strict=True):
        file = files[position] if files is not None else ""
        writer.writerow([position, file, label, names[label] if names is not None else ""])
    # File names may hold bytes that are not UTF-8.
    encoded = text.getvalue().encode("utf-8", "surrogateescape")
    with new_file(path) as partial, open(partial, "wb") as target:
        target.write(encoded)


def _read_list(source: ImageSource, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions and labels; files are found by name, at whatever position they are now."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(_COLUMNS) - set(reader.fieldnames or ())
            rows = list(reader)
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        labels = [int(row["label"]) for row in rows]
        files = [row["file"] for row in rows]
        positions = [int(row["position"]) for row in rows]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"Expected a list of labelled images in {path}, with columns {', '.join(_COLUMNS)}; "
            f"it can't be read ({type(error).__name__}: {error}). Fix or remove it."
        ) from error
    known = source.file_names()
    if known is not None:
        places = {name: position for position, name in enumerate(known)}
        lost = [name for name in files if name not in places]
        if lost:
            raise _misfit(path, source, f"no {lost[0]!r} (of {len(lost)} missing)")
        positions = [places[name] for name in files]
    order = np.argsort(np.array(positions, np.int64), kind="stable")
    found = np.array(positions, np.int64)[order]
    if not len(found) or len(np.unique(found)) < len(found):
        raise _misfit(path, source, "no image, or one twice")
    if found[0] < 0 or found[-1] >= source.num_examples:
        raise _misfit(path, source, f"{source.num_examples} images only")
    return found, np.array(labels, np.int64)[order]


def _misfit(path: str, source: ImageSource, received: str) -> UserError:
    return UserError(
        f"Expected the images that {path} lists in split {source.split} of '{source.name}'; "
        f"received: {received}. Use the data as they were, or another --model_dir."
    )
