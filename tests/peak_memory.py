"""Runs Python code in a process of its own, whose memory can be measured from within."""

from __future__ import annotations

import subprocess
import sys

# `peak()`: the process's largest resident size so far, in kilobytes (bytes on macOS: take ratios).
_PRELUDE = """
import resource, sys
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""


def last_number(code: str, *arguments: object) -> int:
    """Returns the number that the code prints last.

    A process begins with its parent's largest size, so one started from here would report at least
    that of the tests themselves. A shell stands between the two.
    """
    python = [sys.executable, "-c", _PRELUDE + code, *map(str, arguments)]
    command = ["sh", "-c", '"$@"; exit $?', "sh", *python]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])
