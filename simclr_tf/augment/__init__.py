"""Views: SimCLR's random augmentation as a Keras layer, its draws and operations, and its forms for
the host and for XLA on processors.
A new augmentation is a row of `extras` and a name in `images.augmentations`; deterministic geometry
is in `images`.
"""

from __future__ import annotations

from simclr_tf.augment.layer import SimCLRAugment

__all__ = ["SimCLRAugment"]
