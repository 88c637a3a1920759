"""Pictures of one coloured digit at a place, and captions that say what is seen, from a seed."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.datasets import open_source

SIDE = 24  # pixels
LENGTH = 10  # words of a caption at most
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_COLOURS = {
    "red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.4, 1.0),
    "yellow": (1.0, 1.0, 0.2), "purple": (0.9, 0.3, 1.0), "white": (1.0, 1.0, 1.0),
}  # fmt: skip
_PLACES = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
_SIZES = {"small": 10, "large": 14}  # pixels
_PATTERNS = (
    "a {size} {colour} {digit} at the {place}",
    "{colour} {digit} {size} {place}",
    "at the {place} is a {size} {digit} in {colour}",
    "the {digit} is {size} and {colour} at {place}",
)
_JITTER = 2  # pixels, of a place
COMBINATIONS = len(_DIGITS) * len(_COLOURS) * len(_PLACES) * len(_SIZES)

WORDS = sorted(
    {
        word
        for pattern in _PATTERNS
        for word in pattern.replace("{", "<").split()
        if not word.startswith("<")
    }
    | {word for name in (*_DIGITS, *_COLOURS, *_PLACES, *_SIZES) for word in name.split()}
)
"""The words of all captions; a word's id is its position and 1, 0 is padding."""


class Pairs(NamedTuple):
    """Pictures and their captions.

    Attributes:
        images: float32 (N, 24, 24, 3) in [0, 1].
        ids: int32 (N, 10), word ids, 0 where a caption has ended.
        captions: The captions.
    """

    images: np.ndarray
    ids: np.ndarray
    captions: list[str]


def make_pairs(split: str, count: int, seed: int, distinct: bool = False) -> Pairs:
    """Draws digits of `mnist_5k`, in six colours, four places and two sizes, with captions.

    Args:
        split: Split that the digits come from.
        count: N; at most 480 where they are distinct.
        seed: Of all draws.
        distinct: Whether no two pictures show the same digit, colour, place and size, so that each
            caption is right for one picture alone.

    Example:
        >>> make_pairs("test", 3, seed=0).captions[1]
        'a large white zero at the bottom right'
    """
    digits, labels = open_source("mnist_5k", split).as_numpy()
    assert labels is not None
    random = np.random.RandomState(seed)
    every = list(itertools.product(range(10), _COLOURS, _PLACES, _SIZES))
    if distinct:
        chosen = random.permutation(len(every))[:count]
    else:
        chosen = random.randint(len(every), size=count)
    members = [np.flatnonzero(labels == digit) for digit in range(10)]
    rows, corners, captions = [], [], []
    for choice in chosen:
        digit, colour, place, size = every[choice]
        rows.append(random.choice(members[digit]))
        corner = np.array(_PLACES[place]) * (SIDE - _SIZES[size])
        corner += random.randint(-_JITTER, _JITTER + 1, 2)
        corners.append(np.clip(corner, 0, SIDE - _SIZES[size]))
        pattern = _PATTERNS[random.randint(len(_PATTERNS))]
        captions.append(pattern.format(size=size, colour=colour, digit=_DIGITS[digit], place=place))
    images = np.zeros((count, SIDE, SIDE, 3), np.float32)
    for name, side in _SIZES.items():
        ours = [index for index, choice in enumerate(chosen) if every[choice][3] == name]
        drawn = digits[[rows[index] for index in ours]][..., :1] / 255.0
        drawn = tf.image.resize(drawn, (side, side), antialias=True).numpy()
        for index, digit_drawn in zip(ours, drawn, strict=True):
            top, left = corners[index]
            colour = _COLOURS[every[chosen[index]][1]]
            images[index, top : top + side, left : left + side] = digit_drawn * np.array(
                colour, np.float32
            )
    return Pairs(np.clip(images, 0, 1), as_ids(captions), captions)


def as_ids(captions: list[str]) -> np.ndarray:
    """Returns word ids, int32 (N, 10), 0 after the end."""
    known = {word: number for number, word in enumerate(WORDS, 1)}
    ids = np.zeros((len(captions), LENGTH), np.int32)
    for row, caption in zip(ids, captions, strict=True):
        words = caption.split()
        row[: len(words)] = [known[word] for word in words]
    return ids
