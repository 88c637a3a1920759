"""Kills one small run again and again at random moments, and compares it with one left alone.

    python tests/support/kill_at_random.py [KILLS] [SEED]

Not a test: it takes some three seconds of a processor for each kill. Moments are drawn from the
time that a whole run takes, so that some fall into the imports, the tracing, the evaluation and the
export. Prints where each process was when it was killed.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "commands"))

import processes
from test_interrupted import WATCHED, assert_same_run


def last_line(done: str) -> str:
    lines = [line for line in done.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:90] if lines else "before its first line"


def main(kills: int, seed: int) -> None:
    draws = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="killed-"))
    command = ["-m", "simclr_tf.run", *WATCHED]
    began = time.monotonic()
    assert processes.run(*command, "--model_dir=whole", cwd=folder).returncode == 0
    length = time.monotonic() - began
    survived = completed = 0
    while survived < kills:
        started = processes.start(*command, "--model_dir=run", cwd=folder)
        try:
            started.communicate(draws.uniform(0.2 * length, length))
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGKILL)
            out, err = started.communicate(30)
            survived += 1
            print(f"kill {survived}: {last_line(err) or last_line(out)}", flush=True)
            continue
        assert started.returncode == 0
        # It was done before its moment came: another run takes the next kills.
        assert_same_run(folder / "run", folder / "whole")
        print("complete, and equal to the run left alone", flush=True)
        completed += 1
        (folder / "run").rename(folder / f"complete-{completed}")
    assert processes.run(*command, "--model_dir=run", cwd=folder).returncode == 0
    assert_same_run(folder / "run", folder / "whole")
    print(f"{survived} kills survived: equal to the run left alone, bit for bit")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [20, 0][len(given) :]))
