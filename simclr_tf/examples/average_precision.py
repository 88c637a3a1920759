"""Average precision of boxes, by COCO's own code."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simclr_tf.errors import check_installed

if TYPE_CHECKING:
    from simclr_tf.examples.boxes import Found


class AveragePrecision(NamedTuple):
    """Means over the classes that occur, in [0, 1].

    Attributes:
        over_ious: AP@[.5:.95], a mean over ten IoUs from which a box counts as found.
        at_half: AP50, that of an IoU of 0.5.
    """

    over_ious: float
    at_half: float


def check_pycocotools() -> None:
    """Raises a UserError that says how to install pycocotools where it is not."""
    check_installed("pycocotools", "for average precision", extra="detection")


def average_precision(boxes: np.ndarray, labels: np.ndarray, found: Found) -> AveragePrecision:
    """Scores what a detector found as the COCO challenge does, boxes of all sizes together.

    Args:
        boxes: float (N, M, 4), top, left, bottom and right edges in pixels.
        labels: int (N, M), class ids; -1 where there is no box.
        found: Of the same N scenes.

    Raises:
        UserError: pycocotools is not installed.
        ValueError: There is no box.

    Source: Lin et al. 2014, "Microsoft COCO" (arXiv:1405.0312), and its `cocoeval.py`.

    Example:
        >>> average_precision(scenes.boxes, scenes.labels, detect(model, scenes.images, 16)).at_half
    """
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not (labels >= 0).any():
        raise ValueError("Expected boxes to score against; received: none.")
    truth = [
        {"image_id": scene, "category_id": int(labels[scene, place]), **_coco(boxes[scene, place])}
        for scene, place in np.argwhere(labels >= 0).tolist()
    ]
    guesses = [
        {
            "image_id": scene,
            "category_id": int(found.labels[scene, place]),
            "score": float(found.scores[scene, place]),
            "bbox": _coco(found.boxes[scene, place])["bbox"],
        }
        for scene, count in enumerate(found.counts)
        for place in range(count)
    ]
    if not guesses:
        return AveragePrecision(0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        known = COCO()
        known.dataset = {
            "info": {},
            "images": [{"id": scene} for scene in range(len(labels))],
            "categories": [{"id": label} for label in np.unique(labels[labels >= 0]).tolist()],
            # An id of 0 would stand for "not found".
            "annotations": [{**box, "id": 1 + i, "iscrowd": 0} for i, box in enumerate(truth)],
        }
        known.createIndex()
        scored = COCOeval(known, known.loadRes(guesses), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return AveragePrecision(float(scored.stats[0]), float(scored.stats[1]))


def _coco(box: np.ndarray) -> dict[str, Any]:
    top, left, bottom, right = map(float, box)
    width, height = right - left, bottom - top
    return {"bbox": [left, top, width, height], "area": width * height}
