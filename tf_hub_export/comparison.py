"""Whether a converted model computes the same as the original, measured on a few images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.models.endpoints import POOLED
from simclr_tf.typing import Features
from tf_hub_export.input_contract import InputContract

# Outputs of a converted file: only vectors. Maps would be computed and copied at every call.
CONVERTED = (POOLED, "proj_head_output", "logits_sup")
# Largest relative deviation that an export may have. ResNets of depth 18 to 152, with and without
# selective kernels, show at most 1.3e-6, 1.5e-3 and 4.1e-2.
LIMITS = {"float32": 1e-4, "float16": 2e-2, "int8": 2e-1}
_IMAGES = 4
_OTHER_SIDE = 32  # of inputs that are not images and whose size is free


def sample_images(contract: InputContract) -> np.ndarray:
    """Returns the images that outputs are compared on, the same at every call.

    Args:
        contract: What the model takes.

    Returns:
        float32 (4, height, width, channels) in [0, 1]: two of noise and two of smooth colours, one
        of each at half the contrast.

    Example:
        >>> sample_images(InputContract((None, None, None, 3), (32, 32))).shape
        (4, 32, 32, 3)
    """
    sides = contract.image_size or tuple(side or _OTHER_SIDE for side in contract.shape[1:-1])
    random = np.random.RandomState(0)
    images = random.rand(_IMAGES, *sides, contract.channels).astype(np.float32)
    if len(sides) == 2:
        coarse = random.rand(_IMAGES // 2, 4, 4, contract.channels).astype(np.float32)
        images[_IMAGES // 2 :] = tf.image.resize(coarse, sides).numpy()
    images[::2] *= 0.5
    return images


def deviations(
    outputs: Mapping[str, Features], reference: Mapping[str, Features]
) -> dict[str, float]:
    """Returns max|difference| / max|reference| by endpoint.

    Args:
        outputs: Endpoint -> (N, ...) of the converted model.
        reference: Endpoint -> (N, ...); holds at least the endpoints of `outputs`.

    Raises:
        UserError: An endpoint has another shape, or is missing from the reference.

    Example:
        >>> deviations({'x': np.float32([1, 2])}, {'x': np.float32([1, 4])})
        {'x': 0.5}
    """
    found = {}
    for name, value in outputs.items():
        given = np.asarray(value, np.float64)
        expected = np.asarray(reference[name], np.float64) if name in reference else None
        if expected is None or given.shape != expected.shape:
            shape = None if expected is None else expected.shape
            raise UserError(
                f"Expected {name} of shape {shape} from the converted model; received: "
                f"{given.shape}. Nothing was written."
            )
        scale = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
        found[name] = float(np.abs(given - expected).max() / scale)
    return found


def require_close(found: Mapping[str, float], precision: str, format: str) -> dict[str, object]:
    """Checks deviations against the limit of a precision.

    Args:
        found: Endpoint -> relative deviation.
        precision: A key of `LIMITS`.
        format: The format's name, for the message.

    Returns:
        Entries of the model card: `deviation` by endpoint, `deviation_limit` and
        `compared_images`, their number.

    Raises:
        UserError: One is above the limit, or NaN.
    """
    limit = LIMITS[precision]
    worst = max(found, key=lambda name: found[name] if found[name] == found[name] else np.inf)
    if not found[worst] <= limit:  # nan too
        raise UserError(
            f"Expected {format} ({precision}) to give the model's outputs within {limit:g} "
            f"(max|difference|/max|reference|); received: {found[worst]:.2g} at {worst}. Nothing "
            "was written; choose another precision or format."
        )
    return {"deviation": dict(found), "deviation_limit": limit, "compared_images": _IMAGES}
