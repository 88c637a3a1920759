"""Real runs in TensorBoard, MLflow and Weights & Biases, offline, and what they then hold."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import processes
import pytest
import wandb_files
from tiny_runs import OFTEN, TINY, Command, command, rows, summaries, working_folder

from simclr_tf.config import Config
from simclr_tf.loggers.tensorboard import TensorBoard

__all__ = ["command", "working_folder"]  # fixtures

# Steps 3 and 4 were taken twice, and what was logged first stays (with six steps to come the
# learning rate is another).
TAKEN_ONCE = (1, 2, 5, 6)
RUN = [*TINY, *OFTEN, "--mode=train_then_eval", "--online_eval=always", "--online_eval_images=40",
       "--model_dir=run", "--loggers=tensorboard,mlflow,wandb"]  # fmt: skip


END_OF_RUNS = "end of the runs"
PROGRAM = f"""
import os, pathlib, sys
import tf_hub_export
from simclr_tf.errors import NotFiniteError
from simclr_tf.loggers.logger import LoggedRun
from simclr_tf.loggers.together import Loggers
from simclr_tf.run import main

# An export takes seconds, and no logger gets it.
tf_hub_export.export_saved_model = lambda model, path, **_: os.makedirs(path)
for given in ["--mode=train", "--train_steps=4"], ["--train_steps=6"]:
    code = main(["simclr-tf", *{RUN!r}, *given])
    if code:
        sys.exit(code)
    for path in pathlib.Path("run").glob("ckpt-4.*"):
        path.unlink()
print("{END_OF_RUNS}", flush=True)

def log(folder, error=None, **options):
    run = LoggedRun(folder, {{"seed": 1, "checkpoint": None, "path": "x" * 7000}}, **options)
    with Loggers(("mlflow", "wandb"), run) as loggers:
        loggers.start()
        loggers.scalars({{"eval/a": 0.5}}, 3, "eval", group="eval_x, y")
        loggers.summary({{"comparison/same, untrained": 0.25}}, 3)
        if error:
            raise error

for folder, error in ("nan", NotFiniteError()), ("stopped", KeyboardInterrupt()):
    try:
        log(folder, error)
    except BaseException as raised:
        assert raised is error
log("stopped", only_evaluates=True)
assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
"""


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of someone who has configured nothing."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("MLFLOW_", "WANDB_"))}
    return {**kept, "HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, nobody: dict[str, str]) -> tuple[Path, str]:
    """A run of four steps that lost its last checkpoint, resumed to six; and what was printed.

    Beside it two that ended badly, the second of them evaluated by another process's loggers.
    """
    home = tmp_path_factory.mktemp("100% logged #")
    done = processes.run("-c", PROGRAM, cwd=home, env=nobody)
    assert done.returncode == 0, done.stderr[-3000:]
    return home / "run", done.stdout + done.stderr


def store(folder: Path) -> Any:
    """Returns a client of the MLflow store beside a run's folder."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")


def runs_of(client: Any) -> dict[str, Any]:
    """Returns the runs of the store by name, each of which it has once."""
    (experiment,) = (e for e in client.search_experiments() if e.name == "simclr_tf")
    found = client.search_runs([experiment.experiment_id])
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return named


@pytest.mark.one_lane
def test_mlflow_has_one_run_with_each_step_once(logged: tuple[Path, str]) -> None:
    folder, _ = logged
    client = store(folder)
    run = runs_of(client)["run"]
    assert run.info.status == "FINISHED"
    assert run.data.params["train_steps"] == "4" and run.data.tags["train_steps"] == "6"
    assert set(run.data.params) == set(Config().to_dict())
    history = {
        tag: {m.step: m.value for m in client.get_metric_history(run.info.run_id, tag)}
        for tag in run.data.metrics
    }
    counted = sum(len(client.get_metric_history(run.info.run_id, tag)) for tag in history)
    assert counted == sum(len(points) for points in history.values())
    table = {int(row["step"]): row for row in rows(folder)}
    for name in {*table[1]} - {"step"}:
        points = history[name if name == "learning_rate" else f"train/{name}"]
        assert set(points) == set(table) == {1, 2, 3, 4, 5, 6}
        for step in TAKEN_ONCE:
            assert points[step] == pytest.approx(table[step][name], rel=1e-5), name
    assert set(history["online/spread"]) == {2, 4, 6}
    assert set(history["eval/label_top_1_accuracy"]) == {6}
    result = json.loads((folder / "result.json").read_text())
    assert history["eval/label_top_1_accuracy"][6] == result["eval/label_top_1_accuracy"]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"flags.json", "views.png", "result.json"}


def test_wandb_has_one_run_with_each_step_once(logged: tuple[Path, str]) -> None:
    folder, _ = logged
    (run_id,) = {
        record.run.run_id
        for record in wandb_files.records(folder / "wandb")
        if record.WhichOneof("record_type") == "run"
    }
    points = wandb_files.points(folder / "wandb")
    # W&B's own step counts on over both parts.
    assert [point["_step"] for point in points] == list(range(len(points)))
    trained = {p["step"]: p for p in points if "train/contrast_loss" in p}
    assert [p["step"] for p in points if "train/contrast_loss" in p] == [1, 2, 3, 4, 5, 6]
    for row in rows(folder):
        if row["step"] not in TAKEN_ONCE:
            continue
        point = trained[row["step"]]
        assert point["train/contrast_loss"] == pytest.approx(row["contrast_loss"], rel=1e-5)
        assert point["learning_rate"] == pytest.approx(row["learning_rate"], rel=1e-5)
    assert [p["step"] for p in points if "online/spread" in p] == [2, 4, 6]
    assert [p["step"] for p in points if "eval/label_top_1_accuracy" in p] == [6]
    codes = [
        record.exit.exit_code
        for record in wandb_files.records(folder / "wandb")
        if record.WhichOneof("record_type") == "exit"
    ]
    assert codes == [0, 0]
    (last, *_) = sorted(folder.glob(f"wandb/offline-run-*-{run_id}"), reverse=True)
    files = {path.name for path in (last / "files").iterdir()}
    assert {"flags.json", "views.png", "result.json"} <= files


def test_tensorboard_has_the_same(logged: tuple[Path, str]) -> None:
    found = summaries(logged[0])
    assert found["train/contrast_loss"] == found["views"] == {1, 2, 3, 4, 5, 6}
    assert found["online/spread"] == {2, 4, 6} and found["eval/label_top_1_accuracy"] == {6}


def test_the_screen_is_ours(logged: tuple[Path, str]) -> None:
    """One line for each service and nothing of theirs: no banner, no warning, no question."""
    said = logged[1].partition(END_OF_RUNS)[0].splitlines()
    assert "andb:" not in logged[1] and "Warning" not in logged[1]
    services = [line for line in said if "MLflow" in line or "andb" in line or "mlflow" in line]
    begun = [line.partition(", ")[0] for line in services if not line.startswith("Changed")]
    assert begun == ["Logging to MLflow", "Logging to Weights & Biases"] * 2
    assert "offline (no account here: wandb login); upload it with: wandb sync" in services[1]
    assert not any("WARNING" in line or "INFO" in line for line in said)


@pytest.mark.one_lane
def test_a_failing_logger_does_not_end_the_run(
    command: Command,
    working_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(TensorBoard, "scalars", fail)
    out = command("--model_dir=run", "--train_steps=3", "--train_summary_steps=1")
    assert out.count("TensorBoard failed (No space left on device); the run goes on") == 1
    assert "Warning: TensorBoard did not get the last" in out
    assert [row["step"] for row in rows(working_folder / "run")] == [1, 2, 3]


def test_mlflow_is_told_how_a_run_ended(logged: tuple[Path, str]) -> None:
    client = store(logged[0])
    runs = runs_of(client)
    # The evaluation adds to the run that it evaluates, and leaves its state as it was.
    assert {name: run.info.status for name, run in runs.items()} == {
        "run": "FINISHED",
        "nan": "FAILED",
        "stopped": "KILLED",
    }
    metrics = {"eval_x y/eval/a": 0.5, "comparison/same untrained": 0.25}
    assert runs["stopped"].data.metrics == metrics
    assert len(client.get_metric_history(runs["stopped"].info.run_id, "eval_x y/eval/a")) == 1


def test_wandb_is_told_how_a_run_ended(logged: tuple[Path, str]) -> None:
    home = logged[0].parent
    found = {}
    for name in ("nan", "stopped"):
        run = None
        for record in wandb_files.records(home / name / "wandb"):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
            elif kind == "exit":
                found[name, run.job_type] = record.exit.exit_code, run.run_group
    train = json.loads((home / "stopped" / "loggers" / "wandb.json").read_text())["run_id"]
    assert found["nan", "train"][0] == 3
    # A process that evaluates has a run of its own, in the group of the one that it evaluates.
    assert found["stopped", "train"] == (130, train)
    assert found["stopped", "eval"] == (0, train)
    with open(home / "stopped" / "loggers" / "wandb_eval.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]
