"""Images in memory with their features, small pictures and labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.folder_walk import left_out_line
from simclr_tf.errors import UserError
from simclr_tf.features.extractor import Extractor, as_vectors, feature_batches

_THUMBNAIL = 64  # pixels; side of the pictures that are drawn
_RAW = 32  # pixels; side at which raw pixels are compared


class Gallery(NamedTuple):
    """Images and their features.

    Attributes:
        features: float32 (N, d).
        thumbnails: uint8 (N, s, s, c).
        labels: int64 (N,), or None.
    """

    features: np.ndarray
    thumbnails: np.ndarray
    labels: np.ndarray | None


def embed(extract: Extractor, source: ImageSource, batch_size: int, max_images: int) -> Gallery:
    """Returns the features of a source's images, as an evaluation sees them.

    Args:
        extract: The encoder's endpoint; maps (N, h, w, d) are averaged over space.
        source: The images; unreadable ones are left out.
        batch_size: Images at a time.
        max_images: How many images at most.

    Returns:
        A `Gallery`.

    Raises:
        UserError: No image is readable.
    """
    from tqdm import tqdm

    side = min(_THUMBNAIL, *extract.image_size)
    parts: list[dict[str, np.ndarray]] = []
    with source.user_errors(), tqdm(desc="Embedding", unit=" images", delay=2) as bar:
        for columns, _ in feature_batches(source, extract, batch_size, thumbnail=side):
            columns["features"] = as_vectors(columns["features"])
            parts.append({n: v[: max_images - bar.n] for n, v in columns.items()})
            bar.update(len(parts[-1]["index"]))
            if bar.n >= max_images:
                break
    if not bar.n:
        raise UserError(f"Expected readable images in '{source.name}'; received: none.")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Gallery(joined["features"], joined["thumbnail"], joined.get("label"))


def raw_pixels(thumbnails: np.ndarray) -> np.ndarray:
    """Returns float32 (N, d): images (N, s, s, c) of at most 32 pixels a side, as vectors."""
    side = min(_RAW, thumbnails.shape[1])
    small = tf.image.resize(thumbnails, (side, side), "area").numpy()
    return small.reshape(len(small), -1)


def notices(source: ImageSource) -> list[str]:
    """Returns what a user should know of the images that were read and left out, a line each."""
    left_out = [left_out_line(source.name, source.left_out)] if source.left_out else []
    return [*source.notices(), *left_out]
