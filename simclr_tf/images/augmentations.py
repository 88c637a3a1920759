"""The augmentations by name. Settings list them without TensorFlow, `augment` does them."""

from __future__ import annotations

# The place in this tuple is folded into the seed: what one augmentation draws does not depend on
# which others are on. Append only.
AUGMENTATIONS = (
    "crop", "flip", "color", "blur", "cutout", "solarize", "noise", "sobel", "rotate", "affine",
)  # fmt: skip
SIMCLR = AUGMENTATIONS[:4]  # the paper's own, the default
