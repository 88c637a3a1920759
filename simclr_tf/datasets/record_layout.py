"""What TFRecord files hold: their images, classes and splits."""

from __future__ import annotations

import glob
import os
import re
import weakref
from typing import TypeAlias

from absl import logging

from simclr_tf.datasets.class_labels import labelled_listings
from simclr_tf.datasets.decoding import IMAGE_EXTENSIONS
from simclr_tf.datasets.folder_walk import entries_of, some
from simclr_tf.datasets.layout import OTHER_SPLIT_NAMES, TRAIN, Layout, lay_out
from simclr_tf.datasets.records import RecordFiles
from simclr_tf.datasets.table import NO_COLUMN
from simclr_tf.errors import UserError

# a.tfrecord, a.tfrecord.gz, cifar10-train.tfrecord-00000-of-00008, and, of TensorFlow's scripts
# for ImageNet, train-00000-of-01024. (A checkpoint is ckpt-4.data-00000-of-00001.)
_NAME = re.compile(r".*\.tfrec(ord)?s?(\.gz|-\d+-of-\d+)?|[\w-]+-\d{5}-of-\d{5}", re.IGNORECASE)
_SPLITS = {TRAIN: TRAIN, "test": "test", "validation": "validation", "val": "validation",
           **OTHER_SPLIT_NAMES}  # fmt: skip
_OF_TFDS = re.compile(r".+-([A-Za-z]\w*)\.tfrecord-\d+-of-\d+")
_NAMES_OF_TFDS = "label.labels.txt"
_Labelled: TypeAlias = "tuple[list[str], list[str] | None]"
# Training and evaluation read the same files: they are listed, and unpacked, once for both.
_held: weakref.WeakValueDictionary[object, RecordFiles] = weakref.WeakValueDictionary()


def is_record_file(path: str) -> bool:
    """Returns whether a file is called as TFRecord files are.

    Example:
        >>> is_record_file("train-00000-of-01024"), is_record_file("a.tfrecord.gz")
        (True, True)
    """
    return bool(_NAME.fullmatch(os.path.basename(path)))


def holds_record_files(folder: str) -> bool:
    """Returns whether TFRecord files lie directly in a folder."""
    return any(not is_folder and is_record_file(name) for name, is_folder in entries_of(folder))


def find_record_files(path: str) -> list[str]:
    """Returns the TFRecord files in a folder, of a pattern (`*`, `?`, `[...]`), or one file.

    Raises:
        UserError: There is none, or images lie beside them.

    Example:
        >>> find_record_files("shards/train-*.tfrecord")
        ['shards/train-0.tfrecord', 'shards/train-1.tfrecord']
    """
    if os.path.isdir(path):
        names = [name for name, is_folder in entries_of(path) if not is_folder]
        images = [n for n in names if os.path.splitext(n)[1].lower() in IMAGE_EXTENSIONS]
        if images:
            raise UserError(
                f"Expected either images or TFRecord files in '{path}'; received: both, such as "
                f"'{images[0]}'. Move one kind elsewhere."
            )
        paths = [os.path.join(path, name) for name in names if is_record_file(name)]
        # A link that leads nowhere is an error when it is opened; a pipe would be waited for.
        return [file for file in paths if os.path.isfile(file) or os.path.islink(file)]
    if os.path.isfile(path):
        return [path]
    found = sorted(name for name in glob.glob(path) if os.path.isfile(name))
    if not found:
        raise UserError(
            f"Expected TFRecord files; received: '{path}', which no file is called. "
            "Name a file, a pattern in quotes, or their folder."
        )
    return found


def read_record_layout(
    path: str,
    eval_fraction: float,
    seed: int,
    *,
    image_feature: str | None = None,
    label_feature: str | None = None,
) -> Layout:
    """Lists the images of TFRecord files (see `records.RecordFiles`).

    - The names of the files tell their split, where they hold the word train, validation (val,
      valid, dev) or test, or are as TFDS writes them. Otherwise, or where all are of train, a share
      of each class is held out.
    - Labels are whole numbers or words, as in a table; -1 is none. Beside files of TFDS lie their
      classes' names.

    Args:
        path: A file, a pattern, or their folder.
        eval_fraction: The share held out, between 0 and 1.
        seed: Draws which images are held out.
        image_feature: Name of the encoded image; None: `image/encoded` or `image`.
        label_feature: Name of the label; None: `image/class/label` or `label`; 'none': no labels.

    Returns:
        The layout, with the records that can't be read in `damaged`. Images are not decoded.

    Raises:
        UserError: No such file; one that can't be read; or labels of some images only.

    Example:
        >>> read_record_layout("shards", 0.1, seed=0).splits["train"].paths[0]
        'shards/train.tfrecord:0'
    """
    unlabelled = label_feature == NO_COLUMN
    listed: dict[str, tuple[list[str], list[str | None]]] = {}
    damaged: dict[str, list[tuple[str, str]]] = {}
    found = find_record_files(path)
    opener = _opened(found, image_feature, None if unlabelled else label_feature)
    for file, held in opener.files.items():
        split = _split_of(file)
        names, labels = listed.setdefault(split, ([], []))
        for number, label in enumerate(held.labels):
            name = f"{file}:{number}"
            if number in held.reasons:
                damaged.setdefault(split, []).append((name, held.reasons[number]))
                continue
            names.append(name)
            labels.append(None if unlabelled else label)
    if not any(names for names, _ in listed.values()):
        _refuse_empty(path, found, damaged)
    splits = {
        split: (names, _all_or_none(path, split, names, labels))
        for split, (names, labels) in listed.items()
    }
    known = _names_of_tfds(found[0], splits)
    if known is not None:
        of_id = dict(enumerate(known))
        splits = {
            split: (names, labels and [of_id[int(label)] for label in labels])
            for split, (names, labels) in splits.items()
        }
    listings = labelled_listings(splits, path, known)
    root = path if os.path.isdir(path) else os.path.dirname(path) or os.curdir
    layout = lay_out(root, listings, eval_fraction, seed)
    layout.damaged, layout.opener = damaged, opener
    logging.info("%s: %d files of records.", path, len(found))
    return layout


def _opened(files: list[str], image: str | None, label: str | None) -> RecordFiles:
    """Returns the records of files, the same as long as a source holds them."""
    try:
        status = [os.stat(file) for file in files]
    except OSError as error:
        raise UserError(
            f"Expected a TFRecord file that can be read; received: {error.filename} "
            f"({(error.strerror or str(error)).lower()})."
        ) from error
    signs = tuple((f, s.st_mtime_ns, s.st_size) for f, s in zip(files, status, strict=True))
    key = (os.getcwd(), signs, image, label)
    opener = _held.get(key)
    if opener is None:
        opener = _held[key] = RecordFiles(files, image, label)
    return opener


def _split_of(file: str) -> str:
    name = os.path.basename(file)
    words = re.split(r"[^a-z]+", name.lower())
    found = [_SPLITS[word] for word in words if word in _SPLITS]
    if found:
        return found[-1]
    of_tfds = _OF_TFDS.fullmatch(name)
    return of_tfds[1] if of_tfds else TRAIN


def _all_or_none(
    path: str, split: str, names: list[str], labels: list[str | None]
) -> list[str] | None:
    given = [label for label in labels if label is not None]
    if given and len(given) < len(labels):
        first = names[labels.index(None)]
        raise UserError(
            f"Expected a label in every record of split {split} of '{path}', or in none; received: "
            f"{len(labels) - len(given)} of {len(labels)} without, the first being '{first}'. "
            f"Write them again, or pass --label_column={NO_COLUMN}."
        )
    return given or None


def _names_of_tfds(file: str, splits: dict[str, _Labelled]) -> list[str] | None:
    """Returns the names of all classes in the order of their ids; None where they aren't known, or
    records have other labels than these ids.
    """
    path = os.path.join(os.path.dirname(file), _NAMES_OF_TFDS)
    try:
        with open(path, encoding="utf-8") as lines:
            names = lines.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    ids = {str(number) for number in range(len(names))}
    found = {label for _, labels in splits.values() for label in labels or ()}
    return names if found <= ids and len(set(names)) == len(names) else None


def _refuse_empty(path: str, files: list[str], damaged: dict[str, list[tuple[str, str]]]) -> None:
    bad = [item for items in damaged.values() for item in items]
    what = (
        f"none, and {len(bad)} damaged, the first being '{bad[0][0]}' ({bad[0][1]})"
        if bad
        else "none"
    )
    raise UserError(
        f"Expected records of images in '{path}' ({some([os.path.basename(f) for f in files])}); "
        f"received: {what}."
    )
