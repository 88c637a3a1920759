"""What shows through the transparent pixels of an image, in integer arithmetic with NumPy.

`transparency_ops` computes the same with TensorFlow, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_tf.errors import UserError

if TYPE_CHECKING:  # `--help` reads the names below without importing NumPy
    import numpy as np

TRANSPARENT = ("white", "black", "keep", "mean")
DEFAULT = "white"
# The behaviour before there was a choice: runs and exports from then do not record one.
BEFORE = "keep"
WHAT_IT_DOES = (
    "What shows through transparent pixels: white, black, mean (the image's mean colour, weighted "
    "by opacity, which hides a drawing of one colour), or keep (the colours that the file happens "
    "to store there)."
)


def check_transparent(transparent: str) -> None:
    """Raises a UserError unless `transparent` is one of `TRANSPARENT`."""
    if transparent not in TRANSPARENT:
        raise UserError(
            f"Expected transparent to be one of {', '.join(TRANSPARENT)}; "
            f"received: {transparent!r}."
        )


def composite(colours: np.ndarray, alpha: np.ndarray, transparent: str) -> np.ndarray:
    """Lays an image over a background, at the image's own size: before any resizing.

    A pixel of colour c and opacity a becomes (c a + g (255 - a)) / 255, rounded. The background g
    is 255 for 'white' and 0 for 'black'. For 'mean' it is, in each channel, the sum of c a over all
    pixels divided by the sum of a, rounded: the mean colour, weighted by opacity. For an image that
    is transparent everywhere it is white. 'keep' returns the colours.

    Args:
        colours: uint8 (h, w, c), not multiplied by alpha.
        alpha: uint8 (h, w), 0 transparent to 255 opaque.
        transparent: one of `TRANSPARENT`.

    Returns:
        uint8 (h, w, c).

    Source: the 'over' operator, Porter and Duff 1984.

    Example:
        >>> composite(np.zeros((1, 1, 3), np.uint8), np.array([[51]], np.uint8), "white")
        array([[[204, 204, 204]]], dtype=uint8)
    """
    if transparent == "keep" or alpha.min() == 255:
        return colours
    import numpy as np

    background: np.ndarray | int = 255 if transparent == "white" else 0
    if transparent == "mean":
        total = int(alpha.sum(dtype=np.int64))
        # float64 sums of integers are exact, and several times faster than integer sums.
        sums = np.zeros(colours.shape[-1], np.int64)
        for rows in _strips(colours):
            flat = colours[rows].reshape(-1, colours.shape[-1]).astype(np.float64)
            sums += (alpha[rows].reshape(-1).astype(np.float64) @ flat).astype(np.int64)
        background = ((2 * sums + total) // (2 * total)).astype(np.int32) if total else 255
    result = np.empty_like(colours)
    for rows in _strips(colours):
        weights = alpha[rows][..., np.newaxis].astype(np.int32)
        result[rows] = (colours[rows] * weights + background * (255 - weights) + 127) // 255
    return result


def _strips(image: np.ndarray) -> list[slice]:
    """Returns rows of about a million pixels: a large image's integers would take gigabytes."""
    height = max(1, (1 << 20) // max(1, image.shape[1]))
    return [slice(top, top + height) for top in range(0, len(image), height)]


def is_flat(image: np.ndarray) -> bool:
    """Returns whether an image (h, w, c) is of one colour.

    Comparing every 16th pixel first settles nearly every other image, in microseconds.
    """
    first = image[0, 0]
    return bool((image[::16, ::16] == first).all() and (image == first).all())
