"""Small image files, whole and cut off, and the examples that a source makes of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

RED = (200, 30, 60)


def save(path, size=(12, 10), color=RED, mode="RGB", **options):
    """Writes a small image of one colour; `size` is (width, height) as in Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    (image if mode == "RGB" else image.convert(mode)).save(path, **options)
    return path


def noise(path, seed=0, size=(24, 18), **options):
    """Writes an image of random pixels, by the seed; returns the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def truncate(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def decode_all(source):
    """Decodes every example of a source: list of numpy dicts."""
    return list(source.ordered_keys().map(lambda key: source.decode(key)).as_numpy_iterator())


def make_classes(root, counts):
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i}.png", size=(8 + i % 3, 8))
