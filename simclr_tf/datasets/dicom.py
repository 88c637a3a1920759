"""DICOM files, grey or RGB, as a viewer shows them (pydicom, the extra `dicom`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from simclr_tf.datasets.bad_image import BadImageError, import_or_refuse
from simclr_tf.datasets.tiff import to_8_bits

if TYPE_CHECKING:
    from pydicom import Dataset

MAGIC, MAGIC_AT = b"DICM", 128
_GREY = ("MONOCHROME1", "MONOCHROME2")


def read_dicom_shape(file: BinaryIO, most_pixels: int) -> tuple[int, int, int]:
    """Returns (height, width, 3) of a DICOM file, without decoding it.

    Raises:
        BadImageError: It holds no image, or one that is too large.
    """
    held = import_or_refuse("pydicom", "DICOM", "dicom").dcmread(file, stop_before_pixels=True)
    return _shape(held, most_pixels)


def decode_dicom(file: BinaryIO, most_pixels: int) -> np.ndarray:
    """Decodes the first frame of a DICOM file to RGB.

    Grey values are rescaled by slope and intercept and seen through the file's first window
    (linear, linear exact or sigmoid); without a window the range that the stored bits can hold
    becomes 0 to 255. MONOCHROME1, in which small values are bright, is inverted. Tables of look-up
    (VOI LUT) are not used.

    Args:
        file: The file.
        most_pixels: Larger images are refused.

    Returns:
        uint8 (h, w, 3).

    Raises:
        BadImageError: It holds no image, or one that can't be decoded.

    Source: DICOM PS3.3, C.11.1 (modality LUT) and C.11.2 (window).
    """
    held = import_or_refuse("pydicom", "DICOM", "dicom").dcmread(file)
    _shape(held, most_pixels)
    if "PixelData" not in held:
        raise BadImageError("it holds no image, or is cut off")
    pixels = import_or_refuse("pydicom.pixels", "DICOM", "dicom")
    values = pixels.pixel_array(held, index=0)  # the others are not decoded
    grey = held.PhotometricInterpretation in _GREY
    bits = int(held.BitsStored)
    if not grey:
        if held.PhotometricInterpretation == "PALETTE COLOR":
            values = pixels.apply_color_lut(values, held)
            bits = 8 * values.itemsize
        return to_8_bits(values, 2**bits - 1)
    shown = _windowed(held, values.astype(np.float64), bits)
    if held.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.repeat(np.rint(shown * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _shape(held: Dataset, most_pixels: int) -> tuple[int, int, int]:
    if "Rows" not in held or "Columns" not in held:
        raise BadImageError("it holds no image")
    height, width = int(held.Rows), int(held.Columns)
    if not 0 < height * width <= most_pixels:
        raise BadImageError(f"{width} x {height} are no pixels, or too many")
    if held.PhotometricInterpretation not in _GREY and held.SamplesPerPixel not in (1, 3):
        raise BadImageError(f"its colours are {held.PhotometricInterpretation}, which is not read")
    return height, width, 3


def _windowed(held: Dataset, values: np.ndarray, bits: int) -> np.ndarray:
    """Returns grey values in [0, 1]."""
    slope, intercept = _number(held, "RescaleSlope", 1.0), _number(held, "RescaleIntercept", 0.0)
    centre, width = _number(held, "WindowCenter", 0.0), _number(held, "WindowWidth", 0.0)
    kind = str(held.get("VOILUTFunction", "LINEAR"))
    if "WindowCenter" not in held or width < 1 and (kind == "LINEAR" or width <= 0):
        lowest = -(2 ** (bits - 1)) if held.PixelRepresentation else 0
        return ((values - lowest) / (2**bits - 1)).clip(0, 1)
    values = values * slope + intercept
    if kind == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (values - centre) / width).clip(-500, 500)))
    if kind == "LINEAR_EXACT":
        return ((values - centre) / width + 0.5).clip(0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)


def _number(held: Dataset, name: str, default: float) -> float:
    """Returns a number of the file; of several the first."""
    value: Any = held.get(name)
    if value is None or value == "":
        return default
    return float(
        value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value
    )
