"""The names of the augmentations, readable without TensorFlow; `augment` implements them."""

from __future__ import annotations

# The index in this tuple is folded into the seed, so that what one augmentation draws does not
# depend on which others are on. Append only.
AUGMENTATIONS = (
    "crop", "flip", "color", "blur", "cutout", "solarize", "noise", "sobel", "rotate", "affine",
    "padded_crop",
)  # fmt: skip
SIMCLR = AUGMENTATIONS[:4]  # the paper's own, the default
