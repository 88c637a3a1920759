"""A trial's run as a process: signals handed on, how it ended, and one that somebody trains."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from simclr_tf.devices.interruption import raising
from simclr_tf.errors import Interruption
from simclr_tf.files.lock import sole_trainer, trainer_of
from simclr_tf.sweeps import child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_once_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    script = """
import signal, sys, time
def end(number, frame):
    print("asked", number, flush=True)
    time.sleep(0.3)
    sys.exit("simclr-tf: interrupted; step 7 is kept")
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""
    begun = child.start
    monkeypatch.setattr(child, "start", lambda arguments, log: begun(["-c", script], log))
    log = tmp_path / child.LOG_FILE

    def send() -> None:
        while not log.exists() or b"ready" not in log.read_bytes():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Interruption) as caught, raising():
        child.run(["--seed=1"], str(tmp_path))
    thread.join()
    assert caught.value.number == number
    text = log.read_text()
    assert text.startswith("$ python -m simclr_tf.run --seed=1\n")
    assert text.count("asked 15") == 1 and text.endswith("step 7 is kept\n")


@pytest.mark.parametrize(
    "script, code, line",
    [
        ("import sys; print('x'); sys.exit('simclr-tf: error: Expected.')", 1, "Expected."),
        ("print('one\\ntwo'); raise SystemExit(3)", 3, "two"),
        ("raise SystemExit(5)", 5, "exit code 5"),
        ("import os; os.kill(os.getpid(), 9)", -9, "ended by SIGKILL: out of memory?"),
    ],
)
def test_how_a_process_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, code: int, line: str
) -> None:
    begun = child.start
    (tmp_path / child.LOG_FILE).write_text("simclr-tf: error: of an earlier process\n")
    monkeypatch.setattr(child, "start", lambda arguments, log: begun(["-c", script], log))
    assert child.run([], str(tmp_path)) == (code, line)


def test_a_trial_that_somebody_trains_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    assert trainer_of(str(tmp_path)) is None
    child.wait_for_trainer(str(tmp_path), said.append)
    with sole_trainer(str(tmp_path)):
        holder = f"process {os.getpid()} on"
        assert holder in str(trainer_of(str(tmp_path)))
        with pytest.raises(ValueError, match=f"{holder}.*End it, and the same command goes on"):
            child.wait_for_trainer(str(tmp_path), said.append, seconds=0.3)
    assert len(said) == 1 and holder in said[0]
    child.wait_for_trainer(str(tmp_path), said.append)
