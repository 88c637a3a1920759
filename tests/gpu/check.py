"""Checks this package on a GPU: equal to the CPU, whole steps on the device, and how fast.

    python tests/gpu/check.py [--out=FOLDER] [--minutes=8] [--only=TEXT] [--allow_cpu]

See README.md beside this file. The work is done by `worker.py` in a process of its own, which is
started again where a part takes it down, and ended when the time is over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUPPORT = HERE.parent / "support"
sys.path.insert(0, str(HERE))
sys.path.append(str(HERE.parents[1]))  # where the package is not installed

from record import Record  # noqa: E402

import simclr_tf  # noqa: E402
from simclr_tf.cli import Arguments, exit_code  # noqa: E402
from simclr_tf.errors import UserError  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 where something failed, 2 after a user's mistake."""
    return exit_code("check", lambda: _check(_arguments().parse_args(argv)))


def _arguments() -> Arguments:
    arguments = Arguments(
        "check", "Compares the GPU with the CPU of this machine, and times training steps."
    )
    arguments.prog = "python tests/gpu/check.py"
    add = arguments.add_argument
    add("--out", metavar="FOLDER", default="runs/gpu", help="for gpu.json and gpu.md (runs/gpu)")
    add("--minutes", type=float, default=8.0, help="after which it ends (default 8)")
    add("--only", metavar="TEXT", default="", help="parts whose name holds it; keeps the others")
    add("--allow_cpu", action="store_true", help="go on without a GPU, in small sizes")
    return arguments


def _check(given: argparse.Namespace) -> int:
    if not given.minutes > 0:
        raise UserError(f"Expected --minutes above 0; received: {given.minutes}.")
    deadline = repr(time.time() + 60 * given.minutes)
    arguments = (given.out, deadline, given.only, str(int(given.allow_cpu)))
    code = supervise([sys.executable, "-m", "worker", *arguments], given.out, deadline)
    return code or _conclude(Record(given.out))


def supervise(command: Sequence[str], folder: str, deadline: str) -> int:
    """Runs the worker until all is done, in a new process after each part that ended one.

    Args:
        command: Starts the worker.
        folder: Of the record.
        deadline: When it is ended, in seconds of `time.time`, as the record names its session.

    Returns:
        0, or the code of a worker that ended before its first part.

    Raises:
        UserError: There was no time for the first part.
    """
    while True:
        code = _run(command, float(deadline) - time.time())
        record = Record(folder)
        if record.session != deadline:
            if code is None:
                raise UserError(
                    "Expected more time than TensorFlow takes to start; received: too little. Pass "
                    "a larger --minutes."
                )
            return code or 1
        if not record.to_do:
            return 0
        name = record.to_do[0]
        if code is not None:
            record.end("DIED", f"its process ended with {_named(code)}")
            print(f"DIED with {_named(code)}: {name}", flush=True)
            continue
        record.end("CUT", "the time ended within it")
        print(f"CUT, as the time ended: {name}")
        print(f"SKIPPED: {'; '.join(record.skip_rest()) or 'nothing'}", flush=True)
        return 0


def _run(command: Sequence[str], seconds: float) -> int | None:
    """Returns a worker's exit code; None if it had to be ended."""
    ours = str(Path(simclr_tf.__file__).parents[1])
    paths = [str(HERE), str(SUPPORT), ours, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, env=env)
    try:
        return process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def _named(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _conclude(record: Record) -> int:
    failures = record.failures()
    print(f"{record.path} and gpu.md beside it hold all of it.")
    if failures:
        print(f"{len(failures)} failed: {'; '.join(failures)}")
        return 1
    left = [part["name"] for part in record.parts if part["status"] in ("CUT", "SKIPPED")]
    print(f"nothing failed; {len(left)} of {len(record.parts)} parts were left out" if left else
          "all passed")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
