"""Augmentations beyond SimCLR's own: cutout, solarize, noise, Sobel, turns, affine, padded crop.

Each is a pair: `draw_NAME(seed, count, height, width, channels)` gives its random parameters, with
the image on the first axis of every value; `apply_NAME(images, params)` is deterministic. Images
are float32 (N, H, W, C) in [0, 1] and stay there. All of them compile under XLA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import tensorflow as tf

from simclr_tf.augment import draws
from simclr_tf.errors import UserError
from simclr_tf.images import geometry

CUTOUT_PROBABILITY = 0.5
SOLARIZE_PROBABILITY = 0.2  # as BYOL's second view
SOBEL_PROBABILITY = 0.2
NOISE_STDDEV = 0.1
AFFINE_DEGREES = 15.0
PADDED_CROP_PARTS = 8  # 4 pixels of 32, as is usual on CIFAR

Params = dict[str, tf.Tensor]


def draw_cutout(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws which images are cut, and the centres, uniformly over the pixels."""
    unit = draws.uniform(seed, tf.stack([count, 3]))
    centre = tf.math.floor(unit[:, 1:] * tf.constant([height, width], tf.float32))
    return {"cutout": unit[:, 0] < CUTOUT_PROBABILITY, "cutout_centre": centre}


def apply_cutout(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Blacks out a square of half the shorter side (DeVries and Taylor, arXiv:1708.04552)."""
    # keras-cv's layers draw from a stateful generator: only their deterministic part is used
    layer = keras_cv_for("cutout").layers.RandomCutout(0.5, 0.5, dtype="float32")
    sides = tf.where(params["cutout"], float(min(images.shape[1:3]) // 2), 0.0)
    rectangles = {
        "centers_x": params["cutout_centre"][:, 1],
        "centers_y": params["cutout_centre"][:, 0],
        "rectangles_height": sides,
        "rectangles_width": sides,
    }
    return layer.augment_images(images, rectangles)


def draw_solarize(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws which images are solarized."""
    return {"solarize": draws.uniform(seed, tf.stack([count])) < SOLARIZE_PROBABILITY}


def apply_solarize(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Inverts the values above a half, by the deterministic half of keras-cv's Solarization."""
    layer = keras_cv_for("solarize").layers.Solarization(value_range=(0, 1), dtype="float32")
    solarized = layer.augment_images(images, {"thresholds": 127.5, "additions": 0.0})  # of 255
    return tf.where(params["solarize"][:, tf.newaxis, tf.newaxis, tf.newaxis], solarized, images)


def draw_noise(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws Gaussian noise for every value (as keras.layers.GaussianNoise, which has no seed)."""
    shape = tf.stack([count, height, width, channels])
    return {"noise": NOISE_STDDEV * draws.normal(seed, shape)}


def apply_noise(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Adds the noise, and clips."""
    return geometry.clip(images + params["noise"])


def draw_sobel(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws which images are filtered."""
    return {"sobel": draws.uniform(seed, tf.stack([count])) < SOBEL_PROBABILITY}


def apply_sobel(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Replaces each channel by the length of its Sobel gradient, one at a full step edge."""
    edges = tf.image.sobel_edges(images) / 4.0  # (N, H, W, C, 2)
    length = geometry.clip(tf.sqrt(tf.reduce_sum(tf.square(edges), axis=-1)))
    return tf.where(params["sobel"][:, tf.newaxis, tf.newaxis, tf.newaxis], length, images)


def draw_rotate(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws quarter turns, uniformly from 0-3, or from 0 and 2 where the image is not square."""
    unit = draws.uniform(seed, tf.stack([count]))
    turns = tf.math.floor(unit * 4.0) if height == width else 2.0 * tf.math.floor(unit * 2.0)
    return {"turns": tf.cast(turns, tf.int32)}


def apply_rotate(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Turns each image anticlockwise by its number of quarter turns."""
    turns = params["turns"][:, tf.newaxis, tf.newaxis, tf.newaxis]
    half = images[:, ::-1, ::-1]
    images = tf.where(turns >= 2, half, images)
    if images.shape[1] != images.shape[2]:
        return images
    quarter = tf.transpose(images, [0, 2, 1, 3])[:, ::-1]
    return tf.where(turns % 2 == 1, quarter, images)


def draw_affine(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws a turn and a slant for each image, both uniform up to `AFFINE_DEGREES` either way."""
    angles = (2.0 * draws.uniform(seed, tf.stack([count, 2])) - 1.0) * math.radians(AFFINE_DEGREES)
    return {"affine_turn": angles[:, 0], "affine_slant": angles[:, 1]}


def apply_affine(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Slants each image sideways, then turns it clockwise, both about its centre; bilinear.

    Pixels from outside of the image repeat the nearest border pixel.
    """
    height, width = images.shape[1:3]
    row = tf.range(height, dtype=tf.float32)[:, tf.newaxis] - (height - 1) / 2
    column = tf.range(width, dtype=tf.float32)[tf.newaxis] - (width - 1) / 2
    turn, slant = (params[f"affine_{n}"][:, tf.newaxis, tf.newaxis] for n in ("turn", "slant"))
    # The source of each pixel of the result: both steps undone.
    y = tf.cos(turn) * row - tf.sin(turn) * column
    x = tf.cos(turn) * column + tf.sin(turn) * row + tf.tan(slant) * y
    return geometry.sample(images, y + (height - 1) / 2, x + (width - 1) / 2)


def draw_padded_crop(
    seed: draws.Seed, count: int | tf.Tensor, height: int, width: int, channels: int
) -> Params:
    """Draws where each image is cut from its padded self: whole rows and columns, uniformly."""
    padding = tf.constant([height // PADDED_CROP_PARTS, width // PADDED_CROP_PARTS], tf.float32)
    unit = draws.uniform(seed, tf.stack([count, 2]))
    return {"padded_crop": tf.cast(tf.floor(unit * (2 * padding + 1)), tf.int32)}


def apply_padded_crop(images: tf.Tensor, params: Params) -> tf.Tensor:
    """Pads with black by an eighth of each side, and cuts the size from it."""
    height, width = images.shape[1:3]
    rows, columns = height // PADDED_CROP_PARTS, width // PADDED_CROP_PARTS
    padded = tf.pad(images, [[0, 0], [rows, rows], [columns, columns], [0, 0]])
    start = params["padded_crop"]  # (N, 2); a GPU splits no whole numbers, and slices them
    padded = tf.gather(padded, start[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(padded, start[:, 1:] + tf.range(width), axis=2, batch_dims=1)


EXTRAS: dict[str, tuple[Callable[..., Params], Callable[..., tf.Tensor]]] = {
    "cutout": (draw_cutout, apply_cutout),
    "solarize": (draw_solarize, apply_solarize),
    "noise": (draw_noise, apply_noise),
    "sobel": (draw_sobel, apply_sobel),
    "rotate": (draw_rotate, apply_rotate),
    "affine": (draw_affine, apply_affine),
    "padded_crop": (draw_padded_crop, apply_padded_crop),
}


def keras_cv_for(what: str) -> ModuleType:
    """Returns the module keras_cv, or raises a UserError saying how to install it."""
    try:
        import keras_cv
    except ImportError as error:
        raise UserError(
            f"Expected the package keras-cv for the augmentation {what!r}; received: {error}. "
            "Install it: pip install keras-cv"
        ) from error
    return keras_cv
