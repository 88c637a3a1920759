"""SimCLR's augmentation per image with ordinary `tf.image` functions, for `tf.data` on the host.

Equal in distribution to `SimCLRAugment` (a test compares both with the release's recorded
statistics); for the same seed its views are different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from simclr_tf.augment import color, draws
from simclr_tf.augment.operations import OPERATIONS, own_seed
from simclr_tf.augment.options import (
    DEFAULT_AUGMENTATIONS,
    Options,
    blur_kernel_size,
    check_options,
)
from simclr_tf.images import geometry, pixel_values


def host_views(
    image: tf.Tensor,
    seed: draws.Seed,
    *,
    image_size: int | Sequence[int],
    color_jitter_strength: float = 1.0,
    use_blur: bool = True,
    brightness: str = "v2",
    augmentations: str | Sequence[str] = DEFAULT_AUGMENTATIONS,
    crop_area: Sequence[float] = (0.08, 1.0),
    crop_aspect_ratio: Sequence[float] = (3 / 4, 4 / 3),
    gray_probability: float = 0.2,
    num_views: int = 2,
) -> tuple[tf.Tensor, ...]:
    """Returns random views of one image.

    Args:
        image: (H, W, C) uint8, uint16, or float in [0, 1]; H and W may be unknown, C may not.
        seed: integer tensor (2,), different for every image and epoch.
        image_size, color_jitter_strength, use_blur, brightness, augmentations, crop_area,
            crop_aspect_ratio, gray_probability: as `SimCLRAugment`.
        num_views: number of views.

    Returns:
        Tuple of `num_views` float32 tensors (height, width, C) in [0, 1].

    Raises:
        UserError: as `SimCLRAugment`; or an image of a wrong type. In `tf.data` floats out of range
            stop the pipeline, before they are clipped.

    Source: SimCLR (arXiv:2002.05709) appendix A.

    Example:
        >>> views = host_views(tf.zeros([40, 60, 3], tf.uint8), [0, 1], image_size=32)
        >>> [view.shape for view in views]
        [TensorShape([32, 32, 3]), TensorShape([32, 32, 3])]
    """
    options = check_options(
        image_size,
        color_jitter_strength,
        use_blur,
        brightness,
        augmentations,
        crop_area,
        crop_aspect_ratio,
        gray_probability,
    )
    image = geometry.to_float(pixel_values.checked(image))
    return tuple(_view(image, draws.fold_in(seed, view), options) for view in range(num_views))


def _view(image: tf.Tensor, seed: tf.Tensor, options: Options) -> tf.Tensor:
    height, width = options["size"]
    channels = image.shape[-1]
    names = options["names"]
    if names[:1] == ["crop"]:
        image = _crop(image, own_seed(seed, "crop"), options)
        names = names[1:]
    image = tf.image.resize(image, [height, width], method="bicubic")
    image = tf.ensure_shape(image, [height, width, channels])
    for name in names:
        form = _FORMS.get(name, _as_batch_of_one(name))
        image = form(image, own_seed(seed, name), options)
    return geometry.clip(image)


def _as_batch_of_one(name: str) -> Callable[..., tf.Tensor]:
    """Returns an augmentation without a special form here."""
    operation = OPERATIONS[name]

    def apply(image: tf.Tensor, seed: tf.Tensor, options: Options) -> tf.Tensor:
        params = operation.draw(seed, 1, image.shape[-1], options)
        image = geometry.clip(image) if operation.clips else image
        return operation.apply(image[tf.newaxis], params, options)[0]

    return apply


def _flip(image: tf.Tensor, seed: tf.Tensor, options: Options) -> tf.Tensor:
    return tf.image.stateless_random_flip_left_right(image, seed)


def _crop(image: tf.Tensor, seed: tf.Tensor, options: Options) -> tf.Tensor:
    height, width = options["size"]
    low, high = options["crop_aspect_ratio"]
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=options["min_covered"],
        aspect_ratio_range=(low * width / height, high * width / height),
        area_range=options["crop_area"],
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.slice(image, begin, size)


def _color(image: tf.Tensor, seed: tf.Tensor, options: Options) -> tf.Tensor:
    """Colour jitter in random order, then grey: one image, `tf.cond` and `tf.switch_case`."""
    batch = draws.color_parameters(
        seed,
        1,
        options["color_jitter_strength"],
        options["brightness"],
        options["gray_probability"],
    )
    amount, contrast, saturation, hue = tf.unstack(batch["color"][0])
    multiply = options["brightness"] == "v2"

    def jitter() -> tf.Tensor:
        x = image
        for step in range(4):
            x = tf.switch_case(
                batch["order"][0, step],
                [
                    lambda x=x: x * amount if multiply else x + amount,
                    lambda x=x: tf.image.adjust_contrast(x, contrast),
                    lambda x=x: tf.image.adjust_saturation(x, saturation),
                    lambda x=x: tf.image.adjust_hue(x, hue),
                ],
            )
            x = geometry.clip(x)
        return x

    if image.shape[-1] != 3:
        return color.grayscale(image[tf.newaxis])[0]  # raises a UserError
    image = tf.cond(batch["jitter"][0], jitter, lambda: image)
    return tf.cond(
        batch["gray"][0],
        lambda: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)),
        lambda: image,
    )


def _blur(image: tf.Tensor, seed: tf.Tensor, options: Options) -> tf.Tensor:
    """Gaussian blur as two depthwise convolutions."""
    image = geometry.clip(image)
    batch = draws.blur_parameters(seed, 1)
    radius = blur_kernel_size(options["size"][0]) // 2

    def blurred() -> tf.Tensor:
        taps = tf.range(-radius, radius + 1, dtype=tf.float32)
        kernel = tf.exp(-0.5 * tf.square(taps / batch["sigma"][0]))
        kernel /= tf.reduce_sum(kernel)
        kernel = tf.tile(kernel[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 1, image.shape[-1], 1])
        x = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, [1, 1, 1, 1], "SAME")
        kernel = tf.transpose(kernel, [1, 0, 2, 3])
        return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")[0]

    return tf.cond(batch["blur"][0], blurred, lambda: image)


_FORMS: dict[str, Callable[..., tf.Tensor]] = {"flip": _flip, "color": _color, "blur": _blur}
