"""Names for what signatures of several rooms take and give: shapes once, in words.

TensorFlow and Keras come without types, so that a checker takes these as hints to the reader. They
are strings: naming a type must not import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import tensorflow as tf

Images: TypeAlias = "tf.Tensor | np.ndarray"
"""A batch of images, (batch, height, width, channels): integers, or floats in [0, 1]."""

Batch: TypeAlias = "tf.Tensor | np.ndarray | dict[str, tf.Tensor]"
"""Images as they reach a model: `Images`, or `{"image": ..., "size": ...}` on a common canvas."""

Features: TypeAlias = "tf.Tensor | np.ndarray"
"""One row for each image, (batch, width) floats."""

Labels: TypeAlias = "tf.Tensor | np.ndarray"
"""Classes as integers, (batch,), or one-hot rows, (batch, classes)."""

Variables: TypeAlias = "Sequence[tf.Variable]"
"""Variables of a model, of either generation of Keras."""

Logs: TypeAlias = "dict[str, tf.Tensor]"
"""What a step reports: scalars by name."""

KerasConfig: TypeAlias = dict[str, Any]
"""What `get_config` gives and `from_config` takes: values that JSON can hold, by argument."""

Json: TypeAlias = dict[str, Any]
"""An object as JSON holds it."""
