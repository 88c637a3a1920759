"""`--dry_run`: the plan of a run, what it refuses, and that nothing stays of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_runs import (
    OFTEN,
    TUNE,
    Command,
    command,
    finish,
    printed_by,
    process,
    working_folder,
)

from simclr_tf.runs import planning

pytestmark = pytest.mark.one_lane  # data and plans; what Keras makes of them is asked elsewhere

__all__ = ["command", "working_folder"]  # fixtures

DRY = "--dry_run"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def row(text: str, name: str) -> str:
    return re.search(rf"^  {name} +(.*)$", text, re.MULTILINE)[1]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a run was planned, and the plan."""
    folder = tmp_path_factory.mktemp("planned")
    return folder, printed_by(folder, DRY, *OFTEN, "--model_dir=not/yet/there", "--train_steps=100")


def test_a_plan_says_what_a_run_would_take(planned: tuple[Path, str]) -> None:
    folder, said = planned
    assert "Plan, for 1 replica(s) of 16 images" in said and "Nothing was written" in said
    assert row(said, "steps") == "100, of which 100 are left; 25.0 epochs of 64 images"
    assert row(said, "learning rate").startswith("0.03125 at its peak, step 0; lars")
    assert row(said, "checkpoints").startswith("50 of ") and "newest 2 are kept" in said
    # 192 x 16 + 16 x 16 + 16 x 8 weights, scale and offset but the last, ten classes.
    trained = 192 * 16 + 32 + 16 * 16 + 32 + 16 * 8 + 8 + 16 * 10 + 10
    assert row(said, "parameters").startswith(f"{trained:,} trained")
    assert row(said, "loss").startswith("nt_xent: 30 negatives a view; all similarities at once")
    assert re.match(r"about [\d.]+ KiB", row(said, "memory a replica"))
    assert row(said, "between replicas") == "nothing: there is one"
    assert re.match(r"[\d,.]+ images/s", row(said, "measured"))
    assert "seconds, without" in row(said, "time to the end")
    assert files(folder) == {}


def test_without_a_folder_none_is_made(command: Command, working_folder: Path) -> None:
    assert "Writing to" not in command(DRY, *TUNE)
    assert files(working_folder) == {}
    (working_folder / "runs").mkdir()
    command(DRY, *TUNE)
    assert files(working_folder) == {"runs": b""}


@pytest.mark.one_lane
def test_a_run_that_is_there_is_left_as_it_is(command: Command, working_folder: Path) -> None:
    run = ["--model_dir=run", *OFTEN, *TUNE]
    command(*run, "--train_steps=2")
    before = files(working_folder)
    said = command(DRY, *run, "--train_steps=5")
    assert row(said, "steps").startswith("5, of which 3 are left")
    assert row(said, "checkpoints").startswith("2 of ")
    assert "nothing is left" in command(DRY, *run, "--train_steps=2")
    assert files(working_folder) == before
    command(*run, "--train_steps=3")  # goes on as if nothing had been


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "wrong",
    [
        ["--train_batch_size=65"],
        ["--dataset=nowhere/images"],
        ["--micro_batch_size=3"],
        ["--checkpoint=nowhere"],
        ["--optimizer=lars", "--model_dir=run", "--temperature=0.7"],
        [*TUNE, "--label_fraction=0.5", "--teacher=x"],
        ["--early_stopping=knn_top_1", "--train_split=train[:16]"],
    ],
)
def test_it_refuses_what_a_run_refuses(
    command: Command, working_folder: Path, wrong: list[str]
) -> None:
    if "--model_dir=run" in wrong:
        command("--model_dir=run", "--train_steps=1")
    before = files(working_folder)
    refused = command(DRY, *wrong, code=2)
    assert len(refused.splitlines()) == 1 and files(working_folder) == before
    assert command(*wrong, code=2).splitlines()[-1] == refused.strip()


@pytest.mark.one_lane
def test_an_evaluation_has_no_plan(command: Command) -> None:
    assert "which plans a training" in command(DRY, "--mode=eval", "--model_dir=run", code=2)


@pytest.mark.one_lane
def test_too_little_memory_is_said_before_a_step(
    command: Command, monkeypatch: pytest.MonkeyPatch, planned: tuple[Path, str]
) -> None:
    needed = re.match(r"about ([\d.]+) KiB", row(planned[1], "memory a replica"))[1]
    monkeypatch.setattr(planning, "available_memory", lambda: float(needed) * 1024 - 4000)
    said = command(DRY)
    assert "Warning: about" in said and "measured  " not in said
    assert "Pass a smaller --train_batch_size." in said or "--micro_batch_size=" in said


@pytest.mark.one_lane
def test_a_classifier_and_micro_batches_have_plans(command: Command) -> None:
    assert "cross-entropy" in row(command(DRY, *TUNE), "loss")
    assert "gradients" in command(DRY, "--micro_batch_size=2")


@pytest.mark.one_lane
@pytest.mark.slow
def test_two_replicas() -> None:
    said = finish(process(DRY, "--cpu_replicas=2", "--strategy=mirrored", wait=False))
    assert "for 2 replica(s) of 8 images" in said
    # (1 x 8 + 1 x 16) rows of 2 x 8 + 1 floats.
    assert "embeddings 1.6 KiB" in row(said, "between replicas")
    assert "images/s" in row(said, "measured")
