"""TIFF files of any number of channels, 8 or 16 bits (tifffile, the extra `tiff`)."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from simclr_tf.datasets.bad_image import BadImageError, import_or_refuse
from simclr_tf.images import transparency

if TYPE_CHECKING:
    import tifffile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _PALETTE = 0, 3
_READ = (0, 1, 2, 3, 6)  # photometric interpretations: grey, RGB, palette, YCbCr (as RGB)
_ASSOCIATED, _UNASSOCIATED = 1, 2
_ORIENTATION = 274
_QUARTER_TURNS = (5, 6, 7, 8)
# One bit a value, compressed as much as deflate can: what says that it holds more is a trap.
_MOST_VALUES_A_BYTE = 8 * 1032
_UNKNOWN = "QI"  # tifffile's letters for axes that a file doesn't name
_MOST_CHANNELS = 64  # where only the shape tells that an axis is of channels


class _Form(NamedTuple):
    """How the first image of a file is stored.

    Attributes:
        height: Rows as stored.
        width: Columns as stored.
        samples: Channels as stored, those of opacity among them.
        alpha: The kind of opacity in the last sample; 0 for none.
        orientation: EXIF orientation.
        axes: A letter for each axis of what is read, the first page or all: Y, X, S and C
            (channels), or others.
    """

    height: int
    width: int
    samples: int
    alpha: int
    orientation: int
    axes: str

    @property
    def channels(self) -> int:
        """Channels of the decoded image: a single one is repeated, as of other formats."""
        count = self.samples - bool(self.alpha)
        return 3 if count == 1 else count


def read_tiff_shape(file: BinaryIO, most_pixels: int) -> tuple[int, int, int]:
    """Returns (height, width, channels) of a TIFF file, without decoding it.

    Args:
        file: The file.
        most_pixels: Larger images are refused.

    Raises:
        BadImageError: It is cut off, too large or of a kind that is not read.
    """
    with _tifffile().TiffFile(file) as tiff:
        form = _form(tiff, most_pixels)
        page, series = tiff.pages.first, tiff.series[0]
        ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if series.dataoffset is not None and form.axes != page.axes:
            ends.append(series.dataoffset + series.nbytes)
        if max(ends, default=0) > tiff.filehandle.size:
            raise BadImageError("the file is cut off")
    height, width = form.height, form.width
    if form.orientation in _QUARTER_TURNS:
        height, width = width, height
    return height, width, form.channels


def decode_tiff(
    file: BinaryIO, most_pixels: int, transparent: str, white_level: int = 0
) -> np.ndarray:
    """Decodes the first image of a TIFF file.

    Samples of a pixel are channels, and so are the channels of ImageJ and OME and the smallest axis
    of an array that tifffile wrote without naming its axes; of times and depths the first is taken.
    Values are scaled to 8 bits from the range that their bits can hold, or from `white_level`.
    Palettes are looked up, opacity is laid over a ground, an orientation is applied, a single
    channel is repeated three times.

    Args:
        file: The file.
        most_pixels: Larger images are refused.
        transparent: What shows through transparent pixels (see `transparency.composite`).
        white_level: The value of samples of more than 8 bits that becomes 255; 0: the largest that
            their bits can hold.

    Returns:
        uint8 (h, w, channels).

    Raises:
        BadImageError: As `read_tiff_shape`, or it is damaged.

    Source: TIFF 6.0; tifffile's axes.
    """
    with _tifffile().TiffFile(file) as tiff:
        form = _form(tiff, most_pixels)
        page = tiff.pages.first
        whole = tiff.series[0] if form.axes != page.axes else page
        values = _channels_last(whole.asarray(), form.axes)
        if page.photometric == _PALETTE:
            values = (np.moveaxis(page.colormap, 0, -1)[values[..., 0]] >> 8).astype(np.uint8)
        else:
            full = 2**page.bitspersample - 1
            values, alpha = np.split(values, [values.shape[-1] - bool(form.alpha)], axis=-1)
            values = to_8_bits(values, full, white_level)
            if page.photometric == _WHITE_IS_ZERO:
                values = 255 - values
            if form.alpha:  # which has its own white: all that its bits can hold
                opacity = to_8_bits(alpha[..., 0], full)
                values = _over_ground(values, opacity, form.alpha, transparent)
    if values.shape[-1] == 1:
        values = np.repeat(values, 3, axis=-1)
    return np.ascontiguousarray(_upright(values, form.orientation))


def to_8_bits(values: np.ndarray, full: int, white_level: int = 0) -> np.ndarray:
    """Returns whole numbers from 0 to `full` as uint8, rounded.

    Args:
        values: bool, uint8 or uint16.
        full: The largest value that their bits can hold.
        white_level: Of values of more than 8 bits: what becomes 255, as all above; 0: `full`.

    Example:
        >>> to_8_bits(np.array([0, 2048, 4095], np.uint16), 65535, white_level=4095)
        array([  0, 128, 255], dtype=uint8)
    """
    if full == 255:
        return values
    white = white_level if white_level and full > 255 else full
    return _scaled_to(white)[values.astype(np.uint16)]


@functools.lru_cache(maxsize=16)
def _scaled_to(white: int) -> np.ndarray:
    """Returns what each of 65,536 values becomes: quicker than to calculate it for each pixel."""
    values = np.arange(1 << 16, dtype=np.int64)
    return np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)


def _tifffile() -> ModuleType:
    return import_or_refuse("tifffile", "TIFF", "tiff")


def _form(tiff: tifffile.TiffFile, most_pixels: int) -> _Form:
    page = tiff.pages.first
    if page.dtype is None or page.dtype not in (np.bool_, np.uint8, np.uint16):
        raise BadImageError(f"its values are {page.dtype}, not uint8 or uint16")
    if page.photometric not in _READ:
        name = getattr(page.photometric, "name", page.photometric)
        raise BadImageError(f"its colours are {name}, which is not read")
    axes = _axes(tiff)
    whole = tiff.series[0] if axes != page.axes else page
    sides = dict(zip(axes, whole.shape, strict=True))
    height, width = sides["Y"], sides["X"]
    samples = 3 if page.photometric == _PALETTE else sides.get("S", 1) * sides.get("C", 1)
    count = math.prod(whole.shape)
    if count > _MOST_VALUES_A_BYTE * tiff.filehandle.size:
        raise BadImageError(f"{tiff.filehandle.size} bytes can't hold {count} values")
    if count > 3 * most_pixels or page.imagedepth > 1:
        raise BadImageError(f"{width} x {height} x {samples} values are too many; cut or shrink it")
    extra = tuple(int(kind) for kind in page.extrasamples)
    alpha = extra[-1] if extra and extra[-1] in (_ASSOCIATED, _UNASSOCIATED) else 0
    tag = page.tags.get(_ORIENTATION)
    return _Form(height, width, samples, alpha, int(tag.value) if tag is not None else 1, axes)


def _axes(tiff: tifffile.TiffFile) -> str:
    """Returns the axes of all pages where channels are among them; else those of the first page.

    Raises:
        BadImageError: Nothing says whether pages are channels, or times, or sheets of paper.
    """
    series, page = tiff.series[0], tiff.pages.first
    if "C" in series.axes:
        return str(series.axes)
    if not set(series.axes) & set(_UNKNOWN) or series.size == page.size:
        return str(page.axes)
    if series.kind == "shaped" and series.ndim == 3:
        first, middle, last = series.shape
        if last < min(first, middle) and last <= _MOST_CHANNELS:
            return "YXC"
        if first < min(middle, last) and first <= _MOST_CHANNELS:
            return "CYX"
    raise BadImageError(
        f"it is a stack of shape {series.shape} of which nothing says what are channels; write it "
        "with axes (of ImageJ or OME: CYX, ZYX, TYX)"
    )


def _channels_last(values: np.ndarray, axes: str) -> np.ndarray:
    """Returns (h, w, channels) of the axes Y, X and perhaps C and S; of others the first."""
    for place in reversed(range(len(axes))):
        if axes[place] not in "YXCS":
            values = values.take(0, place)
            axes = axes[:place] + axes[place + 1 :]
    ordered = [axes.index(axis) for axis in "YXCS" if axis in axes]
    values = values.transpose(ordered)
    return values.reshape(*values.shape[:2], -1)


def _over_ground(colours: np.ndarray, alpha: np.ndarray, kind: int, transparent: str) -> np.ndarray:
    if kind == _ASSOCIATED:  # multiplied by their opacity
        weights = np.maximum(alpha, 1).astype(np.int64)[..., None]
        colours = np.minimum((colours.astype(np.int64) * 255 + weights // 2) // weights, 255)
    return transparency.composite(colours.astype(np.uint8), alpha, transparent)


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in _QUARTER_TURNS:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
