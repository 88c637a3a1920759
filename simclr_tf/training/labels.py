"""What labels mean: class ids, one-hot rows, or probabilities; and what is refused.

| labels | meaning |
|---|---|
| integers (N,) or (N, 1); floats that are whole numbers | class ids; -1 is "no label" where a model says so |
| integers or booleans (N, C), one 1 a row | the same, one-hot |
| floats (N, C), rows that add up to 1 | probabilities: cross-entropy with them; accuracy against the largest |
| anything else, as rows with several ones | refused; the message shows the row |

For a `MultiLabelClassifier` labels are rows (N, C) of numbers from 0 to 1, each class for itself.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.images.batch_errors import stop_unless
from simclr_tf.typing import Labels

Shape: TypeAlias = "tf.TensorShape | tuple[int | None, ...]"

# So many classes where no linear head says how many: ids travel between replicas as float32.
ANY_CLASSES = 2**24
_SUM_TOLERANCE = 1e-2  # of a row of probabilities; bfloat16 rounds by 0.004


class LabelRule(NamedTuple):
    """Which labels are right.

    Attributes:
        num_classes: Classes of the linear head; `ANY_CLASSES`: there is none.
        lowest: -1 where that stands for "no label", else 0.
        several: Whether an image is of any number of classes.
    """

    num_classes: int
    lowest: int = 0
    several: bool = False


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


def multi_label_targets(labels: Labels) -> tf.Tensor:
    """Returns rows (N, C) as float32, for models whose images are of several classes."""
    return tf.cast(tf.convert_to_tensor(labels), tf.float32)


def class_ids(labels: Labels, num_classes: int) -> tf.Tensor:
    """Returns int32 class ids (N,), for probabilities the largest; arguments as for `targets`."""
    found = targets(labels, num_classes)
    return found if found.shape.rank == 1 else tf.argmax(found, -1, output_type=tf.int32)


def balanced_weights(labels: np.ndarray, num_classes: int) -> list[float]:
    """Returns factors of the classes' losses by which each class counts the same, 1 on average.

    Args:
        labels: Class ids (N,); those below 0 are no label.
        num_classes: C.

    Returns:
        C factors: N / (C' n) for a class of n of the N labels, where C' classes occur; 1 for a
        class without labels.

    Source: King and Zeng 2001, "Logistic Regression in Rare Events Data", as in scikit-learn's
    `class_weight="balanced"`.

    Example:
        >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
        [0.6666666666666666, 2.0]
    """
    known = np.asarray(labels)[np.asarray(labels) >= 0]
    counts = np.bincount(known, minlength=num_classes)
    present = np.count_nonzero(counts)
    return [len(known) / (present * count) if count else 1.0 for count in counts.tolist()]


def check_class_weights(weights: Sequence[float] | None, num_classes: int) -> list[float] | None:
    """Returns class weights as floats.

    Raises:
        UserError: Not one of at least 0 for each class.
    """
    if weights is None:
        return None
    values = [float(weight) for weight in weights]
    if len(values) != num_classes or not all(0 <= value < np.inf for value in values):
        raise UserError(
            f"Expected class_weights of at least 0 for each of {num_classes} classes; received: "
            f"{values}. Pass one for each, in the order of the class ids."
        )
    return values


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
    if rule.several:
        if shape.rank not in (None, 2) or not shape[-1:].is_compatible_with([classes]):
            raise UserError(
                f"Expected labels as rows (N, {classes}), 1 for each class that an image is of, "
                f"else 0; received: shape {shape}. For one class an image use Classifier."
            )
        return
    fits = shape.rank in (None, 1) or (shape.rank == 2 and shape[1] in (None, 1, classes))
    if not fits and classes == ANY_CLASSES:
        raise UserError(
            "Expected labels of shape (N,) or (N, 1), class ids, for a loss that compares classes; "
            f"received: shape {shape}. Pass num_classes, with which one-hot rows are taken, or ids."
        )
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
    ones = np.ones([rule.num_classes, 1])
    if rule.several:
        from_half = abs(labels - 0.5)
        beyond = from_half - 0.5 + abs(from_half - 0.5)
        return beyond @ ones <= 0.0
    if not _in_rows(labels.shape, rule.num_classes):
        return (labels >= rule.lowest) & (labels < rule.num_classes) & (labels % 1.0 == 0.0)
    # A negative entry makes the sum of absolute values larger.
    total, absolute = labels @ ones, abs(labels) @ ones
    return (abs(total - 1.0) <= _SUM_TOLERANCE) & (absolute <= 1.0 + _SUM_TOLERANCE)


def _message(rule: LabelRule, rows: bool) -> str:
    """Returns the message with two gaps: the row's index and its content."""
    if rule.several:
        return (
            "Expected labels from 0 to 1, one for each class; received row {}: {}. Correct the "
            "labels."
        )
    if rows:
        return (
            "Expected labels that are one-hot, or probabilities that add up to 1; received row "
            "{}: {}. Images of several classes at once are for MultiLabelClassifier; for others "
            "correct the labels."
        )
    if rule.num_classes == ANY_CLASSES:
        return (
            f"Expected class ids as labels, whole numbers from {rule.lowest} on; received others, "
            "first in row {}: {}. Correct the labels."
        )
    return (
        f"Expected labels in [{rule.lowest}, {rule.num_classes}), the classes of the linear head, "
        "as whole numbers; received others, first in row {}: {}. Pass the right num_classes or "
        "correct the labels."
    )
