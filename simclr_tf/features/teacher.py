"""A teacher: the classifier of an exported SavedModel, as a function from images to logits."""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.features.exported import ExportedModel

_LOGITS = "logits_sup"


class Teacher:
    """The classifier of an exported SavedModel, as a function from images to logits.

    Args:
        exported: A SavedModel with an endpoint `logits_sup`.
        num_classes: Number of its classes.
    """

    def __init__(self, exported: ExportedModel, num_classes: int) -> None:
        self.exported = exported
        self.num_classes = num_classes

    def describe(self) -> str:
        """Returns its path, number of classes and image size, in words."""
        size = self.exported.image_size
        resized = f", which sees the images at {size[0]} x {size[1]} pixels" if size else ""
        return f"{self.exported.path}, {self.num_classes} classes{resized}"

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns logits, float32 (N, num_classes), of images (N, height, width, channels)."""
        return self.exported(images)[_LOGITS]


def load_teacher(path: str, image_size: int) -> Teacher:
    """Loads a teacher from an exported classifier: ours, or one of the original release.

    Args:
        path: The SavedModel's folder, or the `model_dir` of the run that wrote it.
        image_size: Side in pixels of the images that it will be given.

    Returns:
        A function from images to logits, with `num_classes`. It resizes images of another size
        than it was made for.

    Raises:
        UserError: No SavedModel there, or one without `logits_sup`.

    Example:
        >>> load_teacher('finetuned', image_size=224).num_classes
        1000
    """
    exported = ExportedModel(path)
    shapes = exported.endpoints(image_size)
    classes = shapes[_LOGITS][-1] if _LOGITS in shapes else None
    if classes is None:
        raise UserError(
            f"Expected a teacher with an endpoint {_LOGITS}; {exported.path} gives "
            f"{', '.join(sorted(shapes))}. Fine-tune it first (--train_mode=finetune)."
        )
    return Teacher(exported, int(classes))
