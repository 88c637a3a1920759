"""What a timed process hears and says: one JSON object a line. The standard library alone.

The parent's first line has the settings; the answer describes the side. Every further line asks
for a round, `{"what": "step", "steps": 3}`; the answer has its seconds and its last loss. A failure
is answered by `{"error": ...}`. When the parent ends, so does this process, with its children.

A round end to end takes `untimed(threads)` steps first: pipelines start, and their buffers are as
full as they are in a long run. Pipelines that went on while others are timed would look fast.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

STEP, END_TO_END = "step", "end to end"
_LONGEST = 300  # characters of an error


class Timed(NamedTuple):
    """A round that is done.

    Attributes:
        seconds: Of its steps, all of them finished.
        loss: Of its last step.
    """

    seconds: float
    loss: float


class Prepared(NamedTuple):
    """A library that is ready to train.

    Attributes:
        description: `name`, `versions`, `device`: strings; `parameters`, `threads`: numbers.
        rounds: Name of a measurement -> function that times a number of steps. What it makes once
            costs time the first time, which the parent does not count.
    """

    description: dict[str, Any]
    rounds: Mapping[str, Callable[[int], Timed]]


def serve(prepare: Callable[[dict[str, Any]], Prepared]) -> None:
    """Answers on stdout what the parent asks on stdin, until it ends.

    What libraries print goes to stderr meanwhile.

    Args:
        prepare: From the parent's settings to what is timed.

    Example:
        >>> serve(lambda settings: Prepared({"name": "me"}, {"step": lambda n: timed(train, n)}))
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    requests = _requests()

    def answer(message: dict[str, Any]) -> None:
        os.write(answers, (json.dumps(message) + "\n").encode())

    try:
        prepared = prepare(next(requests))
    except Exception as error:
        traceback.print_exc()
        answer({"error": in_one_line(error)})
        return
    answer(prepared.description)
    for request in requests:
        try:
            answer(prepared.rounds[request["what"]](int(request["steps"]))._asdict())
        except Exception as error:
            traceback.print_exc()
            answer({"error": in_one_line(error)})


def untimed(threads: int) -> int:
    """Returns how many steps of a round end to end are taken before the clock starts."""
    return max(4, threads)


def in_one_line(error: BaseException) -> str:
    """Returns an error's kind and what it says: the first line, and the last after a colon."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = said[:1]
    if shown and shown[0].endswith(":"):  # as AutoGraph begins, with the user's code after it
        shown = [shown[0].rstrip(":"), *said[1:][-1:]]
    line = ": ".join([type(error).__name__, *shown])
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def timed(take: Callable[[int], float], steps: int) -> Timed:
    """Times a number of steps.

    Args:
        take: Takes so many and returns the last one's loss, when all of them are done.
        steps: How many.
    """
    start = time.perf_counter()
    loss = take(steps)
    return Timed(time.perf_counter() - start, loss)


def _requests() -> Iterator[dict[str, Any]]:
    """Yields the parent's lines. Once there are no more, the process ends, whatever it does."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        # Not by `sys.stdin`: a process forked meanwhile (a DataLoader's) would wait for its lock.
        rest = b""
        while part := os.read(0, 1 << 16):
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                lines.put(line)
        _end()

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _end() -> None:
    sys.stderr.flush()
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # the parent made it a group
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
