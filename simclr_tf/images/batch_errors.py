"""Errors about one batch of a data set: raised inside the input pipeline, reported in one line.

A pipeline cannot raise a Python exception of its own: a failed assertion arrives as some
`tf.errors.OpError` with a long text. `stop_unless` asserts; `found_in` finds its message again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from simclr_tf.errors import UserError

# The assertion of `stop_unless`; the closing bracket is the last one of its line.
_ASSERTED = re.compile(r"assertion failed: \[(Expected .*?)\](?=\s*(?:\n|\[\[|$))", re.DOTALL)
# Raised by Python code in a pipeline (a generator, a `keras.utils.Sequence`, a decoder).
_RAISED = re.compile(r"UserError: (Expected [^\n]*)")


class BatchError(UserError, tf.errors.InvalidArgumentError):
    """A `UserError` about a batch, found while a data set is read.

    It is an `InvalidArgumentError` too, as are other errors of a data set.

    Args:
        message: One line.

    Example:
        >>> try:
        ...     model.fit(dataset)
        ... except UserError as error:
        ...     print(error)
    """

    def __init__(self, message: str) -> None:
        tf.errors.InvalidArgumentError.__init__(self, None, None, message)


def stop_unless(holds: tf.Tensor, message: str | tf.Tensor) -> tf.Operation:
    """Returns an assertion for a graph: make it a control dependency of what it guards.

    Args:
        holds: Boolean scalar.
        message: One line, "Expected ...": a string, or a scalar string tensor.
    """
    return tf.debugging.Assert(holds, [message])


def with_value(template: str, value: float | tf.Tensor) -> str | tf.Tensor:
    """Returns a message with a number filled in: a string, or for a tensor a string tensor.

    Args:
        template: Text with one `{}`.
        value: A number, or a scalar tensor.
    """
    if not tf.is_tensor(value):
        return template.format(f"{value:g}")
    before, after = template.split("{}")
    return tf.strings.join([before, tf.strings.as_string(value, shortest=True), after])


def found_in(error: BaseException) -> UserError | None:
    """Returns the user's mistake behind a TensorFlow error; None if there is none."""
    if isinstance(error, UserError):
        return error
    text = str(error)
    match = _ASSERTED.search(text) or _RAISED.search(text)
    return None if match is None else BatchError(" ".join(match.group(1).split()))


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Turns an error of a check, in a pipeline or in a step while it is traced, into one line.

    Keras 2 wraps what a step raises in an error of its own with the code around it.

    Example:
        >>> with in_one_line():
        ...     model.fit(dataset)
    """
    try:
        yield
    except Exception as error:
        found = found_in(error)
        if found is None or found is error:
            raise
        raise found from error
