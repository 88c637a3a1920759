"""Scenes made of several digits, with the class of every pixel and the box of every digit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.datasets import open_source

NUM_DIGITS = 10
NUM_CLASSES = 1 + NUM_DIGITS  # background first
_DIGITS = (2, 5)  # in a scene, both included
_SCALES = (0.8, 1.2)  # of a digit's side
_TRIES = 20  # to place a digit before it is left out
_OVERLAP = 0.15  # share of a digit's square that may cover another's
_INK = 0.4  # grey value from which a pixel belongs to the digit


class Scenes(NamedTuple):
    """Scenes and what is in them.

    Attributes:
        images: uint8 (N, side, side, 3), grey digits on black.
        classes: int32 (N, side, side): 0 for background, 1 + d for a pixel of the digit d. Where
            two overlap, the later one covers the earlier.
        boxes: float32 (N, 5, 4), the top, left, bottom and right edges in pixels of what is ink of
            each digit, also where a later one covers it; 0 where there are fewer digits.
        labels: int32 (N, 5), the digits; -1 where there are fewer.
    """

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def make_scenes(split: str, count: int, side: int, digit_side: int, seed: int) -> Scenes:
    """Composes scenes of two to five of the embedded digits, at random places and sizes.

    Args:
        split: Split of `mnist_5k` that the digits come from.
        count: N.
        side: Height and width of a scene in pixels.
        digit_side: Mean side of a digit's square in pixels; it varies by a fifth.
        seed: Draws digits, places and sizes.

    Example:
        >>> make_scenes("train", 100, side=128, digit_side=40, seed=0).images.shape
        (100, 128, 128, 3)
    """
    digits, labels = open_source("mnist_5k", split).as_numpy()
    assert labels is not None
    images = np.zeros((count, side, side), np.float32)
    classes = np.zeros((count, side, side), np.int32)
    boxes = np.zeros((count, _DIGITS[1], 4), np.float32)
    known = np.full((count, _DIGITS[1]), -1, np.int32)
    # One random stream a scene: a shorter list is the beginning of a longer one.
    for index in range(count):
        random = np.random.RandomState((seed, index))
        taken: list[tuple[int, int, int]] = []
        for _ in range(random.randint(_DIGITS[0], _DIGITS[1] + 1)):
            choice = random.randint(len(digits))
            size = min(side, round(digit_side * random.uniform(*_SCALES)))
            place = _free_place(random, taken, size, side)
            if place is None:
                continue
            digit = tf.image.resize(digits[choice][..., :1] / 255.0, (size, size)).numpy()[..., 0]
            ink = digit >= _INK
            window = (index, slice(place[0], place[0] + size), slice(place[1], place[1] + size))
            images[window] = np.maximum(images[window] * ~ink, digit)
            classes[window] = np.where(ink, 1 + labels[choice], classes[window])
            boxes[index, len(taken)] = _edges(ink, place)
            known[index, len(taken)] = labels[choice]
            taken.append((*place, size))
    grey = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    return Scenes(np.repeat(grey[..., None], 3, axis=-1), classes, boxes, known)


def _edges(ink: np.ndarray, place: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns top, left, bottom and right of the ink of a square at (top, left)."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    return (
        place[0] + rows[0],
        place[1] + columns[0],
        place[0] + rows[-1] + 1,
        place[1] + columns[-1] + 1,
    )


def _free_place(
    random: np.random.RandomState, taken: list[tuple[int, int, int]], size: int, side: int
) -> tuple[int, int] | None:
    """Returns (top, left) of a square that overlaps no other much; None if none was found."""
    for _ in range(_TRIES):
        top, left = random.randint(0, side - size + 1, 2)
        if all(_overlap((top, left, size), other) <= _OVERLAP for other in taken):
            return int(top), int(left)
    return None


def _overlap(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Returns the overlap of two squares (top, left, size) as a share of the smaller one."""
    height = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    width = min(one[1] + one[2], other[1] + other[2]) - max(one[1], other[1])
    return max(0, height) * max(0, width) / min(one[2], other[2]) ** 2
