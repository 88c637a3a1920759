"""Saturation and hue of HSV, computed on R, G and B planes without converting to HSV and back.

Both follow from the largest channel (HSV's value), the spread between the largest and the smallest,
and where the channels lie between them.
"""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.images.geometry import clip


def saturated(planes: list[tf.Tensor], factor: tf.Tensor | float) -> list[tf.Tensor]:
    """Returns the planes with their saturation scaled by `factor` and capped at one."""
    value, _, inverse = value_and_spread(planes)
    share = tf.minimum(factor, tf.nn.relu(value * inverse))
    return [value - share * (value - plane) for plane in planes]


def hue_turned(planes: list[tf.Tensor], delta: tf.Tensor | float) -> list[tf.Tensor]:
    """Returns the planes with their hue turned by `delta` of a full circle."""
    value, spread, inverse = value_and_spread(planes)
    return [value - spread * share for share in turned(planes, value, inverse, delta)]


def value_and_spread(planes: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns HSV value = max, spread = max - min, and 1 / spread (finite), each (N, H, W).

    A saturation of s = spread / value scaled by f and capped at 1 moves each channel c to
    value - k (value - c) with k = min(f, value / spread), or k = 0 where value <= 0.
    """
    red, green, blue = planes
    value = tf.maximum(tf.maximum(red, green), blue)
    spread = value - tf.minimum(tf.minimum(red, green), blue)
    return value, spread, tf.math.reciprocal(tf.maximum(spread, 1e-12))


def turned(
    planes: list[tf.Tensor], value: tf.Tensor, inverse: tf.Tensor, turn: tf.Tensor
) -> list[tf.Tensor]:
    """Returns per channel (value - channel) / spread in [0, 1] after the hue has turned."""
    red, green, blue = planes
    sixth = tf.where(  # hue in sixths of the circle, in [-1, 5]
        tf.equal(red, value),
        (green - blue) * inverse,
        tf.where(
            tf.equal(green, value), (blue - red) * inverse + 2.0, (red - green) * inverse + 4.0
        ),
    )
    sixth = sixth + 6.0 * turn
    sixth = sixth - 6.0 * tf.math.floor(sixth * (1.0 / 6.0))
    return [
        clip(2.0 - tf.abs(sixth - 3.0)),  # red is lowest around cyan
        clip(tf.abs(sixth - 2.0) - 1.0),
        clip(tf.abs(sixth - 4.0) - 1.0),
    ]
