"""A logger whose failures do not reach the run: one warning, later another try."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable

from simclr_tf.loggers.logger import Logger

RETRY_SECONDS = 600.0  # a try may take half a minute, in which training waits
_MOST_WAITING = 100_000
_LONGEST = 200  # characters of another library's message


class Guarded:
    """Calls a logger; what fails waits and is tried again, in order.

    Args:
        title: The logger's name in messages.
        logger: The logger.
        say: Prints a line.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        title: str,
        logger: Logger,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.logger = logger
        self._title, self._say, self._clock = title, say, clock
        self._waiting: deque[Callable[[Logger], None]] = deque(maxlen=_MOST_WAITING)
        self._failed_at: float | None = None
        self._warned = False

    def call(self, act: Callable[[Logger], None]) -> None:
        """Does something with the logger, now or when it works again."""
        self._waiting.append(act)
        if self._failed_at is None or self._clock() - self._failed_at >= RETRY_SECONDS:
            self._work_off()

    def close(self, exit_code: int) -> None:
        """Tries what waits a last time, and ends the logger."""
        self._work_off()
        if self._waiting:
            self._say(
                f"Warning: {self._title} did not get the last {len(self._waiting)} of what was "
                "logged; metrics.csv holds every curve."
            )
        try:
            self.logger.close(exit_code)
        except Exception as error:
            self._warn(error)

    def _work_off(self) -> None:
        try:
            while self._waiting:
                self._waiting[0](self.logger)
                self._waiting.popleft()
            self._failed_at = None
        except Exception as error:
            self._failed_at = self._clock()
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        self._say(
            f"Warning: {self._title} failed ({one_line(error)}); the run goes on, and what is "
            f"logged meanwhile is tried again every {RETRY_SECONDS / 60:.0f} minutes and at the "
            "end."
        )


def one_line(error: Exception) -> str:
    """Returns what an error of another library says, short and without a password."""
    text = without_password(" ".join(str(error).split())).rstrip(".") or type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def without_password(text: str) -> str:
    """Returns a text whose addresses no longer name a user and a password."""
    return re.sub(r"//[^/@\s]+@", "//", text)
