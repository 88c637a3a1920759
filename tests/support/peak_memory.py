"""Runs Python code in a process of its own, whose memory can be measured from within."""

from __future__ import annotations

import processes

# `peak()`: the process's largest resident size so far, in kilobytes (bytes on macOS: take ratios).
_PRELUDE = """
import resource, sys
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""


def last_number(code: str, *arguments: object) -> int:
    """Returns the number that the code prints last.

    A process begins with its parent's largest size, so one started from here would report at least
    that of the tests themselves; the one that `processes.py` forks has imported TensorFlow alone.
    """
    done = processes.run("-c", _PRELUDE + code, *map(str, arguments), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])
