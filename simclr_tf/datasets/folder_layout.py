"""What a folder of images holds: its files, classes and splits. Reads names only."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

from absl import logging

from simclr_tf.datasets.decoding import IMAGE_EXTENSIONS
from simclr_tf.datasets.folder_walk import entries_of, list_images, report_skipped, some
from simclr_tf.datasets.layout import EVALUATION, TRAIN, Layout, Listing, lay_out
from simclr_tf.errors import UserError


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
      all their content: the pictures that a run draws are not data.

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
    left_out: list[str] = []
    layout = lay_out(root, list_splits(root, left_out), eval_fraction, seed)
    layout.left_out = left_out
    return layout


def list_splits(root: str, left_out: list[str]) -> dict[str, Listing]:
    """Returns the listing of every split folder, or of 'train' alone where there is none.

    Args:
        root: the folder.
        left_out: gets descriptions of the folders that hold a run, an export or features.

    Raises:
        UserError: as `read_layout`.
    """
    if not os.path.exists(root):
        raise UserError(
            f"Expected a folder of images; received: '{root}', which does not exist. "
            "Pass --dataset=/path/to/images, mnist_5k or a TensorFlow Datasets name."
        )
    if not os.path.isdir(root):
        raise UserError(f"Expected a folder of images; received: '{root}', which is a file.")
    skipped: collections.Counter[str] = collections.Counter()
    images, contents = _group(root, list_images(root, skipped, left_out))
    listings = _by_split_folder(root, images, contents)
    if listings is None:
        listings = {TRAIN: _listing(root, images, contents)}
    report_skipped(root, skipped)
    if not any(listing.paths for listing in listings.values()):
        besides = f" beside {some(left_out)}" if left_out else ""
        raise UserError(
            f"Expected images ({', '.join(sorted(IMAGE_EXTENSIONS))}) in '{root}'; "
            f"received: none{besides}."
        )
    return listings


def _by_split_folder(
    root: str, images: Sequence[str], contents: dict[str, list[str]]
) -> dict[str, Listing] | None:
    """Returns the listing of every split folder, or None where the folders are classes."""
    known = {TRAIN, *EVALUATION}
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
    for name, is_folder in entries_of(folder):
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
                    f"'{os.path.join(root, TRAIN)}' ({some(train.class_names)}); "
                    f"received: {some(unknown)}, which the latter lacks. Rename or move them."
                )
            missing = sorted(set(train.class_names) - set(listing.class_names))
            if missing:
                logging.warning("No images in split %s for classes: %s", split, some(missing))
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
            f"{some(sorted(classes))}). Move the images into a class folder or elsewhere."
        )
    if not classes:
        return Listing(list(images), None, None)
    names = sorted(classes)
    paths = [path for name in names for path in classes[name]]
    labels = [label for label, name in enumerate(names) for _ in classes[name]]
    return Listing(paths, labels, names)
