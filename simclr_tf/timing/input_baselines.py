"""Input pipelines as one writes them without this package, over the same files."""

from __future__ import annotations

import contextlib
import glob
import io
import os

import tensorflow as tf
from tensorflow import keras


def plain_pipeline(
    folder: str, side: int, batch_size: int, method: str = "bilinear"
) -> tf.data.Dataset:
    """Returns endless batches by `tf.data` as its guide writes it: decoded and resized in `map`.

    Args:
        folder: Of folders of JPEG files.
        side: Height and width of the result in pixels.
        batch_size: Images a batch.
        method: Of `tf.image.resize`: `bilinear`, its default, or `bicubic`, here antialiased and
            rounded to bytes, as this package resizes.

    Returns:
        float32 batches (B, side, side, 3) in 0 to 255, or uint8.
    """
    bicubic = method == "bicubic"

    def load(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.resize(image, (side, side), method=method, antialias=bicubic)
        return tf.saturate_cast(tf.round(image), tf.uint8) if bicubic else image

    paths = sorted(glob.glob(os.path.join(glob.escape(folder), "*", "*.jpg")))
    data = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=0).repeat()
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def keras_pipeline(folder: str, side: int, batch_size: int) -> tf.data.Dataset:
    """Returns endless batches by `keras.utils.image_dataset_from_directory`.

    Not shuffled: it shuffles decoded images, and filling that buffer would be timed.

    Args:
        folder: Of image files.
        side: Height and width of the result in pixels.
        batch_size: Images a batch.

    Returns:
        float32 batches (B, side, side, 3) in 0 to 255.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # how many files it has found
        data = keras.utils.image_dataset_from_directory(
            folder, labels=None, batch_size=None, image_size=(side, side), shuffle=False
        )
    data = data.repeat().batch(batch_size, drop_remainder=True)
    return data.prefetch(tf.data.AUTOTUNE)
