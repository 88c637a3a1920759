"""TFRecord files of encoded images: where each image lies, and its bytes when asked for."""

from __future__ import annotations

import io
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from simclr_tf.datasets.bad_image import BadImageError
from simclr_tf.datasets.example_fields import Content, Feature, find_features
from simclr_tf.datasets.folder_walk import some
from simclr_tf.devices.memory import in_words, machine_memory
from simclr_tf.errors import UserError

# The names that TF's own writers use, best first: of the image and of its label.
IMAGE_FEATURES = ("image/encoded", "image")
LABEL_FEATURES = ("image/class/label", "label")
_GZIP = b"\x1f\x8b"
_GZIP_FORMAT = 31  # to zlib: GZIP alone, the largest window
_UNPACKED_AT_ONCE = 1 << 16
_CUT_OFF = b"\0"
_HEAD, _FOOT = 12, 4  # bytes around a record: its length and the length's checksum; its checksum
_NO_LABEL = -1  # as TFDS writes it


class RecordFile(NamedTuple):
    """The records of one file.

    Attributes:
        places: int64 (N, 3): where each record begins, its image begins, and its image ends.
        labels: The label of each as text; None without one.
        reasons: Why a record can't be read, by its number.
        content: What a compressed file holds; None of a plain one.
    """

    places: np.ndarray
    labels: list[str | None]
    reasons: dict[int, str]
    content: bytes | None


class RecordFiles:
    """Opens the images of TFRecord files by name: `FILE:NUMBER`.

    A record is read from its place in the file, so that images have no order and shuffling needs
    no buffer. A file compressed with GZIP has no such places: its content is kept in memory.

    Args:
        files: The files.
        image: Name of the feature of the image; None: the first of `IMAGE_FEATURES`.
        label: Name of the feature of the label; None: the first of `LABEL_FEATURES`, if any.

    Attributes:
        files: What each file holds, by its path.

    Raises:
        UserError: A file can't be read, or is compressed and does not fit into memory.

    Example:
        >>> records = RecordFiles(["train.tfrecord"], None, None)
        >>> records.files["train.tfrecord"].labels
        ['3', '7']
        >>> records("train.tfrecord:1").read(3)
        b'\\xff\\xd8\\xff'
    """

    def __init__(self, files: Sequence[str], image: str | None, label: str | None) -> None:
        self._unpacked = 0
        self._image_names = (image,) if image else IMAGE_FEATURES
        self._label_names = (label,) if label else LABEL_FEATURES
        self.files = {path: self._listed(path) for path in files}

    def __call__(self, name: str, whole: bool = True) -> BinaryIO:
        """Opens an image.

        Args:
            name: `FILE:NUMBER`.
            whole: Whether all of it will be read: then its checksum is compared. Else only what is
                asked for is read from the disk.

        Raises:
            BadImageError: The record is damaged or gone.
        """
        path, _, number = name.rpartition(":")
        held = self.files[path]
        record, start, stop = (int(place) for place in held.places[int(number)])
        if not whole:
            if held.content is not None:
                return io.BytesIO(held.content[start:stop])
            return io.BufferedReader(_Part(open(path, "rb", buffering=0), start, stop))
        with io.BytesIO(held.content) if held.content is not None else open(path, "rb") as file:
            file.seek(record)
            length, _ = struct.unpack("<QI", file.read(_HEAD))
            content = file.read(min(length, stop - record + (1 << 30)))
            check = file.read(_FOOT)
        if len(check) < _FOOT or masked_crc32c(content) != int.from_bytes(check, "little"):
            raise BadImageError("the record is damaged: its checksum is another one")
        first = record + _HEAD
        return io.BytesIO(content[start - first : stop - first])

    def _listed(self, path: str) -> RecordFile:
        try:
            with open(path, "rb") as file:
                if file.read(2) == _GZIP:
                    content = self._decompressed(path)
                    return self._indexed(content)._replace(content=content)
                if not os.fstat(file.fileno()).st_size:
                    return self._indexed(b"")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    return self._indexed(mapped)
        except OSError as error:
            raise UserError(
                f"Expected a TFRecord file that can be read; received: {path} "
                f"({(error.strerror or str(error)).lower()})."
            ) from error

    def _indexed(self, content: Content) -> RecordFile:
        places: list[tuple[int, int, int]] = []
        labels: list[str | None] = []
        reasons: dict[int, str] = {}
        wanted = {*self._image_names, *self._label_names}
        for number, (start, stop) in enumerate(_framed(content)):
            span, label = (0, 0), None
            try:
                if stop < 0:
                    raise BadImageError(_cut_off(number, start - _HEAD))
                features = find_features(content, start, stop, wanted)
                span = _image_span(features, self._image_names)
                label = _label(content, features, self._label_names)
            except BadImageError as error:
                reasons[number] = str(error)
            places.append((start - _HEAD, *span))
            labels.append(label if label is None else sys.intern(label))
        return RecordFile(np.array(places, np.int64).reshape(-1, 3), labels, reasons, None)

    def _decompressed(self, path: str) -> bytes:
        """Returns the content of a compressed file, as far as it can be unpacked."""
        have = machine_memory()
        parts = []
        decoder = zlib.decompressobj(_GZIP_FORMAT)
        with open(path, "rb") as file:
            while part := decoder.unused_data or file.read(_UNPACKED_AT_ONCE):
                if decoder.eof:  # one more compressed part behind the last
                    decoder = zlib.decompressobj(_GZIP_FORMAT)
                try:
                    parts.append(decoder.decompress(part))
                except zlib.error:
                    break
                self._unpacked += len(parts[-1])
                if have is not None and self._unpacked > have / 2:
                    raise UserError(
                        "Expected compressed TFRecord files that fit in half of this machine's "
                        f"memory ({in_words(have / 2)}); received: more, up to {path}. "
                        "Unpack them with gunzip: plain ones are read from the disk."
                    )
        if not decoder.eof:
            parts.append(_CUT_OFF)  # no length of a record: reported as damage
        return b"".join(parts)


class _Part(io.RawIOBase):
    """A part of a file as a file, of which only what is asked for is read."""

    def __init__(self, file: io.FileIO, start: int, stop: int) -> None:
        self._file, self._start, self._length = file, start, stop - start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._length - self._place))
        self._file.seek(self._start + self._place)
        found = self._file.read(wanted) or b""
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


def _framed(content: Content) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of each record; at a damaged one (start, -1), and ends.

    Source: tensorflow/core/lib/io/record_writer.h: length, its checksum, content, its checksum.
    """
    place, size = 0, len(content)
    while place < size:
        start = place + _HEAD
        head = content[place:start]
        if len(head) == _HEAD:
            length, check = struct.unpack("<QI", head)
            if check == masked_crc32c(head[:8]) and start + length + _FOOT <= size:
                yield start, start + length
                place = start + length + _FOOT
                continue
        yield start, -1
        return


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TFRecord files store: turned by 15 bits, plus a constant.

    Source: tensorflow/core/lib/hash/crc32c.h.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _cut_off(number: int, place: int) -> str:
    if not number:
        return "it is no TFRecord file, or cut off in its first record"
    return f"the file is damaged or cut off from byte {place:,} on: what follows is lost"


def _image_span(features: dict[str, Feature], names: Sequence[str]) -> tuple[int, int]:
    name = next((name for name in names if name in features), None)
    if name is None:
        raise BadImageError(f"no feature {' or '.join(names)}, only {some(sorted(features))}")
    spans = features[name].spans
    if len(spans) != 1:
        raise BadImageError(f"the feature {name} is no encoded image: {len(spans)} strings")
    return spans[0]


def _label(content: Content, features: dict[str, Feature], names: Sequence[str]) -> str | None:
    name = next((name for name in names if name in features), None)
    if name is None:
        return None
    feature = features[name]
    count = len(feature.spans) + len(feature.integers)
    if feature.kind == "float" or count > 1:
        what = "numbers with fractions" if feature.kind == "float" else f"{count} values"
        raise BadImageError(f"the feature {name} is no label: {what}")
    if feature.spans:
        return content[slice(*feature.spans[0])].decode("utf-8", "replace").strip() or None
    return None if feature.integers in ([], [_NO_LABEL]) else str(feature.integers[0])
