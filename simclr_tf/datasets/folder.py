"""A user's files of images as a source: those of a folder, a list or a table."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf
from absl import logging

from simclr_tf.datasets import decoding
from simclr_tf.datasets.callbacks import call_python
from simclr_tf.datasets.folder_walk import left_out_line
from simclr_tf.datasets.image_key import image_key
from simclr_tf.datasets.layout import Layout, select
from simclr_tf.datasets.positions import only_at
from simclr_tf.datasets.records import RecordFiles
from simclr_tf.datasets.source import IndexedSource
from simclr_tf.errors import UserError
from simclr_tf.images import transparency

_ON_BAD_IMAGE = ("skip", "fail")
_ELSEWHERE = " Relative paths lie below '{}'; --data_dir names another folder."


def open_layout(
    layout: Layout,
    name: str,
    split: str,
    *,
    on_bad_image: str = "skip",
    transparent: str = transparency.DEFAULT,
    white_level: int = 0,
) -> FolderSource:
    """Opens the files of a split: those of a folder, a list or a table.

    Every file of the split has its header and its end checked here, in parallel, so that broken
    ones are known before training starts.

    Args:
        layout: the files, classes and splits (`folder_layout.read_layout`,
            `path_list.lay_out_paths`, `table_layout.read_table_layout`).
        name: the data set as the user names it.
        split: a split expression.
        on_bad_image: 'skip' names, counts and skips unreadable files; 'fail' stops.
        transparent: what shows through transparent pixels: white, black, keep or mean (see
            `transparency.composite`).
        white_level: the value of 16-bit TIFF files that becomes white; 0: see `tiff.decode_tiff`.

    Returns:
        A source with labels if the layout has them.

    Raises:
        UserError: no file, or none of a class, can be read; or one cannot and `on_bad_image` is
            'fail'; or the split is unknown.

    Example:
        >>> open_layout(read_layout("photos", 0.1, 0), "photos", "train").num_classes is None
        True
    """
    check_on_bad_image(on_bad_image)
    transparency.check_transparent(transparent)
    if layout.left_out:
        logging.info("%s", left_out_line(name, layout.left_out))
    listing, damaged = select(layout, name, split)
    source = FolderSource(
        listing.paths,
        listing.labels,
        name=name,
        split=split,
        class_names=listing.class_names,
        on_bad_image=on_bad_image,
        transparent=transparent,
        white_level=white_level,
        root=layout.root,
        described_by=layout.described_by,
        opener=layout.opener,
        damaged=damaged,
    )
    source.left_out = layout.left_out
    return source


def check_on_bad_image(on_bad_image: str) -> None:
    """Raises a UserError unless `on_bad_image` is a known policy."""
    if on_bad_image not in _ON_BAD_IMAGE:
        raise UserError(
            f"Expected on_bad_image to be one of {', '.join(_ON_BAD_IMAGE)}; "
            f"received: '{on_bad_image}'."
        )


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
        root: str | None = None,
        described_by: Sequence[str] = (),
        opener: RecordFiles | None = None,
        damaged: Sequence[tuple[str, str]] = (),
        white_level: int = 0,
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
        self._root = os.path.expanduser(name) if root is None else root
        self.described_by = list(described_by)
        self._records = opener
        self._white_level = white_level
        self._opener: decoding.OpensImages = opener or decoding.open_regular
        for path, reason in damaged:
            self._note_bad_image(path, reason)
        sizes = self._check(paths)
        good = [i for i, size in enumerate(sizes) if size is not None]
        self._require_readable(labels, good, len(paths))
        self.paths = [paths[i] for i in good]
        self._labels = None if labels is None else np.array([labels[i] for i in good], np.int64)
        self.num_examples = len(good)
        self._channels = self._one_count_of_channels(sizes)
        shapes = {size for size in sizes if size is not None}
        sides = shapes.pop()[:2] if len(shapes) == 1 else (None, None)
        self.image_shape = (*sides, self._channels)

    def _one_count_of_channels(self, sizes: list[tuple[int, int, int] | None]) -> int:
        """Returns the channels of all images, of which `self.paths` are the readable ones."""
        counts = [size[2] for size in sizes if size is not None]
        other = next((i for i, count in enumerate(counts) if count != counts[0]), None)
        if other is not None:
            raise UserError(
                f"Expected images of one number of channels in '{self.name}'; received: "
                f"'{self.paths[0]}' with {counts[0]} and '{self.paths[other]}' with "
                f"{counts[other]}. Keep those of one kind."
            )
        return counts[0]

    def _check(self, paths: list[str]) -> list[tuple[int, int, int] | None]:
        """Returns (height, width, channels) of every file, None for unreadable ones."""
        if len(paths) > 100_000:
            logging.info("Checking the headers of %d images ...", len(paths))

        def check(path: str) -> tuple[int, int, int] | decoding.BadImageError:
            try:
                return decoding.read_header(path, self._opener)
            except decoding.BadImageError as error:
                return error

        with futures.ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
            results = list(pool.map(check, paths))
        sizes: list[tuple[int, int, int] | None] = []
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, decoding.BadImageError):
                self._note_bad_image(path, str(result))
                sizes.append(None)
            else:
                sizes.append(result)
        if self.bad_images:
            total = len(paths) + len(self.bad_images) - sizes.count(None)
            logging.warning(
                "%d of %d images in '%s' (%s) cannot be read and are skipped.",
                len(self.bad_images), total, self.name, self.split,
            )  # fmt: skip
        return sizes

    def _require_readable(self, labels: list[int] | None, good: list[int], total: int) -> None:
        if not good:
            path, reason = self.bad_images[0]
            raise UserError(
                f"Expected readable images in '{self.name}' (split {self.split}); received: "
                f"{total} files, none readable, the first being '{path}' ({reason})."
                + (_ELSEWHERE.format(self._root) if self.described_by else "")
            )
        if labels is None or self.class_names is None:
            return
        lost = sorted(set(labels) - {labels[i] for i in good})
        if lost:
            names = ", ".join(self.class_names[label] for label in lost)
            raise UserError(
                f"Expected a readable image in every class of '{self.name}' (split {self.split}); "
                f"received: only unreadable files in {names}. Replace them, or leave the class out."
            )

    def _note_bad_image(self, path: str, reason: str) -> None:
        """Skips a file, or stops on it; the caller then finds the error in `self.error`."""
        if self._on_bad_image == "fail":
            self.bad_images.append((path, reason))
            self.error = UserError(
                f"Expected readable images in '{self.name}'; received: '{path}' ({reason}). "
                "Leave the file out or pass --on_bad_image=skip."
            )
            raise self.error
        super()._note_bad_image(path, reason)

    def decode(
        self, key: tf.Tensor, *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Decodes the file with index `key`; see `decoding.decode_file`."""

        def load(index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.int64, np.bool_]:
            return self._load(int(index), min_side, replace_bad)

        image, size, index, ok = call_python(load, [key], [tf.uint8, tf.int32, tf.int64, tf.bool])
        reduced = min_side is not None
        image.set_shape((None, None, self._channels) if reduced else self.image_shape)
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
        """Returns the files' paths below the folder of the data set."""
        return [os.path.relpath(path, self._root) for path in self.paths]

    def files_behind(self) -> list[str]:
        """Returns the files that hold the images or say which there are."""
        return [*self.described_by, *(self.paths if self._records is None else self._records.files)]

    def image_key(self, *said: object) -> str | None:
        """Returns a checksum of the files and of how they are decoded."""
        how = (self._transparent, self._white_level, self._channels)
        files = self.paths if self._records is None else self._records.files
        return image_key((*said, how, *map(os.path.abspath, self.paths)), files)

    def findings(self) -> tuple[list[tuple[int, str]], list[int]]:
        """Returns the positions of files that failed to decode, or are flat."""
        places = {path: place for place, path in enumerate(self.paths)}
        bad = [(places[path], reason) for path, reason in self.bad_images if path in places]
        return bad, sorted(places[path] for path in self.flat_images if path in places)

    def recall(self, bad: Sequence[tuple[int, str]], flat: Sequence[int]) -> None:
        """Takes up findings; skips unreadable files, or stops on the first."""
        for place, reason in bad:
            self._note_bad_image(self.paths[place], reason)
        self.flat_images.update(self.paths[place] for place in flat)

    def _load(
        self, first: int, min_side: int | None, replace_bad: bool
    ) -> tuple[np.ndarray, np.ndarray, np.int64, np.bool_]:
        """Returns (image, original size, index of the file that was read, readable?)."""
        tries = self.num_examples if replace_bad else 1
        for index in ((first + step) % self.num_examples for step in range(tries)):
            path = self.paths[index]
            try:
                image, size = decoding.decode_file(
                    path, min_side, self._transparent, self._opener, self._white_level
                )
                if image.shape[-1] != self._channels:
                    raise decoding.BadImageError("its channels are not those of its header")
                if self.static_shape and size != self.image_shape[:2]:
                    raise decoding.BadImageError(f"its size is {size}, not that of its header")
                if transparency.is_flat(image):
                    self.flat_images.add(path)
                return image, np.array(size, np.int32), np.int64(index), np.bool_(True)
            except decoding.BadImageError as error:
                self._note_bad_image(path, str(error))
        if replace_bad:
            self.error = UserError(
                f"Expected readable images in '{self.name}'; received: none, all "
                f"{self.num_examples} files failed to decode."
            )
            raise self.error
        shape = [side or 1 for side in self.image_shape[:2]]
        blank = np.zeros((*shape, self._channels), np.uint8)  # dropped by 'ok'
        return blank, np.array(shape, np.int32), np.int64(first), np.bool_(False)
