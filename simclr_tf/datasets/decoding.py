"""One image file -> one RGB array, by Pillow, or the reason why it can't be read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from simclr_tf.datasets import dicom, tiff
from simclr_tf.datasets.bad_image import BadImageError
from simclr_tf.images import transparency

if TYPE_CHECKING:
    from PIL import Image as PILImage
    from PIL import ImageFile

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif"}
    | {".tif", ".tiff", ".dcm"}
)
# Pillow probes only these, whatever the extension says: a PNG named .jpg is read. TIFF, of which it
# reads no more than four channels, and DICOM have readers of their own.
# (The JPEG reader also opens the MPO files of phones.)
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF")
# A picture of so many pixels takes half a gigabyte as RGB. Pillow refuses more, unless it is told
# otherwise for the whole process.
MAX_PIXELS = 178_956_970
# A PNG of one bit a pixel, compressed as much as deflate can; other formats hold less. A file that
# says more is cut off or a trap, and is refused before memory is taken for it. Only WebP can hold
# a large area of one colour in a few bytes: it may have this many pixels in any case.
_MOST_PIXELS_A_BYTE = 8 * 1032
_PLAIN_WEBP = 1 << 24
_ORIENTATION_TAG = 0x0112
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


class OpensImages(Protocol):
    """How an image's name becomes a file; `whole` says whether all of it will be read."""

    def __call__(self, name: str, /, whole: bool = True) -> BinaryIO: ...


def open_regular(path: str, whole: bool = True) -> BinaryIO:
    """Opens a file; a pipe or a device, which may wait or go on for ever, is none.

    Raises:
        BadImageError: It is no regular file.
        OSError: It can't be opened.
    """
    del whole
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BadImageError("it is no regular file")
    return open(path, "rb")


def read_header(path: str, opener: OpensImages = open_regular) -> tuple[int, int, int]:
    """Returns an image's height, width (after its EXIF rotation) and channels, undecoded.

    Cheap enough for every file of a folder. A file whose end looks cut off (no end marker, or
    shorter than it says) is decoded in full to be sure.

    Args:
        path: the file.
        opener: opens it.

    Returns:
        `(height, width)` in pixels and the channels of the decoded image, 3 but for some TIFFs.

    Raises:
        BadImageError: the file is empty, truncated, unreadable or no supported image.
    """
    with _reasons(), opener(path, whole=False) as file:
        kind = _kind(file)
        if kind == "TIFF":
            return tiff.read_tiff_shape(file, MAX_PIXELS)
        if kind == "DICOM":
            return dicom.read_dicom_shape(file, MAX_PIXELS)
        image = _open(file)
        width, height = image.size
        if _is_quarter_turn(image):
            width, height = height, width
        complete = _ends_well(image.format or "", file)
    if not complete:
        decode_file(path, opener=opener)
    return height, width, 3


def decode_file(
    path: str,
    min_side: int | None = None,
    transparent: str = transparency.DEFAULT,
    opener: OpensImages = open_regular,
    white_level: int = 0,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes the first frame of an image file to RGB, a TIFF to as many channels as it has.

    Grey and palette images are expanded; 16-bit grey is scaled (not clipped) to 8 bits; CMYK is
    converted; an EXIF rotation is applied. Transparent pixels are laid over a ground
    (`transparency.composite`) before anything is resized: the colours that a file stores where
    nothing is seen bleed into no edge.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF, TIFF or DICOM, recognised by content.
        min_side: JPEG only: may return a picture reduced by 2, 4 or 8, both sides still at least
            this long. Decoding a large photograph for a small canvas is several times faster.
        transparent: what shows through transparent pixels: white, black, keep or mean.
        opener: opens the file.
        white_level: TIFF only: see `tiff.decode_tiff`.

    Returns:
        uint8 array (h, w, 3), of a TIFF (h, w, channels), and the original `(height, width)`.

    Raises:
        BadImageError: the file is empty, truncated, unreadable or no supported image.

    Example:
        >>> image, (height, width) = decode_file("cat.jpg")
    """
    from PIL import ImageOps

    with _reasons(), opener(path) as file:
        kind = _kind(file)
        if kind:
            if kind == "TIFF":
                values = tiff.decode_tiff(file, MAX_PIXELS, transparent, white_level)
            else:
                values = dicom.decode_dicom(file, MAX_PIXELS)
            return values, (values.shape[0], values.shape[1])
        image = _open(file)
        width, height = image.size
        if min_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        depth = _bits(image)
        image.load()
        # Asked again after loading: a PNG may carry its EXIF block behind the pixels.
        size = (width, height) if _is_quarter_turn(image) else (height, width)
        # Both of Pillow's calls here would copy an image that they leave as it is.
        turned = image.getexif().get(_ORIENTATION_TAG, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
        colours = _to_rgb(upright, image.format)
        alpha = None if transparent == "keep" else _alpha(upright, image.info, depth)
        if alpha is not None:
            colours = transparency.composite(colours, alpha, transparent)
        return colours, size


def _kind(file: BinaryIO) -> str:
    """Returns 'TIFF' or 'DICOM' by the first bytes of a file; '' for what Pillow reads."""
    head = file.read(dicom.MAGIC_AT + len(dicom.MAGIC))
    file.seek(0)
    if head[dicom.MAGIC_AT :] == dicom.MAGIC:
        return "DICOM"
    return "TIFF" if head.startswith(tiff.MAGIC) else ""


def _length_of(file: BinaryIO) -> int:
    place = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(place)
    return length


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    from PIL import Image

    length = _length_of(file)
    if length == 0:
        raise BadImageError("the file is empty (0 bytes)")
    Image.init()  # Pillow preloads only its commonest readers, and WebP's isn't among them
    try:
        image = Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise BadImageError(f"it says that it has more than {MAX_PIXELS:,} pixels") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(
            f"{width} x {height} are more than {MAX_PIXELS:,} pixels; cut or shrink it"
        )
    most = max(_MOST_PIXELS_A_BYTE * length, _PLAIN_WEBP if image.format == "WEBP" else 0)
    if width * height > most:
        raise BadImageError(f"{length} bytes can't hold {width} x {height} pixels")
    return image


def _is_quarter_turn(image: PILImage.Image) -> bool:
    """Returns whether the EXIF rotation swaps height and width; reads no pixels."""
    # `getexif` decodes the whole PNG when the header holds no EXIF block: ask `info` first.
    has_exif = bool(image.info.get("exif"))
    return has_exif and image.getexif().get(_ORIENTATION_TAG) in _QUARTER_TURNS


def _to_rgb(image: PILImage.Image, file_format: str | None) -> np.ndarray:
    """Returns the colours, those of transparent pixels too."""
    if _is_16_bit_grey(image.mode) and (image.mode != "I" or file_format == "PNG"):
        # `convert` would clip everything above 255. 16-bit colour is already reduced to 8 bits by
        # Pillow's PNG reader.
        grey = (np.asarray(image).astype(np.int64) * 255 + 32767) // 65535
        return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette's transparency is only understood this way
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _alpha(
    image: PILImage.Image, info: Mapping[str | tuple[int, int], object], depth: int
) -> np.ndarray | None:
    """Returns the opacity, uint8 (h, w); None where every pixel is opaque by its format.

    Args:
        image: The decoded image.
        info: The file's metadata; `transparency` is the one colour, palette index or table of a
            PNG or GIF.
        depth: Bits of a sample in the file.
    """
    mode = image.mode
    if mode in ("RGBA", "LA", "PA", *_PREMULTIPLIED):
        return np.asarray(image.getchannel("A" if mode not in _PREMULTIPLIED else "a"))
    given = info.get("transparency")
    if given is None:
        return None
    if mode == "P":
        return np.asarray(image.convert("RGBA").getchannel("A"))
    if mode == "RGB" and isinstance(given, tuple):
        # Pillow has kept the upper 8 of 16 bits.
        key = np.array(given) >> (depth - 8)
        return np.where((np.asarray(image) == key).all(-1), 0, 255).astype(np.uint8)
    if not isinstance(given, int):
        return None
    if mode == "1":  # older Pillow says 1, newer 255
        clear = np.asarray(image) == bool(given)
    elif mode == "L":
        # The file gives the transparent value as stored; Pillow stretches 2 and 4 bits to 8.
        clear = np.asarray(image) == given * 255 // (2 ** min(depth, 8) - 1)
    elif _is_16_bit_grey(mode):
        clear = np.asarray(image) == given
    else:
        return None
    return np.where(clear, 0, 255).astype(np.uint8)


def _is_16_bit_grey(mode: str) -> bool:
    return mode.startswith("I;16") or mode == "I"  # the latter in older Pillow


def _bits(image: ImageFile.ImageFile) -> int:
    """Returns the bits of a sample of an opened, not yet loaded, image; 8 where it is no PNG."""
    arguments = image.tile[0][3] if image.format == "PNG" and image.tile else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments or ""
    bits = raw_mode.partition(";")[2].rstrip("B")
    return int(bits) if bits.isdigit() else 8


def _ends_well(file_format: str, file: BinaryIO) -> bool:
    """Returns False where the last bytes suggest that a part of the file is missing."""
    length = _length_of(file)
    file.seek(0)
    head = file.read(12)
    file.seek(max(0, length - 16))
    tail = file.read(16)
    if file_format in ("JPEG", "MPO"):
        return tail.endswith(b"\xff\xd9")
    if file_format == "PNG":
        return b"IEND" in tail
    if file_format == "GIF":
        return tail.endswith(b"\x3b")
    if file_format == "WEBP":
        return length >= int.from_bytes(head[4:8], "little") + 8
    if file_format == "BMP":
        return length >= int.from_bytes(head[2:6], "little")
    return False


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns whatever a broken file makes Pillow raise into BadImageError with a short reason."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        reason = "the content is no JPEG, PNG, WebP, BMP, GIF, TIFF or DICOM image"
        raise BadImageError(reason) from error
    except Exception as error:
        # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, zlib.error and
        # others on damaged files: no list of them is complete.
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadImageError(" ".join(message.split())) from error
