"""Batched image geometry with one set of parameters per image: crop, resize, flip, blur.

Images are channels-last, shape (N, H, W, C), float32 with [0, 1] as the nominal range. Every
function is deterministic, free of loops over images, has GPU kernels throughout and compiles under
XLA. Crop with resize, flip and blur are separable linear maps: one small matrix for each side and
image, applied as two batched matrix products. On GPUs of the Ampere generation or later TensorFlow
rounds the inputs of such products to TF32 (relative error 2^-11, an eighth of a grey level of 255);
`tf.config.experimental.enable_tensor_float_32_execution(False)` turns that off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.images.pixel_values import to_float
from simclr_tf.images.resizing import resize_matrix
from simclr_tf.typing import Images

Numbers: TypeAlias = "tf.Tensor | np.ndarray | float | Sequence[object]"
"""What `tf.cast` makes a tensor of: a number for all images, or one for each, also as a list."""


def clip(images: tf.Tensor) -> tf.Tensor:
    """Returns images clipped to [0, 1] (bicubic interpolation and colour changes overshoot)."""
    return tf.clip_by_value(images, 0.0, 1.0)


def crop_and_resize(
    images: Images,
    boxes: Numbers,
    height: int,
    width: int,
    method: str = "bicubic",
    flip: tf.Tensor | None = None,
) -> tf.Tensor:
    """Crops one box from each image and resizes it, as tf.image.resize without antialiasing.

    Equal to slicing the box out and resizing it: no pixel outside of the box is read. A box with
    fractional edges (drawn in the geometry of an image that the host then squashed onto a canvas)
    reads the pixels that it touches.

    Args:
        images: (N, H, W, C), uint8 or float.
        boxes: (N, 4), each row (y, x, height, width) in pixels of `images`, integer or float.
        height: rows of the result.
        width: columns of the result.
        method: 'bicubic' (Keys, a = -0.5, half-pixel centres) or 'bilinear'.
        flip: None, or (N,) booleans: where true the result is mirrored left to right.

    Returns:
        float32 (N, height, width, C). Bicubic results may leave [0, 1]: see `clip`.

    Raises:
        UserError: for an unknown method.

    Source: SimCLR (arXiv:2002.05709) appendix A; TensorFlow's ResizeBicubic, whose table of 1,024
    weights differs from the exact kernel by up to 3e-4.

    Example:
        >>> crop_and_resize(tf.zeros([1, 40, 60, 3]), [[5, 5, 30, 40]], 32, 32).shape
        TensorShape([1, 32, 32, 3])
    """
    if method not in ("bicubic", "bilinear"):
        raise UserError(
            f"Expected method 'bicubic' or 'bilinear'; received: {method!r}. Use one of them."
        )
    images = to_float(images)
    boxes = tf.cast(boxes, tf.float32)
    _, rows_in, columns_in, _ = _shape(images)
    rows = resize_matrix(boxes[:, 0], boxes[:, 2], rows_in, height, method, None)
    columns = resize_matrix(boxes[:, 1], boxes[:, 3], columns_in, width, method, flip)
    return _separable(images, rows, columns)


def flip_left_right(images: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    """Mirrors the images for which `flip`, (N,) booleans, is true; images (N, H, W, C)."""
    return tf.where(per_image(flip, tf.bool), images[:, :, ::-1], images)


def central_crop_and_resize(
    images: Images, height: int, width: int, crop_proportion: float = 0.875
) -> tf.Tensor:
    """Crops the centre and resizes it bicubically: the release's evaluation preprocessing.

    The crop has the aspect ratio of the result and keeps `crop_proportion` of the tighter side.

    Args:
        images: one image (H, W, C), also with unknown H and W (the form for `tf.data` on the
            host), or a batch (N, H, W, C); uint8 or float.
        height: rows of the result.
        width: columns of the result.
        crop_proportion: share of the tighter side that is kept, in (0, 1].

    Returns:
        float32 (height, width, C) or (N, height, width, C), clipped to [0, 1].

    Source: the release's evaluation (SimCLR appendix B.5).

    Example:
        >>> central_crop_and_resize(tf.zeros([300, 200, 3]), 112, 112).shape
        TensorShape([112, 112, 3])
    """
    images = to_float(images)
    batched = images.shape.rank == 4
    shape = tf.shape(images)
    rows_in, columns_in = (shape[1], shape[2]) if batched else (shape[0], shape[1])
    high, wide = tf.cast(rows_in, tf.float32), tf.cast(columns_in, tf.float32)
    aspect = width / height
    wider = aspect > wide / high  # than the image: its width is the tighter side
    crop_high = tf.math.rint(
        tf.where(wider, crop_proportion / aspect * wide, crop_proportion * high)
    )
    crop_wide = tf.math.rint(
        tf.where(wider, crop_proportion * wide, crop_proportion * aspect * high)
    )
    top = tf.math.floor((high - crop_high + 1) / 2)
    left = tf.math.floor((wide - crop_wide + 1) / 2)
    if batched:
        box = tf.stack([top, left, crop_high, crop_wide])
        boxes = tf.tile(box[tf.newaxis], [shape[0], 1])
        return clip(crop_and_resize(images, boxes, height, width))
    top, left, crop_high, crop_wide = (
        tf.cast(value, tf.int32) for value in (top, left, crop_high, crop_wide)
    )
    image = images[top : top + crop_high, left : left + crop_wide]
    image = tf.image.resize(image, [height, width], method="bicubic")
    return clip(tf.ensure_shape(image, [height, width, images.shape[-1]]))


def gaussian_blur(images: Images, sigma: Numbers, kernel_size: int) -> tf.Tensor:
    """Blurs each image with its own Gaussian; pixels beyond the border count as zero ('SAME').

    Args:
        images: (N, H, W, C), uint8 or float.
        sigma: (N,) or a scalar: standard deviation in pixels, > 0.
        kernel_size: taps along a side; as in the release the radius is kernel_size // 2, so an
            even size acts as the next odd one, and 0 or 1 changes nothing.

    Returns:
        float32 (N, H, W, C).

    Source: SimCLR appendix A; the release gives kernel_size = image_size // 10.

    Example:
        >>> float(gaussian_blur(tf.ones([1, 9, 9, 1]), [0.5], 3)[0, 4, 4, 0])
        1.0
    """
    images = to_float(images)
    radius = int(kernel_size) // 2
    if radius == 0:
        return images
    batch, rows, columns, _ = _shape(images)
    sigma = tf.broadcast_to(tf.cast(sigma, tf.float32), [batch])
    return _separable(images, blur_matrix(sigma, rows, radius), blur_matrix(sigma, columns, radius))


def sample(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Reads images between their pixels, bilinearly; outside of them, the nearest border pixel.

    Args:
        images: float32 (N, H, W, C) of known height and width.
        rows: float32 (N, P, Q): where along the height, in pixels; the first row's centre is 0.
        columns: float32 (N, P, Q): where along the width.

    Returns:
        float32 (N, P, Q, C). Made of gathers alone, which compile under XLA.

    Example:
        >>> image = tf.reshape([0.0, 1.0, 2.0, 3.0], [1, 2, 2, 1])
        >>> sample(image, tf.constant([[[0.5]]]), tf.constant([[[0.5]]])).numpy().item()
        1.5
    """
    height, width = images.shape[1:3]
    pixels = tf.reshape(images, [-1, height * width, images.shape[3]])
    rows = tf.clip_by_value(rows, 0.0, height - 1.0)
    columns = tf.clip_by_value(columns, 0.0, width - 1.0)
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., tf.newaxis], (columns - left)[..., tf.newaxis]
    top, left = tf.cast(top, tf.int32), tf.cast(left, tf.int32)
    bottom, beside = tf.minimum(top + 1, height - 1), tf.minimum(left + 1, width - 1)

    def row(y: tf.Tensor) -> tf.Tensor:
        near, far = (tf.gather(pixels, y * width + x, batch_dims=1) for x in (left, beside))
        return near + right * (far - near)

    above, below = row(top), row(bottom)
    return above + down * (below - above)


def _separable(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Applies rows (N, h, H) and columns (N, w, W) to images (N, H, W, C): (N, h, w, C)."""
    batch, height, width, channels = _shape(images)
    out_height, out_width = _shape(rows)[1], _shape(columns)[1]
    x = tf.matmul(rows, tf.reshape(images, [batch, height, width * channels]))
    x = tf.transpose(tf.reshape(x, [batch, out_height, width, channels]), [0, 2, 1, 3])
    x = tf.matmul(columns, tf.reshape(x, [batch, width, out_height * channels]))
    return tf.transpose(tf.reshape(x, [batch, out_width, out_height, channels]), [0, 2, 1, 3])


def blur_matrix(sigma: tf.Tensor, size: int | tf.Tensor, radius: int) -> tf.Tensor:
    """Returns the convolution with a Gaussian along one side as a matrix, zeros outside.

    Args:
        sigma: (N,) standard deviation of each image's Gaussian in pixels, > 0.
        size: pixels of the side.
        radius: taps on each side of the centre.

    Returns:
        float32 (N, size, size), which multiplies columns of pixels.

    Source: as `gaussian_blur`.

    Example:
        >>> blur_matrix(tf.constant([1.0]), 32, radius=1).shape
        TensorShape([1, 32, 32])
    """
    taps = tf.range(-radius, radius + 1, dtype=tf.float32)
    scale = -0.5 / tf.square(sigma)[:, tf.newaxis]  # (N, 1)
    total = tf.reduce_sum(tf.exp(scale * tf.square(taps)), axis=1)  # (N,)
    position = tf.range(size, dtype=tf.float32)
    offset = position[:, tf.newaxis] - position
    band = tf.cast(tf.abs(offset) <= radius, tf.float32)
    weights = tf.exp(scale[:, :, tf.newaxis] * tf.square(offset)) * band
    return weights / total[:, tf.newaxis, tf.newaxis]


def per_image(value: Numbers, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Returns a scalar or (N,) in a shape that broadcasts against (N, H, W, C)."""
    return tf.reshape(tf.cast(value, dtype), [-1, 1, 1, 1])


def _shape(x: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns the shape, static where it is known."""
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]
