"""Python within data sets, which TensorFlow calls ahead of need until its iterators are gone."""

from __future__ import annotations

import atexit
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# At exit: after this time without a call no further one comes, as all buffers are full.
_QUIET_SECONDS = 0.2
# For a call that takes longer than this Python does not wait.
_MOST_SECONDS = 10.0


def call_python(
    function: Callable[..., Any], inputs: list[tf.Tensor], dtypes: tf.DType | list[tf.DType]
) -> Any:
    """Returns `tf.numpy_function(function, inputs, dtypes)`, and lets Python exit nevertheless.

    A script may end while an iterator is alive, as after `batch = next(iterator)`, and decodes the
    batches to come. An exiting Python answers no call any more, and TensorFlow deletes no iterator
    before its calls are answered: they would wait for each other forever.

    Args:
        function: Of NumPy arrays.
        inputs: Its arguments.
        dtypes: Of what it returns.

    Example:
        >>> data.map(lambda key: call_python(read, [key], tf.uint8))
    """
    return tf.numpy_function(_calls().answered(function), inputs, dtypes)


class _Calls:
    """Counts the calls that are being answered, and answers at once when Python exits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._latest = 0.0
        self._exiting = False

    def answered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, which repeats its last answer when Python exits."""
        last: list[Any] = []

        @functools.wraps(function)
        def answer(*arrays: Any) -> Any:
            self._note(1)
            try:
                if self._exiting and last:
                    return last[0]
                found = function(*arrays)
                last[:] = [found]
                return found
            finally:
                self._note(-1)

        return answer

    def _note(self, change: int) -> None:
        with self._lock:
            self._running += change
            self._latest = time.monotonic()

    def end(self) -> None:
        """Waits until no call runs and none comes."""
        self._exiting = True
        until = time.monotonic() + _MOST_SECONDS
        while time.monotonic() < until:
            with self._lock:
                if not self._running and time.monotonic() - self._latest > _QUIET_SECONDS:
                    return
            time.sleep(_QUIET_SECONDS / 10)


@functools.cache
def _calls() -> _Calls:
    calls = _Calls()
    atexit.register(calls.end)
    return calls
