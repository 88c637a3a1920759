"""The canvas: the common size and type, uint8, to which the host brings images of mixed sizes."""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.images import pixel_values

_LINES_FROM = 96  # pixels of a side: below, `_resize_in_lines` is the slower way


def host_size(image_size: int) -> int:
    """Returns the side of the square canvas that the host brings images of mixed sizes to.

    It is 10/7 of the side of the views (320 for 224): the host decodes and squashes an image onto
    the canvas, the device cuts the random crops from there. The original height and width travel
    along, so crop boxes are drawn in the original's geometry and their distribution is exact.
    What it changes: the pixels of a crop are resampled twice, and a crop whose side is below 0.7
    of the image's side is enlarged from the canvas, hence softer than one cut from an original
    that has more pixels (at the smallest area, 8%, its side is 0.28 of the canvas: 90 pixels for
    a view of 224). `--augment_on=host` crops the originals.

    Args:
        image_size: side of the views in pixels.

    Returns:
        `ceil(image_size * 10 / 7)`.

    Example:
        >>> host_size(224)
        320
    """
    return -(-image_size * 10 // 7)


def squash(image: tf.Tensor, side: int) -> tf.Tensor:
    """Returns images squashed to (..., side, side, c) uint8; a cached canvas is returned as is."""
    if image.dtype == tf.uint8 and image.shape[-3:-1] == (side, side):
        return image
    return resize_to_uint8(pixel_values.checked(image), side)  # checked before it is clipped


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Returns a uint8 image: others are brought to [0, 1] by their type, clipped and rounded."""
    if image.dtype == tf.uint8:
        return image
    scaled = tf.round(pixel_values.to_float(image) * 255.0)
    return tf.cast(tf.clip_by_value(scaled, 0.0, 255.0), tf.uint8)


def resize_to_uint8(image: tf.Tensor, side: int) -> tf.Tensor:
    """Squashes images to (side, side): bicubic with antialiasing, rounded and clipped to uint8.

    Args:
        image: (h, w, c) or (N, h, w, c), uint8, uint16 or float in [0, 1].
        side: height and width in pixels.

    Returns:
        uint8 tensor with the same leading and channel dimensions.
    """
    if image.dtype != tf.uint8:
        image = pixel_values.to_float(image) * 255.0
    if side >= _LINES_FROM:
        return _resize_in_lines(image, side)
    image = tf.cast(image, tf.float32)  # uint8 would come back as it is where it has that size
    return _rounded(tf.image.resize(image, (side, side), method="bicubic", antialias=True))


def _rounded(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)


def _resize_in_lines(image: tf.Tensor, side: int) -> tf.Tensor:
    """Returns what `tf.image.resize` gives, rounded, bit for bit, in half of its time.

    Its kernel adds whole rows of pixels, but goes through columns value by value. Here columns are
    resized as the rows of the transposed image: the same terms are added in the same order.
    """
    leading, channels = image.shape[:-3], image.shape[-1]
    height, width, depth = tf.unstack(tf.shape(image)[-3:])
    lines = _resize_lines(tf.reshape(image, [-1, height, width * depth]), side)
    lines = tf.transpose(tf.reshape(lines, [-1, side, width, depth]), [0, 2, 1, 3])
    lines = _rounded(_resize_lines(tf.reshape(lines, [-1, width, side * depth]), side))
    resized = tf.transpose(tf.reshape(lines, [-1, side, side, depth]), [0, 2, 1, 3])
    resized = tf.reshape(resized, tf.concat([tf.shape(image)[:-3], [side, side, depth]], 0))
    return tf.ensure_shape(resized, [*leading, side, side, channels])


def _resize_lines(lines: tf.Tensor, count: int) -> tf.Tensor:
    """Resizes (N, lines, values) to (N, count, values)."""
    scale = tf.stack([count / tf.cast(tf.shape(lines)[1], tf.float32), 1.0])
    resized = tf.raw_ops.ScaleAndTranslate(
        images=lines[:, :, tf.newaxis],
        size=[count, 1],
        scale=scale,
        translation=tf.zeros([2]),
        kernel_type="keyscubic",
        antialias=True,
    )
    return resized[:, :, 0]
