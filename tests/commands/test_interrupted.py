"""Runs that are killed, asked to end, or left without a disk: the same command goes on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
from killed import Moment, killed
from tiny_runs import (
    OFTEN,
    TINY,
    TUNE,
    Command,
    assert_same_weights,
    command,
    finish,
    no_exports,
    printed_by,
    process,
    results,
    rows,
    working_folder,
)

from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.errors import DamagedFileError

__all__ = ["command", "no_exports", "working_folder"]  # fixtures

# A summary that no checkpoint ends with: its mean goes over an interruption.
WATCHED = [
    *TINY, "--train_steps=20", "--checkpoint_steps=4", "--train_summary_steps=3",
    "--keep_checkpoint_max=2", "--deterministic", "--mode=train_then_eval", "--learning_rate=0.05",
    "--online_eval=never", "--memory_size=48", "--memory_momentum=0.9",
    "--optimizer=momentum", "--num_proj_layers=1",
]  # fmt: skip
SHORT = [*TINY, *TUNE, *OFTEN, "--mode=train"]
STEP = ("simclr_tf.runs.callbacks", "StepCallback.on_train_batch_end")
SAVE = ("tensorflow.train", "CheckpointManager.save")
# Each goes on where the one before was killed. Of a step's calls, its callbacks make four.
MOMENTS = [
    Moment("simclr_tf.runs.training", "save_views"),
    Moment("simclr_tf.runs.training", "save_views", when="after"),
    Moment(*STEP, call=10),
    Moment(*SAVE),
    Moment(*SAVE, when="0.001"),
    Moment(*SAVE, when="0.01"),
    Moment(*SAVE, when="after"),
    Moment("simclr_tf.runs.callbacks", "append_csv", when="after"),
    Moment("simclr_tf.runs.callbacks", "append_csv", call=2),
    Moment(*SAVE, call=2, when="after"),
    Moment("simclr_tf.runs.evaluating", "Evaluator._measure"),
    Moment("simclr_tf.runs.evaluating", "Evaluator._measure", when="0.2"),
    Moment("tensorflow.saved_model", "save"),
    Moment("tensorflow.saved_model", "save", when="0.1"),
    Moment("tensorflow.saved_model", "save", when="after"),
    Moment("simclr_tf.runs.folder", "write_results", when="after"),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupts, a process as those that are."""
    folder = tmp_path_factory.mktemp("whole")
    done = processes.run("-m", "simclr_tf.run", *WATCHED, "--model_dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder / "ckpt-20"))
    return {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map() if "GRAPH" not in n}


def assert_same_run(run: Path, whole: Path) -> None:
    """All that a run leaves is what an uninterrupted one leaves, to the last bit."""
    ours, theirs = tensors(run), tensors(whole)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert event_steps(run) == event_steps(whole)
    assert results(run) == results(whole)
    assert names(run) == names(whole)


def event_steps(folder: Path) -> list[tuple[str, int]]:
    """Returns (tag, step) of TensorBoard's events, doubles included.

    Each evaluation of a step adds its own: those are left out.
    """
    found = []
    for path in folder.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [
                (value.tag, event.step)
                for value in event.summary.value
                if not value.tag.startswith("eval/")
            ]
    return sorted(found)


def names(folder: Path) -> set[str]:
    """Returns what lies in a folder, event files aside."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in found if "events.out.tfevents" not in name}


@pytest.mark.one_lane  # test_checkpoints resumes to the last bit on both lanes
@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_nobody_killed(working_folder: Path, whole: Path) -> None:
    # Every second moment, each kind among them; `EVERY_KILL=1` tries all.
    for moment in MOMENTS if os.environ.get("EVERY_KILL") else MOMENTS[::2]:
        assert killed(moment, *WATCHED, "--model_dir=run"), moment
    finish(process(*WATCHED, "--model_dir=run", defaults=[]))
    assert_same_run(working_folder / "run", whole)


def start_slow(*arguments: str) -> processes.Process:
    """Starts a run that takes minutes, and waits until it has trained."""
    started = processes.start(
        "-m", "simclr_tf.run", *TINY, *TUNE, "--train_steps=100000", "--checkpoint_steps=50",
        "--train_summary_steps=50", "--mode=train", "--model_dir=run", *arguments,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not Path("run/checkpoint").exists():  # written last: what others look for
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return started


def newest(folder: Path) -> int:
    return max(int(path.stem.split("-")[1]) for path in folder.glob("ckpt-*.index"))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.second_lane),
        pytest.param(signal.SIGINT, marks=pytest.mark.one_lane),
    ],
)
def test_a_signal_writes_the_step_that_is_reached(
    command: Command, working_folder: Path, number: int
) -> None:
    started = start_slow()
    started.send_signal(number)
    _, err = started.communicate(60)
    assert started.returncode == 128 + number
    step = newest(working_folder / "run")
    assert f"simclr-tf: interrupted; step {step} is kept in run/ckpt-{step}" in err
    assert "Traceback" not in err
    out = command(*TUNE, "--model_dir=run", f"--train_steps={step + 2}", "--mode=train",
                  "--checkpoint_steps=50", "--train_summary_steps=50")  # fmt: skip
    assert f"Resuming from run/ckpt-{step} at step {step}." in out
    assert newest(working_folder / "run") == step + 2


@pytest.mark.one_lane
def test_one_trainer_a_folder(command: Command, no_exports: None, working_folder: Path) -> None:
    """A second trainer is refused; an evaluation is not; a killed trainer locks nobody out."""
    started = start_slow()
    try:
        started.send_signal(signal.SIGSTOP)  # it holds its lock, and leaves us the processor
        said = command(*TUNE, "--model_dir=run", "--mode=train", code=2)
        note, line = said.strip().splitlines()
        assert "from scratch" in note and f"received: run, where process {started.pid} on" in line
        said = command(*TUNE, "--mode=eval", "--model_dir=run", "--train_steps=1")
        assert "evaluation complete" in said
        started.send_signal(signal.SIGCONT)
        assert started.poll() is None
    finally:
        started.kill()
    assert (working_folder / "run" / ".trainer.lock").exists()
    command(*TUNE, "--model_dir=run", "--train_steps=1", "--mode=train")
    assert not (working_folder / "run" / ".trainer.lock").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, for copies of it."""
    folder = tmp_path_factory.mktemp("trained")
    printed_by(folder, *SHORT, "--model_dir=run")
    return folder / "run"


@pytest.mark.one_lane
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "no data", "index"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    command: Command, working_folder: Path, trained: Path, damage: str
) -> None:
    shutil.copytree(trained, "run")
    data = working_folder / "run" / "ckpt-6.data-00000-of-00001"
    if damage == "index":
        data = data.with_name("ckpt-6.index")
    whole = data.read_bytes()
    if damage == "no data":
        data.unlink()
    elif damage == "flipped":
        data.write_bytes(whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:])
    else:
        data.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    out = command("--model_dir=run", defaults=SHORT)
    assert "Resuming from run/ckpt-4 at step 4 (left out: run/ckpt-6 (damaged))." in out
    assert [row["step"] for row in rows(working_folder / "run")] == [1, 2, 3, 4, 5, 6]
    assert_same_weights(working_folder / "run" / "ckpt-6", trained / "ckpt-6", rtol=1e-3)


@pytest.mark.one_lane
def test_a_flipped_bit_is_noticed_or_means_nothing(working_folder: Path, trained: Path) -> None:
    """By TensorFlow's own checksums: of the index, all but some fifty unused bytes have one.

    A sample; once, every byte of the index and 1,500 of the data: none changed a value unnoticed.
    """
    shutil.copytree(trained, "run")
    prefix = working_folder / "run" / "ckpt-6"
    expected = values(prefix)
    draws = random.Random(0)
    noticed = 0
    for path in (Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")):
        whole = path.read_bytes()
        for place in draws.sample(range(len(whole)), 60):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << draws.randrange(8)
            path.write_bytes(flipped)
            try:
                found = values(prefix)
            except DamagedFileError:
                noticed += 1
                continue
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
        path.write_bytes(whole)
    assert noticed > 110


def values(prefix: Path) -> dict[str, np.ndarray]:
    """Returns everything in a checkpoint; reads it as a resumption does."""
    stored = StoredWeights(str(prefix))
    assert stored.is_finite()
    return {name: stored.tensor(name) for name in stored.tensor_shapes()}


@pytest.fixture
def small_disk(working_folder: Path) -> Iterator[Path]:
    """A file system of 200 kB; where none may be mounted, the test says so."""
    place = working_folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.one_lane
def test_a_full_disk_ends_a_run_and_keeps_its_last_checkpoint(
    command: Command, small_disk: Path
) -> None:
    run = f"--model_dir={small_disk / 'run'}"
    command(run, defaults=[*SHORT, "--train_steps=2"])
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1000))
            file.flush()
    said = command(run, defaults=SHORT, code=4)
    assert "can no longer be written" in said and "No space left" in said
    assert "The last checkpoint is kept" in said and "ckpt-2" in said
    filler.unlink()
    out = command(run, defaults=SHORT)
    assert "ckpt-2 at step 2." in out
    assert [row["step"] for row in rows(small_disk / "run")] == [1, 2, 3, 4, 5, 6]
    assert not [name for name in os.listdir(small_disk / "run") if "temp" in name]
