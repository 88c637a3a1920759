"""Processes that train one model together over the loopback interface: `--workers`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import processes
import pytest
from tiny_runs import TINY, TUNE, Command, command, finish, results, rows, working_folder

__all__ = ["command", "working_folder"]  # fixtures

# Views of the host: on a device each replica draws its own. Three can share the batch, and not the
# images of the evaluation.
SHARED = [
    *TINY, "--strategy=multiworker", "--augment_on=host", "--train_batch_size=12",
    "--train_summary_steps=1", "--checkpoint_steps=2", "--online_eval=never",
    "--optimizer=momentum", "--learning_rate=0.05",
]  # fmt: skip


def start_workers(count: int, *arguments: str) -> list[processes.Process]:
    """Starts so many workers of one run."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("localhost", 0))
        ports = [free.getsockname()[1] for free in sockets]
    workers = ",".join(f"localhost:{port}" for port in ports)
    return [
        processes.start(
            "-m", "simclr_tf.run", *SHARED, f"--workers={workers}", f"--worker_index={index}",
            "--model_dir=run", *arguments,
        )
        for index in range(count)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(2, marks=pytest.mark.second_lane),
        pytest.param(3, marks=pytest.mark.one_lane),
    ],
)
def test_several_processes_take_the_steps_of_one(
    command: Command, working_folder: Path, count: int
) -> None:
    arguments = ["--train_steps=5", "--mode=train_then_eval", "--eval_split=test[:31]"]
    started = start_workers(count, *arguments)
    alone = [*SHARED, *arguments, "--strategy=one_device", "--model_dir=one"]
    command(defaults=alone)
    first, *others = [finish(one) for one in started]
    assert f"{count} replica(s)" in first
    assert all(not said.strip() for said in others), "the chief alone prints"
    ours, theirs = rows(working_folder / "run"), rows(working_folder / "one")
    assert len(ours) == len(theirs) == 5
    for step, expected in zip(ours, theirs, strict=True):
        assert step == pytest.approx(expected, rel=1e-4, abs=1e-6)
    one = results(working_folder / "one")
    assert results(working_folder / "run") == pytest.approx(one, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(1, marks=pytest.mark.second_lane),
        pytest.param(0, marks=pytest.mark.one_lane),
    ],
)
def test_a_lost_worker_ends_the_others_and_the_next_start_goes_on(
    working_folder: Path, lost: int
) -> None:
    started = start_workers(2, *TUNE, "--train_steps=100000", "--mode=train")
    try:
        deadline = time.monotonic() + 200
        while not list(Path("run").glob("ckpt-*.index")):
            assert time.monotonic() < deadline and all(one.poll() is None for one in started)
            time.sleep(0.1)
        started[lost].send_signal(signal.SIGKILL)
        out, err = started[1 - lost].communicate(120)  # TensorFlow notices after some ten seconds
    finally:
        for one in started:
            one.kill()
    assert started[1 - lost].returncode == 5, err[-2000:]
    lines = [line for line in err.replace("\r", "\n").splitlines() if "simclr-tf: error" in line]
    assert len(lines) == 1 and "another worker ended" in lines[0] and "Traceback" not in err
    assert "The last checkpoint is run/ckpt-" in lines[0]
    newest = max(int(path.stem.split("-")[1]) for path in Path("run").glob("ckpt-*.index"))
    again = start_workers(2, *TUNE, f"--train_steps={newest + 3}", "--mode=train")
    assert f"Resuming from run/ckpt-{newest}" in finish(again[0])
    finish(again[1])
    assert os.path.exists(f"run/ckpt-{newest + 3}.index")


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--workers=a,b"], "host:port of each"),
        (["--workers=a:1,a:1"], "each once"),
        (["--workers=a:1,b:2", "--worker_index=2"], "--worker_index from 0 to 1"),
        (["--workers=a:1,b:2", "--strategy=mirrored"], "--strategy=multiworker with --workers"),
    ],
)
def test_wrong_workers(
    command: Command, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str
) -> None:
    said = command("--strategy=multiworker", "--model_dir=run", *given, code=2)
    assert expected in said and len(said.strip().splitlines()) == 1
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["c:3"]}}')
    said = command("--strategy=multiworker", "--model_dir=run", "--workers=a:1,b:2", code=2)
    assert "Unset TF_CONFIG" in said and not os.path.exists("run")
