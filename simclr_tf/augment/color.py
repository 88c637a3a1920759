"""Batched colour operations with one set of parameters per image: jitter and grey.

Images are channels-last, (N, H, W, C), float32 with [0, 1] as the nominal range. Results equal
those of `tf.image.adjust_*`. Every function is deterministic, has GPU kernels throughout and
compiles under XLA.
"""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.augment import hsv
from simclr_tf.errors import UserError
from simclr_tf.images.geometry import Numbers, clip, per_image, to_float

# The columns of colour parameters, and the operations' codes in an order of application.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

LUMA = (0.2989, 0.5870, 0.1140)  # weights of R, G, B in tf.image.rgb_to_grayscale


def adjust_brightness(images: tf.Tensor, amount: Numbers, mode: str = "v2") -> tf.Tensor:
    """Changes brightness: 'v2' multiplies by `amount`, 'v1' adds it.

    Args:
        images: (N, H, W, C) float, any number of channels.
        amount: (N,) or scalar.
        mode: 'v2' or 'v1', after SimCLR's two versions.

    Returns:
        float32 (N, H, W, C), not clipped.

    Example:
        >>> float(adjust_brightness(tf.ones([1, 1, 1, 1]), [0.25])[0, 0, 0, 0])
        0.25
    """
    check_brightness(mode)
    amount = per_image(amount)
    return images * amount if mode == "v2" else images + amount


def adjust_contrast(images: tf.Tensor, factor: Numbers) -> tf.Tensor:
    """Scales each image's distance from its own channel means, as tf.image.adjust_contrast.

    Args:
        images: (N, H, W, C) float, any number of channels.
        factor: (N,) or scalar; 0 gives the mean colour, 1 changes nothing.

    Returns:
        float32 (N, H, W, C), not clipped.

    Example:
        >>> float(adjust_contrast(tf.reshape([0.0, 1.0], [1, 2, 1, 1]), [0.5])[0, 0, 0, 0])
        0.25
    """
    mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    return (images - mean) * per_image(factor) + mean


def adjust_saturation(images: tf.Tensor, factor: Numbers) -> tf.Tensor:
    """Scales HSV saturation and caps it at one, as tf.image.adjust_saturation.

    Args:
        images: (N, H, W, 3) float.
        factor: (N,) or scalar, >= 0; 0 gives grey, 1 changes nothing.

    Returns:
        float32 (N, H, W, 3), not clipped.

    Raises:
        UserError: if the images have not 3 channels.

    Example:
        >>> adjust_saturation(tf.reshape([1.0, 0.5, 0.5], [1, 1, 1, 3]), [2.0]).numpy().ravel()
        array([1., 0., 0.], dtype=float32)
    """
    planes = _planes(images, "adjust_saturation")
    return tf.stack(hsv.saturated(planes, per_image(factor)[..., 0]), axis=-1)


def adjust_hue(images: tf.Tensor, delta: Numbers) -> tf.Tensor:
    """Turns HSV hue by `delta` of a full circle, as tf.image.adjust_hue.

    Args:
        images: (N, H, W, 3) float.
        delta: (N,) or scalar; 1/3 turns red into green.

    Returns:
        float32 (N, H, W, 3).

    Raises:
        UserError: if the images have not 3 channels.

    Example:
        >>> adjust_hue(tf.reshape([1.0, 0.0, 0.0], [1, 1, 1, 3]), [0.5]).numpy().ravel()
        array([0., 1., 1.], dtype=float32)
    """
    planes = _planes(images, "adjust_hue")
    return tf.stack(hsv.hue_turned(planes, per_image(delta)[..., 0]), axis=-1)


def color_jitter(
    images: tf.Tensor,
    params: Numbers,
    order: Numbers,
    brightness: str = "v2",
    apply: tf.Tensor | None = None,
) -> tf.Tensor:
    """Brightness, contrast, saturation and hue in each image's own order, clipped after each.

    Args:
        images: (N, H, W, 3) float.
        params: (N, 4): brightness, contrast, saturation, hue, as the four `adjust_` functions take.
        order: (N, 4) integers: a permutation of (BRIGHTNESS, CONTRAST, SATURATION, HUE); the
            operation in column k is the k-th applied.
        brightness: 'v2' (multiply) or 'v1' (add).
        apply: None, or (N,) booleans: images for which it is false are returned as they are.

    Returns:
        float32 (N, H, W, 3) in [0, 1] (except images left as they are).

    Raises:
        UserError: if the images have not 3 channels, or for an unknown `brightness`.

    Source: SimCLR appendix A, "color distortion".

    Example:
        >>> color_jitter(tf.zeros([1, 8, 8, 3]), [[1.2, 0.8, 1.1, 0.1]], [[2, 0, 3, 1]]).shape
        TensorShape([1, 8, 8, 3])
    """
    check_brightness(brightness)
    source = _planes(images, "color_jitter")
    params = tf.cast(params, tf.float32)[:, :, tf.newaxis, tf.newaxis]  # (N, 4, 1, 1)
    order = tf.cast(order, tf.int32)[:, :, tf.newaxis, tf.newaxis]

    def step(k: tf.Tensor, *planes: tf.Tensor) -> list[tf.Tensor]:
        done = _jitter_step(list(planes), params, tf.gather(order, k, axis=1), brightness)
        return [k + 1, *map(clip, done)]

    # A loop over the four steps, not four copies: XLA would fuse the copies into one kernel that
    # computes the early steps repeatedly (measured on the CPU: 4 to 30 times slower).
    _, *planes = tf.while_loop(
        lambda k, *_: k < 4, step, [tf.constant(0), *source], maximum_iterations=4
    )
    if apply is not None:
        apply = tf.cast(apply, tf.bool)[:, tf.newaxis, tf.newaxis]
        planes = [tf.where(apply, new, old) for new, old in zip(planes, source, strict=True)]
    return tf.stack(planes, axis=-1)


def jitter_planes(
    planes: list[tf.Tensor], operation: int, amount: tf.Tensor | float, brightness: str = "v2"
) -> list[tf.Tensor]:
    """One step of `color_jitter`, the same for all images, on separate R, G and B planes.

    Args:
        planes: R, G and B, each float (N, H, W).
        operation: BRIGHTNESS, CONTRAST, SATURATION or HUE.
        amount: What the operation's `adjust_` function takes, a scalar or (N, 1, 1).
        brightness: 'v2' (multiply) or 'v1' (add).

    Returns:
        R, G and B in [0, 1].

    Source: as `color_jitter`.

    Example:
        >>> jitter_planes([tf.ones([1, 8, 8])] * 3, SATURATION, 1.2)[0].shape
        TensorShape([1, 8, 8])
    """
    if operation == BRIGHTNESS:
        done = [plane * amount if brightness == "v2" else plane + amount for plane in planes]
    elif operation == CONTRAST:
        means = [tf.reduce_mean(plane, axis=[1, 2], keepdims=True) for plane in planes]
        done = [(p - mean) * amount + mean for p, mean in zip(planes, means, strict=True)]
    else:
        done = (hsv.saturated if operation == SATURATION else hsv.hue_turned)(planes, amount)
    return [clip(plane) for plane in done]


def luminance(planes: list[tf.Tensor]) -> tf.Tensor:
    """Returns the luminance of R, G and B planes, weighted as tf.image.rgb_to_grayscale.

    Args:
        planes: R, G and B, each float (N, H, W).

    Returns:
        float32 (N, H, W).

    Example:
        >>> luminance([tf.ones([1, 8, 8])] * 3).shape
        TensorShape([1, 8, 8])
    """
    red, green, blue = planes
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]


def grayscale(images: tf.Tensor, apply: tf.Tensor | None = None) -> tf.Tensor:
    """Replaces RGB by luminance in all three channels (weights of tf.image.rgb_to_grayscale).

    Args:
        images: (N, H, W, 3) float.
        apply: None (all images), or (N,) booleans.

    Returns:
        float32 (N, H, W, 3).

    Raises:
        UserError: if the images have not 3 channels.

    Example:
        >>> round(float(grayscale(tf.reshape([1.0, 0.0, 0.0], [1, 1, 1, 3]))[0, 0, 0, 2]), 4)
        0.2989
    """
    gray = luminance(_planes(images, "grayscale"))[..., tf.newaxis]
    if apply is None:
        return tf.repeat(gray, 3, axis=-1)
    return tf.where(per_image(apply, tf.bool), gray, images)


def check_brightness(mode: str) -> None:
    """Raises a UserError unless `mode` is 'v1' or 'v2'."""
    if mode not in ("v1", "v2"):
        raise UserError(f"Expected brightness 'v1' or 'v2'; received: {mode!r}. Use one of them.")


def _jitter_step(
    planes: list[tf.Tensor], params: tf.Tensor, op: tf.Tensor, brightness: str
) -> list[tf.Tensor]:
    """Applies operation `op` (N, 1, 1), one per image, to three planes (N, H, W)."""
    amount, contrast, saturation, hue = (params[:, i] for i in range(4))  # (N, 1, 1) each

    # brightness and contrast: x * scale + shift
    is_contrast = tf.equal(op, CONTRAST)
    if brightness == "v2":
        scale, bright_shift = tf.where(is_contrast, contrast, amount), tf.zeros_like(amount)
    else:
        scale, bright_shift = tf.where(is_contrast, contrast, tf.ones_like(amount)), amount
    affine = []
    for plane in planes:
        mean = tf.reduce_mean(plane, axis=[1, 2], keepdims=True)
        affine.append(plane * scale + tf.where(is_contrast, mean * (1.0 - contrast), bright_shift))

    # saturation and hue: the other of the two gets a parameter that changes nothing
    is_hue = tf.equal(op, HUE)
    value, spread, inverse = hsv.value_and_spread(planes)
    turn = tf.where(is_hue, hue, tf.zeros_like(hue))
    keep = tf.where(is_hue, tf.ones_like(saturation), saturation)
    least = tf.cast(is_hue, tf.float32)  # only saturation is capped (see adjust_saturation)
    kept = spread * tf.minimum(keep, tf.maximum(value * inverse, least))
    below = hsv.turned(planes, value, inverse, turn)

    is_affine = op < SATURATION
    return [
        tf.where(is_affine, line, value - kept * share)
        for line, share in zip(affine, below, strict=True)
    ]


def _planes(images: tf.Tensor, what: str) -> list[tf.Tensor]:
    """Returns the R, G and B planes, (N, H, W) each."""
    images = to_float(images)
    if images.shape[-1] != 3:
        raise UserError(
            f"Expected RGB images (3 channels) for {what}; received: {images.shape[-1]} channels. "
            "Leave 'color' out of the augmentations, or repeat the channel three times."
        )
    return tf.unstack(images, axis=-1)
