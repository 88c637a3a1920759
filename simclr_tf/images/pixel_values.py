"""What the numbers in an image mean, for views, models, data sets, teachers and exports alike.

| type | meaning |
|---|---|
| uint8 | 0 to 255, divided by 255 |
| uint16 | 0 to 65,535, divided by 65,535 |
| float16, bfloat16, float32, float64 | as they are, in [0, 1] unless a model's `value_range` says otherwise |
| any other | refused: an int32 may hold 8 bits, 16 bits or classes, and its type does not tell |

So a picture gives the same features whatever its type. Values of floats are checked on the host
(arrays when they are passed, data sets in their pipeline): within a step an accelerator would have
to wait for the result.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from simclr_tf import autograph  # noqa: F401
from simclr_tf.errors import UserError
from simclr_tf.images.batch_errors import stop_unless, with_value
from simclr_tf.typing import Images

Range = tuple[float, float]

UNIT_RANGE: Range = (0.0, 1.0)
# Tolerance, as a share of the range. Bicubic interpolation overshoots by at most 0.28 of it (1/8
# along each side).
SLACK = 0.3

_SCALED = {tf.uint8: 255.0, tf.uint16: 65535.0}
_FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_ROWS_AT_A_TIME = 1024  # of an array: a float copy of all of it may not fit into memory


def check_type(dtype: tf.DType | np.dtype | str) -> None:
    """Refuses images of a type that the table does not list.

    Args:
        dtype: A TensorFlow or NumPy type, or its name.

    Raises:
        UserError: Neither uint8, uint16 nor a float type.

    Example:
        >>> check_type("int32")
        Traceback (most recent call last):
        simclr_tf.errors.UserError: Expected images of type uint8, uint16 or float; ...
    """
    try:
        known = tf.as_dtype(dtype)
    except TypeError:
        known, name = None, str(dtype)
    else:
        name = known.name
    if known in _SCALED or known in _FLOATS:
        return
    raise UserError(
        f"Expected images of type uint8, uint16 or float; received: {name}. If the values are "
        "0 to 255, pass images.astype('uint8'); in a data set, map "
        "lambda x, y: (tf.cast(x, tf.uint8), y)."
    )


def to_float(images: Images) -> tf.Tensor:
    """Returns images as float32, with integer types scaled from their full range to [0, 1].

    Args:
        images: Any shape; uint8, uint16 or a float type (floats are not scaled).

    Returns:
        float32 tensor of the same shape.

    Raises:
        UserError: For any other type.

    Example:
        >>> float(to_float(tf.constant([255], tf.uint8))[0])
        1.0
    """
    images = tf.convert_to_tensor(images)
    check_type(images.dtype)
    scale = _SCALED.get(images.dtype)
    images = tf.cast(images, tf.float32)
    return images if scale is None else images / scale


def check_value_range(value_range: Sequence[float] | None) -> Range | None:
    """Returns a `value_range` argument as a pair of floats, or None.

    Args:
        value_range: (lowest, highest) of float images; None: any values.

    Raises:
        UserError: It is no such pair.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not low < high:
        raise UserError(
            f"Expected value_range as (lowest, highest), or None; received: {value_range!r}. "
            "(0.0, 1.0) is usual; None takes images of any values."
        )
    return low, high


def check_values(images: Images, value_range: Range | None = UNIT_RANGE) -> None:
    """Refuses an array of images of a wrong type or with values outside of their range.

    Args:
        images: Array or eager tensor, (N, ...).
        value_range: (lowest, highest) of float images; None: any finite values.

    Raises:
        UserError: A wrong type or value; the message has the line that corrects it.

    Example:
        >>> check_values(np.zeros([8, 32, 32, 3], "float32"))
    """
    check_type(images.dtype)
    if tf.as_dtype(images.dtype) in _SCALED:
        return
    if tf.is_tensor(images):
        if tf.TensorShape(images.shape).num_elements():
            parts = [(tf.reduce_min(images).numpy(), tf.reduce_max(images).numpy())]
        else:
            parts = []
    else:
        rows = [images] if images.ndim == 0 else _chunks(images)
        parts = [(part.min(), part.max()) for part in rows if part.size]
    for low, high in parts:
        holds, message = _verdict(float(low), float(high), value_range)
        if not holds:
            raise UserError(message)


def checked(images: tf.Tensor, value_range: Range | None = UNIT_RANGE) -> tf.Tensor:
    """Returns the images, checked; in a graph (of `tf.data`) by an assertion.

    Args:
        images: Any shape.
        value_range: (lowest, highest) of float images; None: any finite values.

    Raises:
        UserError: A wrong type; outside of graphs, also values out of range.

    Example:
        >>> dataset.map(lambda image: host_views(checked(image), seed, image_size=32))
    """
    images = tf.convert_to_tensor(images)
    check_type(images.dtype)
    if not images.dtype.is_floating:
        return images
    if tf.executing_eagerly():
        check_values(images, value_range)
        return images
    exact = images if images.dtype == tf.float64 else tf.cast(images, tf.float32)
    # An empty batch has no extremes: its minimum is inf, its maximum -inf.
    some = tf.size(images) > 0
    zero = tf.zeros([], exact.dtype)
    low = tf.where(some, tf.reduce_min(exact), zero)
    high = tf.where(some, tf.reduce_max(exact), zero)
    low, high = (tf.cast(value, tf.float32) for value in (low, high))
    holds, message = _verdict(low, high, value_range)
    with tf.control_dependencies([stop_unless(holds, message)]):
        return tf.identity(images)


def check_call(
    images: Images | None, value_range: Range | None = UNIT_RANGE, values: bool = True
) -> None:
    """Checks what a layer or model is called with; Keras would wrap an error raised in `call`.

    Args:
        images: Array, or tensor of any kind; anything without a dtype is not checked.
        value_range: Of float images; None: any finite values.
        values: Whether to check values too, where they are known.

    Raises:
        UserError: A wrong type, or values out of range.
    """
    dtype = getattr(images, "dtype", None)
    if dtype is None:
        return
    check_type(dtype)
    eager = tf.executing_eagerly() and (isinstance(images, np.ndarray) or tf.is_tensor(images))
    if values and eager:
        check_values(images, value_range)


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Returns an array in parts, as float32 (float64 stays: its values may overflow float32)."""
    kind = np.float64 if tf.as_dtype(images.dtype) == tf.float64 else np.float32
    starts = range(0, len(images), _ROWS_AT_A_TIME)
    return (np.asarray(images[i : i + _ROWS_AT_A_TIME], kind) for i in starts)


def _verdict(
    low: float | tf.Tensor, high: float | tf.Tensor, value_range: Range | None
) -> tuple[bool | tf.Tensor, str | tf.Tensor]:
    """Returns whether values from `low` to `high` are in range, and the message if not.

    Numbers or scalar tensors. Comparisons are written so that NaN fails them.
    """
    if value_range is None:
        finite = (abs(low) < float("inf")) & (abs(high) < float("inf"))
        return finite, _NOT_FINITE.replace("RANGE", "any range")
    least, most = value_range
    slack = SLACK * (most - least)
    within = f"[{least:g}, {most:g}]"
    below, above = low >= least - slack, high <= most + slack
    too_large = _TOO_LARGE if value_range == UNIT_RANGE else _OUTSIDE
    too_small = _TOO_SMALL if value_range == UNIT_RANGE else _OUTSIDE
    no_number = _NOT_FINITE.replace("RANGE", within)
    large = with_value(too_large.replace("RANGE", within), high)
    small = with_value(too_small.replace("RANGE", within), low)
    number = (low == low) & (high == high)
    if not tf.is_tensor(low):
        message = no_number if not number else small if not below else large
    else:
        message = tf.where(number, tf.where(below, large, small), no_number)
    return below & above, message


_TOO_LARGE = (
    "Expected images in RANGE; received: values up to {} (near 255: those of uint8). "
    "Divide them by 255: images / 255.0, in a data set dataset.map(lambda x, y: (x / 255.0, y)). "
    "Images of other values (spectrograms): value_range=None of the model."
)
_TOO_SMALL = (
    "Expected images in RANGE; received: values down to {} (below 0: standardised, or scaled "
    "to [-1, 1]). Pass them as they were, from [-1, 1] as (images + 1) / 2, in a data set "
    "dataset.map(lambda x, y: ((x + 1) / 2, y)). Images of other values (spectrograms): "
    "value_range=None of the model."
)
_OUTSIDE = (
    "Expected images in RANGE, the model's value_range; received: {}. Bring them into it, or "
    "set another value_range (None: any values)."
)
_NOT_FINITE = (
    "Expected images in RANGE; received: values that are not a number, or infinite. "
    "Fix or leave out those images (np.isfinite finds them)."
)
