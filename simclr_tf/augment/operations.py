"""What each augmentation draws and does, by name: one row of `OPERATIONS` for each.

The crop has none: it comes first, and is one step with the resizing (`layer`, `host`, `compiled`).
`layer` runs these rows on batches. `host` (one image in `tf.data`) and `compiled` (one view, XLA on
processors) have special forms of SimCLR's three, and use the rows of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from simclr_tf.augment import color, draws, extras
from simclr_tf.augment.options import Options, blur_kernel_size
from simclr_tf.images import geometry
from simclr_tf.images.augmentations import AUGMENTATIONS

Params = Mapping[str, tf.Tensor]


class Operation(NamedTuple):
    """One augmentation.

    Attributes:
        draw: `draw(seed, count, channels, options)` gives the random parameters of a batch, with
            the image on the first axis of every value.
        apply: `apply(images, params, options)`, deterministic; images float32 (N, H, W, C).
        clips: Whether images are clipped to [0, 1] before `apply`. As in the release, the first
            step of colour jitter sees the overshoot of bicubic interpolation.
    """

    draw: Callable[..., Params]
    apply: Callable[..., tf.Tensor]
    clips: bool = True


def own_seed(seed: draws.Seed, name: str) -> tf.Tensor:
    """Returns the seed of one augmentation's draws."""
    return draws.fold_in(seed, AUGMENTATIONS.index(name))


def _draw_flip(seed: draws.Seed, count: int | tf.Tensor, channels: int, options: Options) -> Params:
    return {"flip": draws.uniform(seed, tf.stack([count])) < 0.5}


def _apply_flip(images: tf.Tensor, params: Params, options: Options) -> tf.Tensor:
    return geometry.flip_left_right(images, params["flip"])


def _draw_color(
    seed: draws.Seed, count: int | tf.Tensor, channels: int, options: Options
) -> Params:
    strength, brightness = options["color_jitter_strength"], options["brightness"]
    gray = options["gray_probability"]
    return draws.color_parameters(seed, count, strength, brightness, gray)


def _apply_color(images: tf.Tensor, params: Params, options: Options) -> tf.Tensor:
    brightness = options["brightness"]
    images = color.color_jitter(
        images, params["color"], params["order"], brightness, params["jitter"]
    )
    return color.grayscale(images, params["gray"])


def _draw_blur(seed: draws.Seed, count: int | tf.Tensor, channels: int, options: Options) -> Params:
    return draws.blur_parameters(seed, count)


def _apply_blur(images: tf.Tensor, params: Params, options: Options) -> tf.Tensor:
    taps = blur_kernel_size(options["size"][0])
    blurred = geometry.gaussian_blur(images, params["sigma"], taps)
    return tf.where(params["blur"][:, tf.newaxis, tf.newaxis, tf.newaxis], blurred, images)


def _extra(name: str) -> Operation:
    """Returns the row of an augmentation of `extras`, which depend on the size alone."""
    draw_it, apply_it = extras.EXTRAS[name]

    def draw(seed: draws.Seed, count: int | tf.Tensor, channels: int, options: Options) -> Params:
        height, width = options["size"]
        return draw_it(seed, count, height, width, channels)

    return Operation(draw, lambda images, params, options: apply_it(images, params))


OPERATIONS: dict[str, Operation] = {
    "flip": Operation(_draw_flip, _apply_flip, clips=False),
    "color": Operation(_draw_color, _apply_color, clips=False),
    "blur": Operation(_draw_blur, _apply_blur),
    **{name: _extra(name) for name in extras.EXTRAS},
}
