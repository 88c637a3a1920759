"""Batches that are augmented: images as they are, or canvases beside their original sizes."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.typing import Batch


def images_and_sizes(inputs: Batch) -> tuple[tf.Tensor, int | tf.Tensor, int | tf.Tensor]:
    """Returns images and their original heights and widths (scalars, or (N,))."""
    if isinstance(inputs, Mapping):
        if set(inputs) != {"image", "size"}:
            raise UserError(
                f"Expected the keys 'image' and 'size'; received: {sorted(inputs)}. "
                "Pass both, or the images alone."
            )
        images, size = tf.convert_to_tensor(inputs["image"]), inputs["size"]
        heights, widths = size[:, 0], size[:, 1]
    else:
        images = tf.convert_to_tensor(inputs)
        heights, widths = (
            (tf.shape(images)[1], tf.shape(images)[2]) if images.shape.rank == 4 else (0, 0)
        )
    if images.shape.rank != 4:
        raise UserError(
            f"Expected a batch of images (N, H, W, C); received: shape {images.shape}. "
            "Add the missing axis."
        )
    return images, heights, widths
