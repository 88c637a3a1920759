"""A command that is killed at a chosen moment: `SIGKILL`, which leaves no time to tidy up.

Example:
    moment = Moment("tensorflow.train", "CheckpointManager.save", call=2, when="after")
    assert killed(moment, "--model_dir=run", *TINY)
"""

from __future__ import annotations

import signal
from typing import NamedTuple

import processes

_SCRIPT = """
import importlib, operator, os, signal, sys, threading

module, name, call, when, *sys.argv[1:] = sys.argv[1:]
owner, _, last = name.rpartition(".")
place = importlib.import_module(module)
place = operator.attrgetter(owner)(place) if owner else place
original, calls = getattr(place, last), 0

def end():
    os.kill(os.getpid(), signal.SIGKILL)

def wrapped(*arguments, **settings):
    global calls
    calls += 1
    if calls == int(call) and when == "before":
        end()
    if calls == int(call) and when not in ("before", "after"):
        threading.Timer(float(when), end).start()
    result = original(*arguments, **settings)
    if calls == int(call) and when == "after":
        end()
    return result

setattr(place, last, wrapped)
from simclr_tf.run import cli
cli()
"""


class Moment(NamedTuple):
    """When a process is killed.

    Attributes:
        module: Where the function lies that is called at that moment.
        name: Of the function in it, `Class.method` too.
        call: Which of its calls, from 1.
        when: `before` or `after` the call, or so many seconds after it began.
    """

    module: str
    name: str
    call: int = 1
    when: str = "before"


def killed(moment: Moment, *arguments: str) -> bool:
    """Runs `simclr-tf *arguments`; returns whether the moment came, and killed it.

    Raises:
        AssertionError: It ended by itself, with an error.
    """
    done = processes.run("-c", _SCRIPT, *map(str, moment), *arguments)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode != 0
