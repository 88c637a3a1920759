"""A whole source decoded into a file, once for all runs: for data that don't fit into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from absl import logging

from simclr_tf.datasets.cache import decoded_examples, none_readable
from simclr_tf.datasets.decoded_file import DecodedImages, DecodedWriter
from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.source import ImageSource
from simclr_tf.devices.memory import in_words
from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import new_file
from simclr_tf.files.lock import held

# Part of the files' names: to be raised where the same image files are decoded to other values.
FORMAT = 1
_DISK_SHARE = 0.95  # of what is free when the file is begun
_TOLD_SECONDS = 60  # between lines about a file that takes long


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """Where decoded images are kept on disk, and who is told of it.

    Args:
        folder: Of the files, one for each set of images and canvas; made if necessary. None:
            `simclr_tf` in `$XDG_CACHE_HOME`, without that in `~/.cache`.
        say: Gets the lines: what is written, or used.
        write: False: a file that is there is used, and none is made.

    Example:
        >>> training_dataset(source, cache=OnDisk("/fast/disk", print), batch_size=256,
        ...                  image_size=224, seed=0)
    """

    folder: str | None = None
    say: Callable[[str], None] = logging.info
    write: bool = True


class MappedSource(InMemorySource):
    """Decoded images in a file, by index; `InMemorySource` of arrays that the system pages in.

    Args:
        images: The images of a source that are readable.
        source: That source, which has the labels.
    """

    def __init__(self, images: DecodedImages, source: ImageSource) -> None:
        super().__init__(
            images if images.stacked is None else images.stacked,
            source.read_labels()[images.positions] if source.labelled else None,
            sizes=images.sizes,
            name=source.name,
            split=source.split,
            num_classes=source.num_classes,
            class_names=source.class_names,
        )
        self._file = images
        self._rows: np.ndarray | None = None  # int64 (N,), places in the file; None: all in order
        self.bad_images = source.bad_images

    def _at(self, key: np.ndarray) -> np.ndarray:
        rows = key if self._rows is None else self._rows[key]
        self._file.will_need(rows)
        return super()._at(rows)

    def _choose_images(self, positions: np.ndarray) -> None:
        self._rows = positions if self._rows is None else self._rows[positions]


def on_disk(
    source: ImageSource, canvas: int | None = None, where: OnDisk | None = None
) -> ImageSource:
    """Decodes a whole source into a file, in parallel, or opens the file of an earlier process.

    The file's name tells the images by their files' paths, sizes and times, by the canvas and by
    how they are decoded: what has changed is decoded again. Of several processes that want the same
    file one writes it and the others wait; where the file system has no locks each writes its own,
    and one stays. It is complete or absent at any moment.

    Args:
        source: The images. Unreadable ones are left out.
        canvas: Squash the images to this side, and remember their sizes; None keeps them.
        where: The folder, and who is told; None: the usual one, and the log.

    Returns:
        A source that needs no decoding. One that is in memory is returned as it is.

    Raises:
        UserError: There is no room, the folder can't be written, no image is readable, or nothing
            tells whether a source has changed (a user's tf.data).

    Example:
        >>> on_disk(open_source("/path/to/images", "train"), canvas=320)
    """
    if isinstance(source, InMemorySource):
        return source
    where = where or OnDisk()
    path = _path(source, canvas, where.folder)
    images = _opened(path, source, where.say)
    if images is None and not where.write:
        where.say(f"Decoding images as they come: a run would first write them to {path}.")
        return source
    if images is None:
        with _write_errors(path):
            images = _written(source, canvas, path, where.say)
    return MappedSource(images, source)


def _path(source: ImageSource, canvas: int | None, folder: str | None) -> str:
    """Returns where the images of a source are kept."""
    key = source.image_key((FORMAT, canvas))
    if key is None:
        raise UserError(
            f"Expected images in files to keep decoded ones on disk; received: '{source.name}', of "
            "which nothing tells whether it has changed. Cache it in memory, or by its own "
            "tf.data.Dataset.cache('FILE')."
        )
    if folder is None:
        # Relative ones are to be ignored (XDG Base Directory Specification).
        base = os.environ.get("XDG_CACHE_HOME", "")
        folder = os.path.join(base if os.path.isabs(base) else "~/.cache", "simclr_tf")
    folder = os.path.expanduser(folder)
    if folder.startswith("~"):
        raise UserError(
            f"Expected a folder for decoded images; received: '{folder}', the home folder of "
            "nobody here. Write it out."
        )
    name = os.path.basename(source.name.split(",")[0].rstrip(os.sep))
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40].strip("_") or "images"
    return os.path.join(folder, f"{name}-{canvas or 'whole'}-{key}.npy")


def _opened(path: str, source: ImageSource, say: Callable[[str], None]) -> DecodedImages | None:
    """Returns the images of a file; None where there is none, or a damaged one."""
    try:
        images = DecodedImages(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UserError(
            f"Expected a file of decoded images that can be read; received: {path} "
            f"({error.strerror}). Pass another --cache_dir."
        ) from error
    say(f"Using {len(images):,} decoded images in {path} ({in_words(images.size)}).")
    source.recall(images.notes["bad"], images.notes["flat"])
    return images


@contextlib.contextmanager
def _write_errors(path: str) -> Iterator[None]:
    """Turns what the folder of a file, or its disk, refuses into one line."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"Expected a place for decoded images that can be written; received: {path} "
            f"({error.strerror}). Make room there, or pass another --cache_dir."
        ) from error


def _written(
    source: ImageSource, canvas: int | None, path: str, say: Callable[[str], None]
) -> DecodedImages:
    """Writes the file, or waits for the process that does."""
    told: list[str] = []

    def wait(holder: str) -> None:
        if not told:
            told.append(f"Waiting for {holder}, which decodes the same images into {path} ...")
            say(told[0])

    with held(f"{path}.lock", wait):
        images = _opened(path, source, say)  # another has just written it
        if images is not None:
            return images
        with new_file(path) as partial, open(partial, "wb") as file:
            _write(source, canvas, path, file, say)
        return DecodedImages(path)


def _write(
    source: ImageSource,
    canvas: int | None,
    path: str,
    file: BinaryIO,
    say: Callable[[str], None],
) -> None:
    """Decodes all images into a file that will be at `path`."""
    data, count = decoded_examples(source, canvas), source.num_examples
    spec = data.element_spec["image"]
    stacked = spec.shape.is_fully_defined()
    need = count * spec.shape.num_elements() * spec.dtype.size if stacked else 0
    limit = _DISK_SHARE * shutil.disk_usage(os.path.dirname(path)).free
    if need > limit:
        raise _no_room(source, path, f"{count} images that need {in_words(need)}", limit)
    size = f" ({in_words(need)})" if stacked else ""
    say(f"Decoding {count:,} images of {source.name} once, into {path}{size} ...")
    shape = tuple(spec.shape.as_list()) if stacked else None
    writer = DecodedWriter(file, shape, np.dtype(spec.dtype.as_numpy_dtype))
    started = told = time.monotonic()
    with source.user_errors():
        for position, example in enumerate(data.prefetch(8).as_numpy_iterator()):
            if not example["ok"]:
                continue
            if writer.size + example["image"].nbytes > limit:
                so_far = f"{writer.count + 1} of {count} images that take more"
                raise _no_room(source, path, so_far, limit)
            writer.add(example["image"], example["size"], position)
            if time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                say(f"... {writer.count:,} images, {in_words(writer.size)}")
    if not writer.count:
        raise none_readable(source)
    bad, flat = source.findings()
    writer.finish({"bad": bad, "flat": flat})
    say(f"... done in {time.monotonic() - started:.1f} s, {in_words(writer.size)}.")


def _no_room(source: ImageSource, path: str, received: str, limit: float) -> UserError:
    return UserError(
        f"Expected room for the decoded images of '{source.name}' in {os.path.dirname(path)} "
        f"({in_words(limit)}, {_DISK_SHARE:.0%} of what is free); received: {received}. Make room, "
        "or pass another --cache_dir."
    )
