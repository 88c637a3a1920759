"""A file of decoded images: written from front to back, read by position, never all at once.

| part | what it holds |
|---|---|
| .npy array | the images, (N, h, w, c); of different sizes: all their values, one after the other |
| three .npy arrays | their shapes, where these differ; original sizes; positions in the data set |
| .npy array | what else was found, as JSON |

`numpy.load(path, mmap_mode="r")` gives the first part.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, overload

import numpy as np

Notes = Mapping[str, Sequence[object]]
_HEADER = 128  # bytes; a .npy header is padded to a multiple of 64


class DecodedWriter:
    """Writes a file of decoded images; `finish` makes it one.

    Args:
        file: An empty file.
        shape: Of each image, (h, w, c); None where they differ.
        dtype: Of their values.

    Attributes:
        count: Images so far.
        size: Bytes of their values.

    Example:
        >>> with open("digits.npy", "wb") as file:
        ...     writer = DecodedWriter(file, (28, 28, 3), np.dtype("uint8"))
        ...     writer.add(image, size=(28, 28), position=0)
        ...     writer.finish({})
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int] | None, dtype: np.dtype) -> None:
        self._file, self._shape, self._dtype = file, shape, dtype
        # Not lists: a million images would take a hundred megabytes.
        self._shapes, self._sizes, self._positions = array("q"), array("i"), array("q")
        self.size = 0
        file.write(bytes(_HEADER))  # filled in once their number is known

    @property
    def count(self) -> int:
        """Images so far."""
        return len(self._positions)

    def add(self, image: np.ndarray, size: np.ndarray, position: int) -> None:
        """Adds an image.

        Args:
            image: (h, w, c).
            size: int (2,), its original height and width.
            position: In the data set.
        """
        if self._shape is None:
            self._shapes.extend(image.shape)
        self._sizes.extend(size.tolist())
        self._positions.append(position)
        self.size += self._file.write(np.ascontiguousarray(image).data)

    def finish(self, notes: Notes) -> None:
        """Writes what stands behind and before the images, and waits for the disk.

        Args:
            notes: What else was found; values that JSON knows.
        """
        for values in (
            np.array(self._shapes, np.int64).reshape(-1, 3),
            np.array(self._sizes, np.int32).reshape(-1, 2),
            np.array(self._positions, np.int64),
            np.frombuffer(json.dumps(dict(notes)).encode(), np.uint8),
        ):
            np.lib.format.write_array(self._file, values, version=(1, 0))
        total = self.size // self._dtype.itemsize
        self._file.seek(0)
        self._file.write(
            _header(self._dtype, (total,) if self._shape is None else (self.count, *self._shape))
        )
        self._file.flush()
        os.fsync(self._file.fileno())


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Returns the header of a .npy array, of the same length for any number of images.

    Source: NumPy's NEP 1.
    """
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape,
    }  # fmt: skip
    magic = np.lib.format.magic(1, 0)
    length = _HEADER - len(magic) - 2
    return magic + struct.pack("<H", length) + repr(described).encode().ljust(length - 1) + b"\n"


class DecodedImages(Sequence[np.ndarray]):
    """The images of a file; what is asked for is read from the disk.

    Args:
        path: The file.

    Attributes:
        stacked: All images as one array (N, h, w, c), in the file; None where their shapes differ.
        sizes: int32 (N, 2), their original heights and widths.
        positions: int64 (N,), in the data set.
        notes: What else was found.

    Raises:
        ValueError: It is no such file, or not a whole one.
        OSError: It can't be read.

    Example:
        >>> DecodedImages("digits.npy")[0].shape
        (28, 28, 3)
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("not version 1.0 of .npy")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            values = int(np.prod(shape, dtype=np.int64))
            file.seek(_HEADER + values * dtype.itemsize)
            shapes, self.sizes, self.positions, notes = (
                np.lib.format.read_array(file, allow_pickle=False) for _ in range(4)
            )
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.notes: dict[str, Any] = json.loads(notes.tobytes())
        flat = np.frombuffer(self._mapped, dtype, values, _HEADER)
        self.stacked = flat.reshape(shape) if len(shape) > 1 else None
        self._flat, self._shapes = flat, shapes
        if self.stacked is None:
            lengths = shapes.prod(axis=1)
        else:
            lengths = np.full(len(self.sizes), int(np.prod(shape[1:])))
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if not len(self.sizes) == len(self.positions) == len(lengths) or self._starts[-1] != values:
            raise ValueError("its parts do not belong together")

    @property
    def size(self) -> int:
        """Bytes of the images."""
        return self._flat.nbytes

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        """Returns an image, which is still in the file."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if self.stacked is not None:
            return self.stacked[index]
        place = range(len(self))[index]
        return self._flat[self._starts[place] : self._starts[place + 1]].reshape(
            self._shapes[place]
        )

    def will_need(self, indices: np.ndarray) -> None:
        """Lets the system read these images at once; else each is read page by page when used.

        Args:
            indices: int64, of any shape.
        """
        if not hasattr(self._mapped, "madvise"):  # Windows
            return
        width = self._flat.itemsize
        for index in np.ravel(indices):
            start, stop = (_HEADER + int(self._starts[index + end]) * width for end in (0, 1))
            page = start - start % mmap.PAGESIZE
            self._mapped.madvise(mmap.MADV_WILLNEED, page, stop - page)
