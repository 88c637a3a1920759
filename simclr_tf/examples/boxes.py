"""Boxes as a detector without anchors learns them: a class and four distances at each location."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_RADIUS = 1.5  # strides from a box's centre within which a location stands for it
_OVERLAP = 0.6  # IoU from which of two boxes of a class the one of lower score is left out
_LEAST_SCORE = 0.05
MOST_FOUND = 100  # boxes a scene, as COCO counts them


class Found(NamedTuple):
    """Boxes that a detector found, of N scenes; unused places are 0.

    Attributes:
        boxes: float32 (N, 100, 4), top, left, bottom and right edges in pixels.
        scores: float32 (N, 100), in [0, 1], falling.
        labels: int32 (N, 100), class ids.
        counts: int32 (N,), how many boxes there are.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    counts: np.ndarray


def locations(size: int, stride: int) -> np.ndarray:
    """Returns float32 (size, size, 2): the row and column in pixels of each location of a map."""
    centres = stride * (np.arange(size, dtype=np.float32) + 0.5)
    return np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1)


def assign_targets(boxes: np.ndarray, labels: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Says what a detector should find at each location of its map.

    A location stands for a box if it lies within it and at most 1.5 strides from its centre in
    either direction; of several boxes for the smallest. So a box of two strides a side or more has
    a location of its own, unless it shares its centre with a smaller one.

    Args:
        boxes: float (N, M, 4), top, left, bottom and right edges in pixels.
        labels: int (N, M), class ids; -1 where there is no box.
        size: Height and width of the map.
        stride: Pixels between locations.

    Returns:
        float32 (N, size, size, 6): the class id or -1; the distances to the top, left, bottom and
        right edges in strides; the centre-ness, 1 at the centre and 0 at an edge. 0 where there is
        no box.

    Source: Tian et al. 2019, FCOS (arXiv:1904.01355), sections 3.1 and 3.2, equations 1 and 3;
    centre sampling: its later version (arXiv:2006.09214), section 2.1.

    Example:
        >>> assign_targets(np.array([[[0, 0, 16, 16]]]), np.array([[7]]), size=4, stride=8).shape
        (1, 4, 4, 6)
    """
    at = locations(size, stride)[None, :, :, None]  # (1, size, size, 1, 2)
    edges = np.asarray(boxes, np.float32)[:, None, None]  # (N, 1, 1, M, 4)
    distances = np.concatenate([at - edges[..., :2], edges[..., 2:] - at], axis=-1) / stride
    middle = (edges[..., :2] + edges[..., 2:]) / 2
    stands = (
        (distances.min(axis=-1) > 0)
        & (np.abs(at - middle).max(axis=-1) <= _RADIUS * stride)
        & (labels >= 0)[:, None, None]
    )
    area = np.prod(edges[..., 2:] - edges[..., :2], axis=-1)
    area = np.where(stands, area, np.inf)  # (N, size, size, M)
    chosen = area.argmin(axis=-1)[..., None]
    held = np.take_along_axis(stands, chosen, axis=-1)
    of_chosen = np.take_along_axis(distances, chosen[..., None], axis=-2)[..., 0, :]
    names = np.broadcast_to(labels[:, None, None], area.shape)
    ids = np.where(held, np.take_along_axis(names, chosen, axis=-1), -1)
    of_chosen = np.where(held, of_chosen, 0.0)
    shares = []
    for first, last in ((0, 2), (1, 3)):
        pair = of_chosen[..., [first, last]]
        shares.append(pair.min(axis=-1) / np.maximum(pair.max(axis=-1), 1e-6))
    centred = np.sqrt(shares[0] * shares[1])[..., None]
    return np.concatenate([ids, of_chosen, centred], axis=-1).astype(np.float32)


def decode(outputs: tf.Tensor, stride: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Turns a detector's outputs into boxes, without those that overlap a better one of a class.

    A score is the geometric mean of the class's probability and the centre-ness.

    Args:
        outputs: float (N, h, w, C + 5): logits of C classes, four distances in strides, the logit
            of the centre-ness.
        stride: Pixels between locations.

    Returns:
        Boxes, scores, class ids and counts, see `Found`.

    Source: FCOS (arXiv:2006.09214), section 2.2.

    Example:
        >>> boxes, scores, labels, counts = decode(detector(images), stride=4)
    """
    shape = tf.shape(outputs)
    rows = tf.reshape(outputs, [shape[0], -1, outputs.shape[-1]])
    logits, distances, centred = tf.split(rows, [outputs.shape[-1] - 5, 4, 1], axis=-1)
    at = tf.reshape(locations(int(outputs.shape[1]), stride), [1, -1, 2])
    distances *= stride
    boxes = tf.concat([at - distances[..., :2], at + distances[..., 2:]], axis=-1)
    boxes = tf.clip_by_value(boxes, 0.0, tf.cast(shape[1] * stride, boxes.dtype))
    scores = tf.sqrt(tf.sigmoid(logits) * tf.sigmoid(centred))
    found = tf.image.combined_non_max_suppression(
        boxes[:, :, None],
        scores,
        max_output_size_per_class=MOST_FOUND,
        max_total_size=MOST_FOUND,
        iou_threshold=_OVERLAP,
        score_threshold=_LEAST_SCORE,
        clip_boxes=False,  # else to [0, 1]
    )
    return found[0], found[1], tf.cast(found[2], tf.int32), found[3]


def generalized_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns the generalised IoU of boxes around one location, in [-1, 1].

    Args:
        first: float (..., 4), distances to the top, left, bottom and right edges, at least 0.
        second: The same of the other boxes.

    Source: Rezatofighi et al. 2019 (arXiv:1902.09630), algorithm 1.

    Example:
        >>> generalized_iou(tf.ones([4]), tf.ones([4])).numpy()
        1.0
    """

    def area(edges: tf.Tensor) -> tf.Tensor:
        return tf.reduce_prod(edges[..., :2] + edges[..., 2:], axis=-1)

    both = area(tf.minimum(first, second))
    either = area(first) + area(second) - both
    around = area(tf.maximum(first, second))
    return tf.math.divide_no_nan(both, either) - tf.math.divide_no_nan(around - either, around)
