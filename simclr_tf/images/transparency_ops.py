"""Decoding images and filling their transparent pixels, with TensorFlow operations alone."""

from __future__ import annotations

import tensorflow as tf

_PNG = b"\x89PNG\r\n\x1a\n"


def decode_encoded(encoded: tf.Tensor, channels: int, transparent: str) -> tf.Tensor:
    """Decodes one file; fills a transparent PNG as `transparency.composite` does.

    Of the formats that TensorFlow decodes, only PNG has opacity: a channel, a palette's, or one
    transparent colour. The transparent index of a GIF is ignored; WebP can't be decoded.

    Args:
        encoded: a string, the content of a JPEG, PNG, GIF or BMP file.
        channels: 1 or 3, of the result.
        transparent: one of `transparency.TRANSPARENT`.

    Returns:
        uint8 (h, w, channels).

    Example:
        >>> decode_encoded(tf.io.read_file("drawing.png"), 3, "white")
    """

    def plain() -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels, expand_animations=False)
        return tf.ensure_shape(image, [None, None, channels])

    if transparent == "keep":
        return plain()

    def over_background() -> tf.Tensor:
        image = tf.io.decode_png(encoded, 4)
        if channels == 1:  # grey as the decoder computes it, which can't decode grey with opacity
            image = tf.concat([tf.io.decode_png(encoded, 1), image[..., 3:]], axis=-1)
        return tf.ensure_shape(composite(image, transparent), [None, None, channels])

    is_png = tf.equal(tf.strings.substr(encoded, 0, len(_PNG)), _PNG)
    return tf.cond(is_png, over_background, plain)


def composite(image: tf.Tensor, transparent: str) -> tf.Tensor:
    """Lays an image with opacity over a background; see `transparency.composite`.

    Args:
        image: uint8 (h, w, c + 1); the last channel is the opacity.
        transparent: one of `transparency.TRANSPARENT`.

    Returns:
        uint8 (h, w, c).
    """
    colours, alpha = image[..., :-1], image[..., -1:]
    if transparent == "keep":
        return colours

    def over_background() -> tf.Tensor:
        values, weights = tf.cast(colours, tf.int32), tf.cast(alpha, tf.int32)
        background = tf.constant(255 if transparent == "white" else 0)
        if transparent == "mean":
            total = tf.reduce_sum(tf.cast(weights, tf.int64))
            sums = tf.reduce_sum(tf.cast(values * weights, tf.int64), [0, 1])
            mean = (2 * sums + total) // tf.maximum(2 * total, 1)
            background = tf.where(total > 0, tf.cast(mean, tf.int32), 255)
        return tf.cast((values * weights + background * (255 - weights) + 127) // 255, tf.uint8)

    is_opaque = tf.equal(tf.reduce_min(alpha), 255)
    return tf.cond(is_opaque, lambda: colours, over_background)
