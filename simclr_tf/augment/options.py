"""The options that the device form and the host form of the augmentation share, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from simclr_tf.augment import color, extras
from simclr_tf.errors import UserError
from simclr_tf.images.augmentations import AUGMENTATIONS, SIMCLR

DEFAULT_AUGMENTATIONS = SIMCLR
KNOWN_AUGMENTATIONS = AUGMENTATIONS

_RELEASE_AREA_MIN = 0.08
_RELEASE_MIN_COVERED = 0.1


class Options(TypedDict):
    """Checked options of an augmentation: the arguments of `SimCLRAugment`, and what they imply.

    `size` is (height, width), `names` are the augmentations that are on, crop first, and
    `min_covered` is the share of the image that a crop must cover.
    """

    image_size: int | list[int]
    color_jitter_strength: float
    use_blur: bool
    brightness: str
    augmentations: tuple[str, ...]
    crop_area: tuple[float, float]
    min_covered: float
    crop_aspect_ratio: tuple[float, float]
    gray_probability: float
    size: tuple[int, int]
    names: list[str]


def min_covered(area_min: float) -> float:
    """Returns the share of the image below which a box that was drawn is rejected.

    The release draws areas from 0.08 on, but its sampler rejects boxes that cover less than 0.1 of
    the image. So 0.08 means 0.1, for the release's views; any other value means itself.

    Args:
        area_min: Lower end of the range of areas, in (0, 1].

    Example:
        >>> min_covered(0.08), min_covered(0.05), min_covered(0.2)
        (0.1, 0.05, 0.1)
    """
    if area_min == _RELEASE_AREA_MIN:
        return _RELEASE_MIN_COVERED
    return min(_RELEASE_MIN_COVERED, area_min)


def blur_kernel_size(image_size: int) -> int:
    """Returns the taps of the blur, as the release: a tenth of the image's height, made odd."""
    return 2 * (image_size // 10 // 2) + 1


def check_options(
    image_size: int | Sequence[int],
    color_jitter_strength: float,
    use_blur: bool,
    brightness: str,
    augmentations: str | Sequence[str],
    crop_area: Sequence[float],
    crop_aspect_ratio: Sequence[float],
    gray_probability: float,
) -> Options:
    """Returns the checked options of an augmentation.

    Raises:
        UserError: as `SimCLRAugment`.
    """
    size = _check_size(image_size)
    listed = _check_names(augmentations)
    color.check_brightness(brightness)
    if not color_jitter_strength >= 0:
        raise UserError(
            f"Expected color_jitter_strength >= 0; received: {color_jitter_strength!r}. "
            "The paper uses 1.0 (ImageNet) and 0.5 (CIFAR-10)."
        )
    if not (len(crop_area) == 2 and 0 < crop_area[0] <= crop_area[1] <= 1):
        raise UserError(
            f"Expected crop_area (low, high) in (0, 1]; received: {tuple(crop_area)}. "
            "SimCLR uses (0.08, 1.0)."
        )
    if not (len(crop_aspect_ratio) == 2 and 0 < crop_aspect_ratio[0] <= crop_aspect_ratio[1]):
        raise UserError(
            f"Expected crop_aspect_ratio (low, high) > 0; received: {tuple(crop_aspect_ratio)}. "
            "SimCLR uses (3/4, 4/3)."
        )
    if not 0 <= gray_probability <= 1:
        raise UserError(
            f"Expected gray_probability in [0, 1]; received: {gray_probability!r}. SimCLR uses 0.2."
        )
    names = [name for name in listed if name != "crop" and (use_blur or name != "blur")]
    for name in {"cutout", "solarize"}.intersection(names):
        extras.keras_cv_for(name)  # report a missing package now, not within a step
    return {
        "image_size": image_size if isinstance(image_size, int) else list(size),
        "color_jitter_strength": float(color_jitter_strength),
        "use_blur": bool(use_blur),
        "brightness": brightness,
        "augmentations": listed,
        "crop_area": (float(crop_area[0]), float(crop_area[1])),
        "min_covered": min_covered(float(crop_area[0])),
        "crop_aspect_ratio": (float(crop_aspect_ratio[0]), float(crop_aspect_ratio[1])),
        "gray_probability": float(gray_probability),
        "size": size,
        "names": (["crop"] if "crop" in listed else []) + names,
    }


def _check_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Returns (height, width)."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(
            "Expected image_size as a whole number > 0 or (height, width); "
            f"received: {image_size!r}. Pass for example image_size=32."
        )
    return size


def _check_names(augmentations: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(augmentations, str):
        augmentations = augmentations.split(",")
    listed = tuple(name.strip() for name in augmentations if name.strip())
    unknown = [name for name in listed if name not in KNOWN_AUGMENTATIONS]
    if unknown or len(set(listed)) != len(listed):
        raise UserError(
            f"Expected augmentations from {', '.join(KNOWN_AUGMENTATIONS)}, each once; received: "
            f"{', '.join(unknown or listed)}. Correct the list."
        )
    return listed
