"""A temporary folder of JPEG files to time pipelines on."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

SIZE = (375, 500)  # height and width, as ImageNet's are on average
MOST_DIFFERENT = 256


@contextmanager
def photographs(count: int) -> Iterator[str]:
    """Makes a temporary folder of JPEG files of 375 x 500 pixels.

    At most 256 of them are different pictures; the others are copies under other names, which take
    as long to read and to decode.

    Args:
        count: Number of files, in two classes.
    """
    different = [_photograph(number) for number in range(min(count, MOST_DIFFERENT))]
    with tempfile.TemporaryDirectory() as parent:
        folder = os.path.join(parent, "photographs")
        for label in ("a", "b"):
            os.makedirs(os.path.join(folder, label))
        for number in range(count):
            path = os.path.join(folder, "ab"[number % 2], f"{number:07d}.jpg")
            with open(path, "wb") as file:
                file.write(different[number % len(different)])
        yield folder


def _photograph(number: int) -> bytes:
    """Returns a JPEG file of blots and grain: pure noise would be ten times as large as a photo."""
    from PIL import Image

    random = np.random.RandomState(number)
    height, width = SIZE
    blots = Image.fromarray(random.randint(0, 256, (24, 32, 3)).astype(np.uint8))
    image = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))
    image = image.astype(np.int16) + random.randint(-12, 13, image.shape)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
