"""Crop and resize along one side of an image as a matrix: whole, or its bands near the diagonal."""

from __future__ import annotations

import math

import tensorflow as tf


def resize_matrix(
    start: tf.Tensor,
    length: tf.Tensor,
    size_in: int | tf.Tensor,
    size_out: int,
    method: str,
    flip: tf.Tensor | None,
) -> tf.Tensor:
    """Returns the matrix (N, size_out, size_in) that crops and resizes columns of pixels.

    Args:
        start: (N,) first pixel of the crop.
        length: (N,) pixels of the crop.
        size_in: pixels of the source.
        size_out: pixels of the result.
        method: 'bicubic' or 'bilinear'.
        flip: None, or (N,) booleans: where true the result runs backwards.

    Source: as `geometry.crop_and_resize`.

    Example:
        >>> resize_matrix(tf.constant([0.0]), tf.constant([8.0]), 8, 4, "bicubic", None).shape
        TensorShape([1, 4, 8])
    """
    centre = _centres(start, length, size_out, flip)
    source = tf.range(size_in, dtype=tf.float32)  # (size_in,)
    return _weights(centre, source, start, length, method)


def resize_bands(
    start: tf.Tensor, length: tf.Tensor, size_in: int, size_out: int, flip: tf.Tensor, tile: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a bicubic resize along one side of one image, in bands of a few result pixels.

    Args:
        start: scalar, first pixel of the crop.
        length: scalar, pixels of the crop, at most `size_in`.
        size_in: pixels of the source.
        size_out: pixels of the result.
        flip: scalar boolean: where true the result runs backwards.
        tile: pixels of the result in a band; the last band may extend beyond the result. A band
            of one pixel reads the four source pixels that its interpolation takes.

    Returns:
        For each of the T bands the first source pixel that it reads, int32 (T,), and its matrix
        over the K source pixels from there on, float32 (T, tile, K).

    Source: as `geometry.crop_and_resize`, of which this is one side of one image.

    Example:
        >>> zero, whole = tf.constant(0.0), tf.constant(320.0)
        >>> resize_bands(zero, whole, 320, 224, tf.constant(False), tile=28)[0].shape
        TensorShape([8])
    """
    bands = -(-size_out // tile)
    centre = _centres(start[tf.newaxis], length[tf.newaxis], size_out, flip[tf.newaxis])
    last = tf.repeat(centre[:, -1:], bands * tile - size_out, axis=1)
    centre = tf.reshape(tf.concat([centre, last], 1), [bands, tile])
    reads = min(size_in, math.ceil((tile - 1) * size_in / size_out) + 4)
    first = tf.math.floor(tf.reduce_min(centre, axis=1)) - 1.0
    first = tf.clip_by_value(first, 0.0, float(size_in - reads))
    pixels = first[:, tf.newaxis, tf.newaxis] + tf.range(reads, dtype=tf.float32)
    start, length = (tf.repeat(value[tf.newaxis], bands) for value in (start, length))
    weights = _unscaled_weights(centre, pixels, start, length, "bicubic")
    if reads > 4:
        # All but four are zero: adding those up too would take longer than the rest.
        four = tf.math.floor(centre)[:, :, tf.newaxis] - 1.0 + tf.range(4, dtype=tf.float32)
        total = tf.reduce_sum(_unscaled_weights(centre, four, start, length, "bicubic"), axis=2)
        weights *= 1.0 / total[:, :, tf.newaxis]
    else:
        weights /= tf.reduce_sum(weights, axis=2, keepdims=True)
    return tf.cast(first, tf.int32), weights


def _centres(
    start: tf.Tensor, length: tf.Tensor, size_out: int, flip: tf.Tensor | None
) -> tf.Tensor:
    """Returns (N, size_out): the centre of each result pixel, in source pixels."""
    index = tf.range(size_out, dtype=tf.float32)
    if flip is not None:
        index = tf.where(tf.cast(flip, tf.bool)[:, tf.newaxis], index[::-1], index)
    start, length = start[:, tf.newaxis], length[:, tf.newaxis]
    return start + (index + 0.5) * (length / size_out) - 0.5


def _weights(
    centre: tf.Tensor, pixels: tf.Tensor, start: tf.Tensor, length: tf.Tensor, method: str
) -> tf.Tensor:
    """Returns (N, size_out, K): how much of `pixels`, (K,) or (N, 1, K), goes into each pixel."""
    weights = _unscaled_weights(centre, pixels, start, length, method)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _unscaled_weights(
    centre: tf.Tensor, pixels: tf.Tensor, start: tf.Tensor, length: tf.Tensor, method: str
) -> tf.Tensor:
    """Returns `_weights` before they are scaled to a sum of one."""
    distance = tf.abs(centre[:, :, tf.newaxis] - pixels)
    near = tf.nn.relu(1.0 - distance)
    if method == "bilinear":
        weights = near
    else:
        # Keys's piecewise cubic with a = -0.5, written over near = [1 - d]+ and far = [2 - d]+
        far = tf.nn.relu(2.0 - distance)
        weights = near * near * (1.0 - 2.0 * near) + 0.5 * far * far * (far - 1.0)
    # Only pixels of the box count: their weights are scaled to sum to one. The margin keeps a box
    # edge that is an integer up to rounding from reading the pixel beyond it.
    margin = 1e-3
    first = tf.math.floor(start + margin)[:, tf.newaxis, tf.newaxis]
    last = tf.math.ceil(start + length - margin)[:, tf.newaxis, tf.newaxis] - 1.0
    inside = tf.logical_and(pixels >= first, pixels <= last)
    return weights * tf.cast(inside, tf.float32)
