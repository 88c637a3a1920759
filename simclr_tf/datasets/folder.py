"""A user's folder of images as a source."""

from __future__ import annotations

import copy
import os
from concurrent import futures

import numpy as np
import tensorflow as tf
from absl import logging

from simclr_tf.datasets import decoding
from simclr_tf.datasets.folder_layout import read_layout
from simclr_tf.datasets.folder_walk import left_out_line
from simclr_tf.datasets.positions import only_at
from simclr_tf.datasets.source import IndexedSource
from simclr_tf.datasets.splits import resolve_split
from simclr_tf.errors import UserError
from simclr_tf.images import transparency

_ON_BAD_IMAGE = ("skip", "fail")


def open_folder(
    folder: str,
    split: str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    on_bad_image: str = "skip",
    transparent: str = transparency.DEFAULT,
) -> FolderSource:
    """Opens a folder of JPEG, PNG, WebP, BMP and GIF files (see `folder_layout.read_layout`).

    Every file of the split has its header and its end checked here, in parallel, so that broken
    ones are known before training starts.

    Args:
        folder: the path; `~` is the home folder.
        split: a split expression.
        eval_fraction: share held out for 'test' where there is no evaluation folder.
        seed: draws which files are held out.
        on_bad_image: 'skip' names, counts and skips unreadable files; 'fail' stops.
        transparent: what shows through transparent pixels: white, black, keep or mean (see
            `transparency.composite`).

    Returns:
        A source with labels if there are class folders.

    Raises:
        UserError: see `read_layout`; or no file, or none of a class, can be read; or one cannot
            and `on_bad_image` is 'fail'.

    Example:
        >>> open_folder("~/photos", "train").num_classes is None
        True
    """
    if on_bad_image not in _ON_BAD_IMAGE:
        raise UserError(
            f"Expected on_bad_image to be one of {', '.join(_ON_BAD_IMAGE)}; "
            f"received: '{on_bad_image}'."
        )
    transparency.check_transparent(transparent)
    root = os.path.expanduser(folder)
    layout = read_layout(root, eval_fraction, seed)
    if layout.left_out:
        logging.info("%s", left_out_line(folder, layout.left_out))
    sizes = {name: len(listing.paths) for name, listing in layout.splits.items()}
    ranges = resolve_split(split, sizes, dataset=folder, aliases=layout.aliases)
    parts = [layout.splits[r.name] for r in ranges]
    if len({part.labels is None for part in parts}) > 1:
        raise UserError(
            f"Expected splits that all have class folders, or none; received: '{split}' of "
            f"'{folder}', some with and some without."
        )
    paths = [path for r, p in zip(ranges, parts, strict=True) for path in p.paths[r.start : r.stop]]
    labels = None
    if parts[0].labels is not None:
        labels = []
        for r, part in zip(ranges, parts, strict=True):
            labels += (part.labels or [])[r.start : r.stop]
    source = FolderSource(
        paths,
        labels,
        name=folder,
        split=split,
        class_names=parts[0].class_names,
        on_bad_image=on_bad_image,
        transparent=transparent,
    )
    source.left_out = layout.left_out
    return source


class FolderSource(IndexedSource):
    """Image files by index, decoded by Pillow when their turn comes.

    A file that passed the check but fails to decode is named and counted too. In evaluation it is
    left out; in training the next readable file takes its place (`replace_bad`).

    Attributes:
        paths: the readable files, by index.
    """

    num_examples: int  # never None here

    def __init__(
        self,
        paths: list[str],
        labels: list[int] | None,
        *,
        name: str,
        split: str,
        class_names: list[str] | None,
        on_bad_image: str,
        transparent: str = transparency.DEFAULT,
    ) -> None:
        super().__init__(
            name=name,
            split=split,
            num_examples=0,
            num_classes=None if class_names is None else len(class_names),
            class_names=class_names,
        )
        self._on_bad_image = on_bad_image
        self._transparent = transparent
        sizes = self._check(paths)
        good = [i for i, size in enumerate(sizes) if size is not None]
        self._require_readable(labels, good, len(paths))
        self.paths = [paths[i] for i in good]
        self._labels = None if labels is None else np.array([labels[i] for i in good], np.int64)
        self.num_examples = len(good)
        shapes = {size for size in sizes if size is not None}
        if len(shapes) == 1:
            self.image_shape = (*shapes.pop(), 3)

    def _check(self, paths: list[str]) -> list[tuple[int, int] | None]:
        """Returns (height, width) of every file, None for unreadable ones."""
        if len(paths) > 100_000:
            logging.info("Checking the headers of %d images ...", len(paths))

        def check(path: str) -> tuple[int, int] | decoding.BadImageError:
            try:
                return decoding.read_header(path)
            except decoding.BadImageError as error:
                return error

        with futures.ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
            results = list(pool.map(check, paths))
        sizes: list[tuple[int, int] | None] = []
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, decoding.BadImageError):
                self._bad(path, str(result))
                sizes.append(None)
            else:
                sizes.append(result)
        if self.bad_images:
            logging.warning(
                "%d of %d images in '%s' (%s) cannot be read and are skipped.",
                len(self.bad_images), len(paths), self.name, self.split,
            )  # fmt: skip
        return sizes

    def _require_readable(self, labels: list[int] | None, good: list[int], total: int) -> None:
        if not good:
            path, reason = self.bad_images[0]
            raise UserError(
                f"Expected readable images in '{self.name}' (split {self.split}); received: "
                f"{total} files, none readable, the first being '{path}' ({reason})."
            )
        if labels is None or self.class_names is None:
            return
        lost = sorted(set(labels) - {labels[i] for i in good})
        if lost:
            names = ", ".join(self.class_names[label] for label in lost)
            raise UserError(
                f"Expected a readable image in every class of '{self.name}' (split {self.split}); "
                f"received: only unreadable files in {names}. Replace or remove the folder."
            )

    def _bad(self, path: str, reason: str) -> None:
        """Skips a file, or stops on it; the caller then finds the error in `self.error`."""
        if self._on_bad_image == "fail":
            self.bad_images.append((path, reason))
            self.error = UserError(
                f"Expected readable images in '{self.name}'; received: '{path}' ({reason}). "
                "Remove the file or pass --on_bad_image=skip."
            )
            raise self.error
        self._note_bad_image(path, reason)

    def decode(
        self, key: tf.Tensor, *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Decodes the file with index `key`; see `decoding.decode_file`."""

        def load(index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.int64, np.bool_]:
            return self._load(int(index), min_side, replace_bad)

        image, size, index, ok = tf.numpy_function(
            load, [key], [tf.uint8, tf.int32, tf.int64, tf.bool]
        )
        reduced = min_side is not None
        image.set_shape((None, None, 3) if reduced else self.image_shape)
        example = {
            "image": image,
            "size": tf.ensure_shape(size, [2]),
            "ok": tf.ensure_shape(ok, []),
        }
        if self._labels is not None:
            example["label"] = tf.ensure_shape(tf.gather(self._labels, index), [])
        return example

    def _read_labels(self) -> np.ndarray:
        assert self._labels is not None
        return self._labels

    def subset(self, positions: np.ndarray) -> FolderSource:
        """Returns a source of only the files at these positions."""
        chosen = copy.copy(self)
        chosen.paths = [self.paths[i] for i in positions]
        chosen._labels = None if self._labels is None else self._labels[positions]
        chosen.num_examples = len(positions)
        chosen.bad_images = list(self.bad_images)
        chosen.flat_images = set()
        return chosen

    def hide_labels(self, shown: np.ndarray) -> FolderSource:
        """Returns a source of the same files whose labels are -1 but at these positions."""
        hidden = copy.copy(self)
        hidden._labels = only_at(self.read_labels(), shown)
        return hidden

    def file_names(self) -> list[str]:
        """Returns the files' paths below the folder."""
        root = os.path.expanduser(self.name)
        return [os.path.relpath(path, root) for path in self.paths]

    def _load(
        self, first: int, min_side: int | None, replace_bad: bool
    ) -> tuple[np.ndarray, np.ndarray, np.int64, np.bool_]:
        """Returns (image, original size, index of the file that was read, readable?)."""
        tries = self.num_examples if replace_bad else 1
        for index in ((first + step) % self.num_examples for step in range(tries)):
            path = self.paths[index]
            try:
                image, size = decoding.decode_file(path, min_side, self._transparent)
                if self.static_shape and size != self.image_shape[:2]:
                    raise decoding.BadImageError(f"its size is {size}, not that of its header")
                if transparency.is_flat(image):
                    self.flat_images.add(path)
                return image, np.array(size, np.int32), np.int64(index), np.bool_(True)
            except decoding.BadImageError as error:
                self._bad(path, str(error))
        if replace_bad:
            self.error = UserError(
                f"Expected readable images in '{self.name}'; received: none, all "
                f"{self.num_examples} files failed to decode."
            )
            raise self.error
        shape = [side or 1 for side in self.image_shape[:2]]
        blank = np.zeros((*shape, 3), np.uint8)  # dropped by 'ok'
        return blank, np.array(shape, np.int32), np.int64(first), np.bool_(False)
