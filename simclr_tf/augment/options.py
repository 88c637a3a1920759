"""The options that the device form and the host form of the augmentation share, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simclr_tf.augment import color, extras
from simclr_tf.errors import UserError
from simclr_tf.images.augmentations import AUGMENTATIONS, SIMCLR

DEFAULT_AUGMENTATIONS = SIMCLR
KNOWN_AUGMENTATIONS = AUGMENTATIONS

_RELEASE_AREA_MIN = 0.08
_RELEASE_MIN_COVERED = 0.1


def min_covered(area_min: float) -> float:
    """Returns the share of the image below which a box that was drawn is rejected.

    The release draws areas from 0.08 on, but its sampler rejects boxes that cover less than 0.1 of
    the image. Its own 0.08 keeps that meaning, so that its views stay what they were; any other
    value is taken at its word.

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
    """Returns the taps of the blur, as the release: a tenth of the image's height, then odd."""
    return 2 * (image_size // 10 // 2) + 1


def check_options(
    image_size: int | Sequence[int],
    color_jitter_strength: float,
    use_blur: bool,
    brightness: str,
    augmentations: str | Sequence[str],
    crop_area: Sequence[float],
    crop_aspect_ratio: Sequence[float],
) -> dict[str, Any]:
    """Returns the checked options of an augmentation, with 'size' (height, width) and 'names'.

    'names' are the augmentations that are on, crop first. Raises UserError.
    """
    given = image_size
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    size = tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(
            f"Expected image_size as a whole number > 0 or (height, width); received: {given!r}. "
            "Pass for example image_size=32."
        )
    if isinstance(augmentations, str):
        augmentations = augmentations.split(",")
    listed = tuple(name.strip() for name in augmentations if name.strip())
    unknown = [name for name in listed if name not in KNOWN_AUGMENTATIONS]
    if unknown or len(set(listed)) != len(listed):
        raise UserError(
            f"Expected augmentations from {', '.join(KNOWN_AUGMENTATIONS)}, each once; received: "
            f"{', '.join(unknown or listed)}. Correct the list."
        )
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
    names = [name for name in listed if name != "crop" and (use_blur or name != "blur")]
    for name in {"cutout", "solarize"}.intersection(names):
        extras.keras_cv_for(name)  # report a missing package now, not within a step
    return {
        "image_size": given if isinstance(given, int) else list(size),
        "color_jitter_strength": float(color_jitter_strength),
        "use_blur": bool(use_blur),
        "brightness": brightness,
        "augmentations": listed,
        "crop_area": tuple(map(float, crop_area)),
        "min_covered": min_covered(float(crop_area[0])),
        "crop_aspect_ratio": tuple(map(float, crop_aspect_ratio)),
        "size": size,
        "names": (["crop"] if "crop" in listed else []) + names,
    }
