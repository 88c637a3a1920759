"""A trial's run as a process of its own: memory and devices are as fresh as a user's."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple, Protocol

import simclr_tf
from simclr_tf.errors import UserError
from simclr_tf.files.lock import trainer_of

LOG_FILE = "log.txt"
_SET_PARENT_DEATH_SIGNAL = 1  # of Linux: PR_SET_PDEATHSIG
_SECONDS_TO_END = 120.0  # for the run of a sweep that was killed: a step and a checkpoint
_LONGEST = 500  # characters of a line
Say = Callable[[str], None]


class Process(Protocol):
    """What is asked of a started process."""

    def wait(self) -> int:
        """Returns the exit code once it has ended; -N where signal N ended it."""

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""


class Ended(NamedTuple):
    """How a run's process ended.

    Attributes:
        code: Its exit code; -N where signal N ended it.
        line: The last that it said, of an error.
    """

    code: int
    line: str


def run(flags: Sequence[str], folder: str) -> Ended:
    """Runs `python -m simclr_tf.run`; what it prints is added to `log.txt` in its folder.

    A signal that comes meanwhile is handed on, once: the run writes its checkpoint and ends.

    Args:
        flags: All of its settings.
        folder: Its `model_dir`; it is made.

    Raises:
        Interruption: A signal came; the process has ended.

    Example:
        >>> run(['--dataset=mnist_5k', '--model_dir=runs/a'], 'runs/a')
        Ended(code=0, line='')
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, LOG_FILE)
    with open(path, "ab") as log:
        log.write(f"$ python -m simclr_tf.run {shlex.join(flags)}\n".encode(errors="replace"))
        log.flush()
        begin = log.tell()
        process = start(["-m", "simclr_tf.run", *flags], log)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait()
            except KeyboardInterrupt:  # the user's second: now
                process.send_signal(signal.SIGKILL)
                process.wait()
            raise
    return Ended(code, "" if code == 0 else _last_line(path, begin, code))


def start(arguments: Sequence[str], log: IO[bytes]) -> Process:
    """Starts `python *arguments`; signals of the terminal do not reach it.

    On Linux it gets a SIGTERM when this process ends, by a kill too.

    Args:
        arguments: Of Python.
        log: Where it writes.
    """
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_environment(),
        start_new_session=True,
        preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
    )


def wait_for_trainer(folder: str, say: Say, seconds: float = _SECONDS_TO_END) -> None:
    """Waits for a run that a killed sweep has left to its end.

    Args:
        folder: The run's `model_dir`.
        say: Prints a line.
        seconds: For how long at most.

    Raises:
        UserError: It trains still.
    """
    deadline = time.monotonic() + seconds
    said = False
    while (trainer := trainer_of(folder)) is not None:
        if time.monotonic() > deadline:
            raise UserError(
                f"Expected a trial that nobody trains; received: {folder}, where {trainer} does. "
                "End it, and the same command goes on."
            )
        if not said:
            say(f"Waiting for {trainer} to end the run in {folder}.")
            said = True
        time.sleep(0.2)


def _environment() -> dict[str, str]:
    """Returns this process's environment, in which this package is found, installed or not."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(simclr_tf.__file__)))
    installed = {os.path.abspath(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    if home in installed:
        return dict(os.environ)
    paths = [home, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _end_with_parent() -> Callable[[], None]:
    """Returns what a new process is to do first: ask for a signal when its parent ends."""
    library, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        library.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(128 + signal.SIGTERM)

    return ask


def _last_line(path: str, begin: int, code: int) -> str:
    """Returns the line of an error, or the last line, of what a process wrote."""
    with open(path, "rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    said = [line for line in lines if line]
    errors = [line for line in said if line.startswith("simclr-tf: error: ")]
    if code < 0:
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
        memory = ": out of memory?" if -code == signal.SIGKILL else ""
        return f"ended by {name}{memory}"
    line = (errors or said or [f"exit code {code}"])[-1].removeprefix("simclr-tf: error: ")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
