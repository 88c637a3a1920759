"""What tests need of the original release: weights by rule, and the numbers it recorded."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from simclr_tf.checkpoints.variables import model_variables


def weights_by_rule(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that a variable had when the reference arrays were recorded."""
    random = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    name = key.rsplit("/", 1)[-1]
    if name == "kernel":
        value = random.standard_normal(shape) * np.sqrt(1 / np.prod(shape[:-1]))
    elif name in ("gamma", "moving_variance"):
        value = 1 + 0.1 * np.abs(random.standard_normal(shape))
    else:
        value = 0.1 * random.standard_normal(shape)
    return value.astype(np.float32)


def set_weights_by_rule(model: Any) -> None:
    for path, variable in model_variables(model).items():
        variable.assign(weights_by_rule(f"model/{path}", tuple(variable.shape)))


def two_views(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The release stacks two views on the channel axis."""
    return images[..., :3], images[..., 3:]
