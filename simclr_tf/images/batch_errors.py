"""Mistakes that only a batch shows: stopped where the batch is made, told in one line.

An input pipeline cannot raise a Python exception of its own: what it asserts arrives as some
`tf.errors.OpError` around a long text. Here is how a check speaks, and how its line is found again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from simclr_tf.errors import UserError

# The assertion of `stop_unless`; the closing bracket is the last one of its line.
_ASSERTED = re.compile(r"assertion failed: \[(Expected .*?)\](?=\s*(?:\n|\[\[|$))", re.DOTALL)
# What Python code in a pipeline raised (a generator, a `keras.utils.Sequence`, a decoder).
_RAISED = re.compile(r"UserError: (Expected [^\n]*)")


class BatchError(UserError, tf.errors.InvalidArgumentError):
    """A `UserError` about a batch that a data set gave on its way.

    It is an `InvalidArgumentError` too, since that is what a data set raises elsewhere.

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


def stop_unless(holds: Any, message: Any) -> tf.Operation:
    """Returns the assertion of a graph: a dependency of whatever must not go on without it.

    Args:
        holds: Boolean scalar.
        message: One line, "Expected ...": a string, or a scalar string tensor.
    """
    return tf.debugging.Assert(holds, [message])


def with_value(template: str, value: Any) -> Any:
    """Returns a message with its one number put in: a string, in a graph a string tensor.

    Args:
        template: Text with one `{}`.
        value: A number, or a scalar tensor.
    """
    if not tf.is_tensor(value):
        return template.format(f"{value:g}")
    before, after = template.split("{}")
    return tf.strings.join([before, tf.strings.as_string(value, shortest=True), after])


def found_in(error: BaseException) -> UserError | None:
    """Returns the user's mistake that a TensorFlow error was raised for; None if there is none."""
    if isinstance(error, UserError):
        return error
    text = str(error)
    match = _ASSERTED.search(text) or _RAISED.search(text)
    return None if match is None else BatchError(" ".join(match.group(1).split()))


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Turns what a pipeline stopped for into a `BatchError` that says it in one line.

    Example:
        >>> with in_one_line():
        ...     model.fit(dataset)
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = found_in(error)
        if found is None or found is error:
            raise
        raise found from error
