"""What labels mean: class ids, one-hot rows, or probabilities; and what is refused.

| labels | meaning |
|---|---|
| integers (N,) or (N, 1); floats that are whole numbers | class ids; -1 is "no label" where a model says so |
| integers or booleans (N, C), one 1 a row | the same, one-hot |
| floats (N, C), rows that add up to 1 | probabilities: cross-entropy with them; accuracy against the largest |
| anything else, as rows with several ones | refused; the message shows the row |
"""  # noqa: E501

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.images.batch_errors import stop_unless
from simclr_tf.typing import Labels

Shape: TypeAlias = "tf.TensorShape | tuple[int | None, ...]"

_SUM_TOLERANCE = 1e-2  # of a row of probabilities; bfloat16 rounds by 0.004


class LabelRule(NamedTuple):
    """Which labels are right.

    Attributes:
        num_classes: Classes of the linear head.
        lowest: -1 where that stands for "no label", else 0.
    """

    num_classes: int
    lowest: int = 0


def targets(labels: Labels, num_classes: int) -> tf.Tensor:
    """Returns what `supervised_loss` takes: class ids int32 (N,), or probabilities float32 (N, C).

    Args:
        labels: As in the table of this module; they are not checked here.
        num_classes: C.

    Example:
        >>> targets([[0, 1, 0]], 3).numpy()
        array([1], dtype=int32)
    """
    labels = tf.convert_to_tensor(labels)
    if _in_rows(labels.shape, num_classes):
        if labels.dtype.is_floating:
            return tf.cast(labels, tf.float32)
        labels = tf.argmax(tf.cast(labels, tf.int32), -1)
    return tf.cast(tf.reshape(labels, [-1]), tf.int32)


def class_ids(labels: Labels, num_classes: int) -> tf.Tensor:
    """Returns int32 class ids (N,), for probabilities the largest; arguments as for `targets`."""
    found = targets(labels, num_classes)
    return found if found.shape.rank == 1 else tf.argmax(found, -1, output_type=tf.int32)


def check_labels(labels: Labels, rule: LabelRule) -> None:
    """Refuses labels that a linear head cannot learn, before they are used.

    Args:
        labels: Array or eager tensor.
        rule: Which labels are right.

    Raises:
        UserError: A wrong form, or a row out of range; the message names the row.

    Example:
        >>> check_labels(np.array([0, 2, 1]), LabelRule(num_classes=3))
    """
    check_form(labels.shape, labels.dtype, rule)
    values = np.asarray(labels).astype(np.float64)
    good = np.reshape(_good_rows(values, rule), -1)
    if not good.all():
        row = int(np.argmin(good))
        content = np.array2string(np.asarray(labels)[row], threshold=12, separator=", ")
        raise UserError(_message(rule, _in_rows(tuple(labels.shape), rule.num_classes))
                        .format(row, " ".join(content.split())))  # fmt: skip


def checked(labels: tf.Tensor, rule: LabelRule) -> tf.Tensor:
    """Returns labels in a graph (of `tf.data`), checked by an assertion.

    Args:
        labels: Tensor.
        rule: Which labels are right.

    Raises:
        UserError: A wrong form.
    """
    check_form(labels.shape, labels.dtype, rule)
    rows = _in_rows(labels.shape, rule.num_classes)
    good = tf.reshape(_good_rows(tf.cast(labels, tf.float64), rule), [-1])
    holds = tf.reduce_all(good)
    row = tf.where(holds, 0, tf.argmin(tf.cast(good, tf.int32), output_type=tf.int32))
    # A slice, because an empty batch has no row to index.
    content = tf.strings.format("{}", labels[row : row + 1], summarize=12)
    start, middle, end = _message(rule, rows).split("{}")
    parts = [start, tf.strings.as_string(row), " of a batch", middle, content, end]
    with tf.control_dependencies([stop_unless(holds, tf.strings.join(parts))]):
        return tf.identity(labels)


def check_form(shape: Shape, dtype: tf.DType | np.dtype, rule: LabelRule) -> None:
    """Refuses labels by their shape and type.

    Args:
        shape: Their shape; sizes may be unknown.
        dtype: Their type.
        rule: Which labels are right.

    Raises:
        UserError: They are not numbers, or neither (N,), (N, 1) nor (N, C).
    """
    shape, dtype = tf.TensorShape(shape), tf.as_dtype(dtype)
    classes = rule.num_classes
    if not (dtype.is_integer or dtype.is_floating or dtype.is_bool):
        raise UserError(
            f"Expected labels as numbers, class ids in [{rule.lowest}, {classes}); received: type "
            f"{dtype.name}. Number the classes (np.unique(names, return_inverse=True)[1])."
        )
    fits = shape.rank in (None, 1) or (shape.rank == 2 and shape[1] in (None, 1, classes))
    if not fits:
        received = "a single label" if shape.rank == 0 else f"shape {shape}"
        raise UserError(
            f"Expected labels of shape (N,), (N, 1) or one-hot (N, {classes}), {classes} being the "
            f"classes of the linear head; received: {received}. Pass the right num_classes or "
            "correct the labels."
        )


def _in_rows(shape: Shape, num_classes: int) -> bool:
    """Whether each label is a row, as one-hot."""
    return len(shape) == 2 and shape[-1] == num_classes and num_classes > 1


def _good_rows(labels: Labels, rule: LabelRule) -> tf.Tensor | np.ndarray:
    """Returns (N,) or (N, 1) booleans: which rows are right. NaN fails each comparison.

    Made of operators alone, so that it takes float64 arrays and tensors of a graph alike.
    """
    if not _in_rows(labels.shape, rule.num_classes):
        return (labels >= rule.lowest) & (labels < rule.num_classes) & (labels % 1.0 == 0.0)
    ones = np.ones([rule.num_classes, 1])
    # A negative entry makes the sum of absolute values larger.
    total, absolute = labels @ ones, abs(labels) @ ones
    return (abs(total - 1.0) <= _SUM_TOLERANCE) & (absolute <= 1.0 + _SUM_TOLERANCE)


def _message(rule: LabelRule, rows: bool) -> str:
    """Returns the message with two gaps: the row's index and its content."""
    if rows:
        return (
            "Expected labels that are one-hot, or probabilities that add up to 1; received row "
            "{}: {}. Images of several classes at once have no single label: choose one, or divide "
            "each row by its sum, then correct the labels."
        )
    return (
        f"Expected labels in [{rule.lowest}, {rule.num_classes}), the classes of the linear head, "
        "as whole numbers; received others, first in row {}: {}. Pass the right num_classes or "
        "correct the labels."
    )
