"""Random numbers for augmentation: stateless, and the same in a plain graph and under XLA.

TensorFlow's own `tf.random.stateless_uniform` gives other floats under XLA than in a plain graph
for one seed, but its full-range integers agree (Philox on both): everything here starts from them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

# The 24 orders of four operations: one uniform integer picks an order, without a shuffle (which
# has no GPU kernel and does not compile under XLA).
ORDERS: tuple[tuple[int, ...], ...] = tuple(itertools.permutations(range(4)))

Seed: TypeAlias = "tf.Tensor | Sequence[int]"
"""A stateless seed: two integers."""


def fold_in(seed: Seed, data: int | tf.Tensor) -> tf.Tensor:
    """Returns a new seed, independent of `seed` and different for every `data`.

    Args:
        seed: integer tensor of shape (2,).
        data: integer, or scalar integer tensor.

    Returns:
        int32 tensor of shape (2,).

    Example:
        >>> fold_in(tf.constant([1, 2]), 3).shape
        TensorShape([2])
    """
    seed = tf.cast(seed, tf.int32)
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(data, tf.int32), alg="philox")


def uniform(
    seed: Seed,
    shape: tf.Tensor | Sequence[int],
    low: tf.Tensor | float = 0.0,
    high: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Draws from the uniform distribution on [low, high).

    Args:
        seed: integer tensor of shape (2,).
        shape: of the result.
        low: lower end, broadcast against the result.
        high: upper end.

    Returns:
        float32 tensor; multiples of 2^-24 when low, high are 0, 1.

    Example:
        >>> bool(tf.reduce_all(uniform(tf.constant([1, 2]), [1000]) < 1.0))
        True
    """
    bits = tf.random.stateless_uniform(
        shape, tf.cast(seed, tf.int32), None, None, tf.int32, alg="philox"
    )
    unit = tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24 + 0.5  # exact
    return unit * (high - low) + low


def normal(seed: Seed, shape: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Draws from the standard normal distribution (Box and Muller), float32 of `shape`.

    Example:
        >>> normal(tf.constant([1, 2]), [2, 3]).shape
        TensorShape([2, 3])
    """
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - uniform(fold_in(seed, 0), shape)))
    return radius * tf.cos(2.0 * math.pi * uniform(fold_in(seed, 1), shape))


def crop_boxes(
    seed: Seed,
    heights: tf.Tensor,
    widths: tf.Tensor,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    min_covered: float = 0.1,
    attempts: int = 100,
) -> tf.Tensor:
    """Draws one random crop box per image, distributed as tf.image.sample_distorted_bounding_box.

    The object is the whole image. An attempt draws an aspect ratio, then a whole number of rows
    between those of the smallest and of the largest box; the columns follow by rounding. The
    first attempt within the area range and covering `min_covered` wins, else the box is the whole
    image. With the defaults `min_covered` makes 0.1 the smallest area reached, although `area`
    starts at 0.08, as in the release. The offset never takes its largest value (TensorFlow's
    bound is exclusive).

    Args:
        seed: integer tensor of shape (2,).
        heights: (N,) rows of each image in pixels, > 0.
        widths: (N,) columns.
        area: range of the box's share of the image, in (0, 1].
        aspect: range of width / height of the box.
        min_covered: smallest share of the image that a box must cover.
        attempts: candidates per image, all drawn at once.

    Returns:
        float32 (N, 4): whole numbers y, x, height, width in pixels.

    Source: SimCLR (arXiv:2002.05709) appendix A, "random crop and resize".

    Example:
        >>> crop_boxes(tf.constant([1, 2]), tf.constant([100]), tf.constant([140])).shape
        TensorShape([1, 4])
    """
    rows = tf.cast(heights, tf.float32)[:, tf.newaxis]  # (N, 1)
    columns = tf.cast(widths, tf.float32)[:, tf.newaxis]
    count = tf.shape(rows)[0]
    # Area and aspect do not depend on the offsets: these are drawn for the winner only.
    draws = uniform(fold_in(seed, 0), tf.stack([2, count, attempts]))
    ratio = draws[0] * (aspect[1] - aspect[0]) + aspect[0]  # (N, attempts)
    smallest, largest = area[0] * columns * rows, area[1] * columns * rows

    lowest = tf.math.rint(tf.sqrt(smallest / ratio))
    highest = tf.math.rint(tf.sqrt(largest / ratio))
    widest = tf.math.floor((columns + 0.5) / ratio)
    widest -= tf.cast(tf.math.rint(widest * ratio) > columns, tf.float32)
    highest = tf.where(tf.math.rint(highest * ratio) > columns, widest, highest)
    highest = tf.minimum(highest, rows)
    lowest = tf.minimum(lowest, highest)
    high = lowest + tf.math.floor(draws[1] * (highest - lowest + 1.0))
    # Rounding may have left the area range: one row more, then one row less.
    high += tf.cast(high * tf.math.rint(high * ratio) < smallest, tf.float32)
    high -= tf.cast(high * tf.math.rint(high * ratio) > largest, tf.float32)
    wide = tf.math.rint(high * ratio)

    covered = high * wide
    valid = (covered >= smallest) & (covered <= largest) & (covered >= 1.0)
    valid &= (wide <= columns) & (high <= rows) & (covered / (rows * columns) >= min_covered)
    found = tf.reduce_any(valid, axis=1, keepdims=True)  # (N, 1)
    number = tf.where(valid, tf.range(attempts), attempts - 1)
    first = tf.reduce_min(number, axis=1, keepdims=True)
    high = tf.where(found, tf.gather(high, first, batch_dims=1), rows)  # (N, 1)
    wide = tf.where(found, tf.gather(wide, first, batch_dims=1), columns)
    offsets = uniform(fold_in(seed, 1), tf.stack([count, 2]))
    top = tf.math.floor(offsets[:, :1] * (rows - high))
    left = tf.math.floor(offsets[:, 1:] * (columns - wide))
    return tf.concat([top, left, high, wide], axis=1)


def color_parameters(
    seed: Seed,
    count: int | tf.Tensor,
    strength: float,
    brightness: str = "v2",
    gray_probability: float = 0.2,
) -> dict[str, tf.Tensor]:
    """Draws the colour distortion of `count` images.

    Args:
        seed: integer tensor of shape (2,).
        count: number of images N.
        strength: s of the paper: brightness, contrast and saturation vary by 0.8 s, hue by 0.2 s
            of the circle. With s > 1.25 factors are drawn from zero, not from below it.
        brightness: 'v2': a factor; 'v1': a shift in [-0.8 s, 0.8 s).
        gray_probability: Share of the images that lose their colour.

    Returns:
        'jitter' (N,) bool with probability 0.8; 'color' (N, 4) and 'order' (N, 4) int32, as
        `color.color_jitter` takes them; 'gray' (N,) bool with `gray_probability`.

    Source: SimCLR appendix A, "color distortion".

    Example:
        >>> sorted(color_parameters(tf.constant([1, 2]), 8, 1.0))
        ['color', 'gray', 'jitter', 'order']
    """
    draws = uniform(seed, tf.stack([count, 7]))
    spread = 0.8 * strength
    low = [max(1.0 - spread, 0.0)] * 3 + [-0.2 * strength]
    high = [1.0 + spread] * 3 + [0.2 * strength]
    if brightness == "v1":
        low[0], high[0] = -spread, spread
    low, high = tf.constant(low), tf.constant(high)
    which = tf.cast(draws[:, 6] * len(ORDERS), tf.int32)
    return {
        "jitter": draws[:, 0] < 0.8,
        "gray": draws[:, 1] < gray_probability,
        "color": draws[:, 2:6] * (high - low) + low,
        "order": tf.gather(tf.constant(ORDERS), which),
    }


def blur_parameters(seed: Seed, count: int | tf.Tensor) -> dict[str, tf.Tensor]:
    """Draws the blur of `count` images: 'blur' (N,) bool with probability 0.5, 'sigma' (N,).

    Sigma is uniform in [0.1, 2.0) pixels, one per image. Source: SimCLR appendix A.

    Example:
        >>> blur_parameters(tf.constant([1, 2]), 8)["sigma"].shape
        TensorShape([8])
    """
    draws = uniform(seed, tf.stack([count, 2]))
    return {"blur": draws[:, 0] < 0.5, "sigma": draws[:, 1] * 1.9 + 0.1}
