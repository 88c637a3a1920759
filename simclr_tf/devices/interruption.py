"""Signals that end a process: a shell's Ctrl-C, a scheduler that takes the machine away.

SIGTERM and SIGINT raise an `Interruption` where the process is; a block that can finish what it is
doing notes the first one instead. A second one always raises. Signals reach the main thread only:
elsewhere nothing changes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from simclr_tf.errors import Interruption

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], None]


class Notice:
    """Whether a signal has come.

    Attributes:
        number: The signal's number; None: none has come.
        waits: Whether the block finishes what it is doing before it ends; while it does not, the
            first signal raises too.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.waits = False


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Makes SIGTERM and SIGINT raise an `Interruption` in a block, so that it cleans up.

    Example:
        >>> with raising():
        ...     work()
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interruption(number)

    with _handled(interrupt):
        yield


@contextlib.contextmanager
def noted() -> Iterator[Notice]:
    """Notes the first SIGTERM or SIGINT of a block that waits; the next one raises.

    Example:
        >>> with noted() as notice:
        ...     notice.waits = True
        ...     while notice.number is None:
        ...         step()
    """
    notice = Notice()

    def note(number: int, frame: FrameType | None) -> None:
        if notice.number is not None or not notice.waits:
            raise Interruption(number)
        notice.number = number

    with _handled(note):
        yield notice


@contextlib.contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            # None: not set from Python, and not to be set again from there.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
