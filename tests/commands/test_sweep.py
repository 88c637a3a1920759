"""`python -m simclr_tf.sweep`: trials that end well, badly, not at all; the same command goes on.

What a sweep does with its runs is asked of runs that are only played; one sweep trains.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import fresh_python
import processes
import pytest
from refusals import fingerprint
from tiny_runs import TINY, working_folder

from simclr_tf.config.command_line import parse
from simclr_tf.errors import Interruption
from simclr_tf.files.lock import held
from simclr_tf.reports.record import find_runs, read_record
from simclr_tf.reports.reporting import differing_settings
from simclr_tf.sweep import main
from simclr_tf.sweeps import child

__all__ = ["working_folder"]  # a fixture

pytest.importorskip("optuna")
SPACE = ["--space=learning_rate=0.1..1:log", "--space=temperature=0.1,0.2,0.5"]
FOUR = ["--space=temperature=0.1,0.2", "--space=seed=0,1", "--sampler=grid"]


def value_of(flags: dict[str, str]) -> float:
    return float(flags.get("learning_rate", 0.3)) + float(flags.get("temperature", 0.1))


def tiny(arguments: Iterable[str]) -> list[str]:
    """Returns the tiny run's flags, apart from those that arguments sweep over."""
    swept = {text.split("=")[1] for text in arguments if text.startswith("--space=")}
    return [flag for flag in TINY if flag.lstrip("-").split("=")[0] not in swept]


class Runs:
    """Plays `child.run`: writes results at once, or ends as it is told.

    Attributes:
        ends: Exit code and last line, by the number of a trial.
        seen: Numbers of the trials that were run, and their flags.
    """

    def __init__(self) -> None:
        self.ends: dict[int, tuple[int, str]] = {}
        self.seen: list[int] = []
        self.flags: list[dict[str, str]] = []

    def __call__(self, flags: list[str], folder: str) -> child.Ended:
        number = int(folder[-4:])
        self.seen.append(number)
        self.flags.append(dict(flag.lstrip("-").split("=", 1) for flag in flags))
        os.makedirs(folder, exist_ok=True)
        code, line = self.ends.get(number, (0, ""))
        if line == "signal":
            raise Interruption(code - 128)
        if code == 0 and line != "no figure":
            results = {"eval/label_top_1_accuracy": value_of(self.flags[-1]), "global_step": 2}
            Path(folder, "result.json").write_text(json.dumps(results))
        return child.Ended(code, line)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, working_folder: Path) -> Runs:
    played = Runs()
    monkeypatch.setattr(child, "run", played)
    return played


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str], working_folder: Path) -> Callable[..., str]:
    """Runs the command, expects an exit code; returns what it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["sweep", *tiny(arguments), "--sweep_dir=sweep", *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err and len(err.splitlines()) == (1 if code else 0), err
        return out + err

    return run


def trials() -> list[dict[str, Any]]:
    return json.loads(Path("sweep/sweep.json").read_text())["trials"]


def states() -> str:
    """The first letter of each trial's state."""
    return "".join(trial["state"][0] + trial["state"][1] for trial in trials())


@pytest.mark.one_lane
def test_what_a_sweep_leaves(runs: Runs, sweep: Callable[..., str]) -> None:
    said = sweep(*SPACE, "--trials=5")
    with open("sweep/sweep.csv", newline="") as file:
        table = list(csv.DictReader(file))
    values = [float(row["label_top_1_accuracy"]) for row in table]
    assert len(values) == 5 and values == sorted(values, reverse=True)
    assert [float(r["learning_rate"]) + float(r["temperature"]) for r in table] == values
    best = int(table[0]["trial"])
    assert (
        f"Best: trial {best}, label_top_1_accuracy {values[0]:.4f}: sweep/trial_{best:04d}" in said
    )
    assert "--flagfile=sweep/best.flags --model_dir=sweep/best" in said
    assert "Share in the variance of label_top_1_accuracy over 5 trials: learning_rate" in said
    again, _ = parse(["--flagfile=sweep/best.flags"])
    asked, _ = parse(
        [*tiny(SPACE), "--mode=train_then_eval", f"--learning_rate={table[0]['learning_rate']}"]
        + [f"--temperature={table[0]['temperature']}"]
    )
    assert again == asked
    held = json.loads(Path("sweep/sweep.json").read_text())
    assert held["best"]["folder"] == f"sweep/trial_{best:04d}"
    assert set(held["importance"]) == {"learning_rate", "temperature"}
    first = [line.split()[0] for line in said.splitlines() if line[:1] == " "]
    assert first == [row["trial"] for row in table]


@pytest.mark.one_lane
def test_the_same_command_goes_on(
    runs: Runs, sweep: Callable[..., str], working_folder: Path
) -> None:
    """Interrupted at one trial, killed at another: the trials are those of one that was neither."""
    sweep(*SPACE, "--trials=13")
    whole, others = trials(), fingerprint(working_folder)
    shutil.rmtree("sweep")
    runs.seen.clear()
    runs.ends = {3: (143, "signal")}
    said = sweep(*SPACE, "--trials=13", code=143)
    assert "interrupted; 3 of 13 trials have ended; the same command goes on with trial 3" in said
    runs.ends = {11: (130, "")}  # the run alone was interrupted
    sweep(*SPACE, "--trials=13", code=130)
    kept = Path("sweep/sweep.json").read_bytes()
    runs.ends = {}
    said = sweep(*SPACE, "--trials=13")
    assert "Going on: 11 trials have ended already." in said
    # A kill before the last trial's end was written: it is asked again, and answers at once.
    Path("sweep/sweep.json").write_bytes(kept)
    said = sweep(*SPACE, "--trials=13")
    assert runs.seen == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 11, 12]
    shown = [{**trial, "seconds": 0} for trial in trials()]
    assert shown == [{**trial, "seconds": 0} for trial in whole]
    assert set(fingerprint(working_folder)) == set(others)
    # More trials are the first ones and others.
    sweep(*SPACE, "--trials=15")
    assert [trial["settings"] for trial in trials()[:13]] == [t["settings"] for t in whole]
    assert runs.seen[-2:] == [13, 14]


@pytest.mark.one_lane
def test_another_sweep_is_refused_there(
    runs: Runs, sweep: Callable[..., str], working_folder: Path
) -> None:
    sweep(*FOUR)
    before = fingerprint(working_folder)
    for change, named in (
        (["--space=hidden_norm=true,false"], "space (seed=0,1; temperature=0.1,0.2 there, hidden_"),
        (["--sampler=random"], "sampler (grid there, random now)"),
        (["--sampler_seed=1"], "sampler_seed (0 there, 1 now)"),
        (["--metric=knn_top_1"], "metric (label_top_1_accuracy there, knn_top_1 now)"),
        (["--train_steps=7"], "train_steps (6 there, 7 now)"),
        (["--proj_out_dim=4", "--optimizer=adam"], "proj_out_dim (8 there, 4 now), optimizer"),
    ):
        said = sweep(*FOUR, *change, code=2)
        assert "Expected the sweep that sweep holds; it differs in" in said and named in said
    assert fingerprint(working_folder) == before
    with held("sweep/.sweep.lock", lambda holder: AssertionError()):
        assert "no other sweep runs; received: sweep" in sweep(*FOUR, code=2)
    whole = json.loads(Path("sweep/sweep.json").read_text())
    changed = [{**whole["trials"][0], "state": "open"}], [{**whole["trials"][0], "settings": {}}]
    for held_trials in (*changed, [{}], whole["trials"][1:]):
        Path("sweep/sweep.json").write_text(json.dumps({**whole, "trials": held_trials}))
        assert "Expected what a sweep wrote in sweep/sweep.json" in sweep(*FOUR, code=2)
    Path("sweep/sweep.json").write_text('{"sweep": {}, "trials": []}')
    assert "Expected what a sweep wrote in sweep/sweep.json" in sweep(*FOUR, code=2)
    Path("sweep/sweep.json").write_text("{")
    assert "readable JSON file at sweep/sweep.json" in sweep(*FOUR, code=2)


@pytest.mark.one_lane
def test_trials_that_fail_are_kept_and_the_sweep_goes_on(
    runs: Runs, sweep: Callable[..., str]
) -> None:
    runs.ends = {0: (3, "the loss is nan"), 2: (-9, "ended by SIGKILL"), 3: (2, "Expected less.")}
    said = sweep(*FOUR)
    assert said.startswith(
        "4 trials in sweep, by label_top_1_accuracy (larger is better).\nTrial 0"
    )
    assert states() == "fafifare"
    assert "failed: the loss is nan" in said and "refused: Expected less." in said
    assert [trial["code"] for trial in trials()] == [3, 0, -9, 2]
    assert Path("sweep/best.flags").read_text().startswith("# Trial 1 of a sweep")
    runs.seen.clear()
    sweep(*FOUR)
    assert runs.seen == []
    runs.ends = {}
    sweep(*FOUR, "--retry_failed")
    assert runs.seen == [0, 2, 3] and states() == "fi" * 4


@pytest.mark.one_lane
def test_settings_that_contradict_each_other_are_one_refused_trial(
    runs: Runs, sweep: Callable[..., str]
) -> None:
    said = sweep("--space=ft_proj_selector=0,2", "--space=num_proj_layers=1,2", "--sampler=grid")
    assert "refused: Expected ft_proj_selector in 0..1" in said
    assert len(runs.seen) == 3 and states().count("re") == 1
    assert len(os.listdir("sweep")) == 6  # no folder for the refused


@pytest.mark.one_lane
def test_a_sweep_that_can_not_begin_ends_and_forgets(runs: Runs, sweep: Callable[..., str]) -> None:
    runs.ends = dict.fromkeys(range(4), (2, "Expected a data set."))
    said = sweep(*FOUR, code=2)
    assert "one of the first 3 trials that works; the last says: Expected a data set." in said
    assert states() == "opopop" and runs.seen == [0, 1, 2]
    runs.ends = {}
    sweep(*FOUR)
    assert states() == "fi" * 4


@pytest.mark.one_lane
def test_a_figure_that_runs_do_not_write_ends_it_at_once(
    runs: Runs, sweep: Callable[..., str]
) -> None:
    runs.ends = {0: (0, "no figure")}
    said = sweep(*FOUR, code=2)
    assert "Expected label_top_1_accuracy in sweep/trial_0000/result.json; received: none" in said
    assert states() == "op" and runs.seen == [0]


@pytest.mark.one_lane
def test_all_fail_or_the_disk_is_full(runs: Runs, sweep: Callable[..., str]) -> None:
    runs.ends = dict.fromkeys(range(4), (3, "the loss is nan."))
    said = sweep(*FOUR, code=2)
    assert "Expected a trial that ends with label_top_1_accuracy; received: none of 4." in said
    assert "the loss is nan." in said and not os.path.exists("sweep/best.flags")
    shutil.rmtree("sweep")
    runs.ends = {1: (4, "no space left")}
    assert "Trial 1 (2 of 4): no space left" in sweep(*FOUR, code=4)
    assert states() == "fiop"


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "The following arguments are required: --space"),
        (["--space=learning_rat=1,2"], "Did you mean learning_rate?"),
        (["--space=learning_rate=-1..1"], "learning_rate >= 0; received: -1.0"),
        (
            ["--space=seed=1,2", "--space=hidden_norm=true,false", "--nohidden_norm"],
            "Expected hidden_norm in --space or as a flag of its own",
        ),
        (["--space=seed=1,2", "--seed=3"], "Expected seed in --space or as a flag of its own"),
        (["--space=seed=1,2", "--trails=3"], "Unknown command line flag 'trails'"),
        (["--space=seed=1,2", "--trials=0"], "--trials of at least 1; received: 0"),
        (["--space=seed=1,2", "--trials=many"], "invalid int value: 'many'"),
        (["--space=seed=1,2", "--sampler=cmaes"], "tpe, random, grid; received: 'cmaes'"),
        (["--space=seed=1,2", "--sampler_seed=-1"], "--sampler_seed from 0"),
        (["--space=learning_rate=0.1..1", "--sampler=grid"], "a range of learning_rate"),
        (["--space=seed=0..999999", "--sampler=grid"], "received: 1,000,000 combinations"),
        (["--space=seed=1,2", "--metric=accuracy"], "Expected --metric to be one of label_top_1"),
        (["--space=temperature=0.1,0.2", "--metric=contrast_loss"], "the same figure; received"),
        (["--space=seed=1,2", "--model_dir=run"], "--sweep_dir: leave --model_dir away"),
        (["--space=seed=1,2", "--mode=eval"], "Expected a sweep without --mode; received: eval"),
        (["--space=seed=1,2", "--dry_run"], "Expected a sweep without --dry_run"),
        (["--space=seed=1,2", "--workers=a:1,b:1"], "Expected a sweep without --workers"),
        (["--space=seed=1,2", "--image_size=0"], "image_size > 0; received: 0"),
        (["--space=augmentations=flip,flop"], "received: 'flop'"),
        (["--space=ft_proj_selector=0,3"], "ft_proj_selector in 0..2"),
        (["--space=seed=1,2", "--sweep_dir=photos"], "which holds files but no sweep.json"),
        (["--space=seed=1,2", "--sweep_dir=run"], "the model_dir of a run"),
        (["--space=seed=1,2", "--sweep_dir=photos/a.png"], "which is a file"),
    ],
)
def test_wrong_arguments(
    runs: Runs,
    sweep: Callable[..., str],
    working_folder: Path,
    arguments: list[str],
    expected: str,
) -> None:
    for name in ("photos/a.png", "run/flags.json"):
        Path(name).parent.mkdir()
        Path(name).write_text("{}")
    before = fingerprint(working_folder)
    assert expected in sweep(*arguments, code=2)
    assert fingerprint(working_folder) == before and not runs.seen
    assert not os.path.exists("sweep")


@pytest.mark.one_lane
def test_a_list_in_which_one_value_works_with_few_others(
    runs: Runs, sweep: Callable[..., str]
) -> None:
    """Each value needs one trial in which it works; the shared settings alone need not."""
    sweep("--space=num_proj_layers=1,4", "--space=ft_proj_selector=0,4", "--trials=20")
    assert len(runs.seen) == 3
    shutil.rmtree("sweep")
    sweep("--train_epochs=0", "--train_steps=0", "--space=seed=1,2", code=2)


@pytest.mark.one_lane
def test_a_missing_package_and_several_machines(
    runs: Runs, sweep: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install 'simclr-tf[sweep]'" in sweep(*FOUR, code=2)
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert "TF_CONFIG, which names several" in sweep(*FOUR, code=2)


@pytest.mark.one_lane
def test_help_and_wrong_arguments_do_without_tensorflow(tmp_path: Path) -> None:
    done = fresh_python.run_module_without_tensorflow(tmp_path, "simclr_tf.sweep", "--help")
    assert done.returncode == 0 and "--space SETTING=VALUES" in done.stdout, done.stderr
    assert "uniformity            smaller is better" in done.stdout
    wrong = ["simclr_tf.sweep", "--space=seed=1,2", f"--sweep_dir={tmp_path / 'a'}", "--metric=b"]
    done = fresh_python.run_module_without_tensorflow(tmp_path, *wrong)
    assert done.returncode == 2 and "Expected --metric" in done.stderr


class Forked:
    """A run as a fork of a process that has imported TensorFlow, in place of a fresh one."""

    def __init__(self, arguments: list[str], log: IO[bytes]) -> None:
        self._process, self._log = processes.start(*arguments), log

    def wait(self) -> int:
        said = self._process.communicate(240)
        self._log.write("".join(said).encode())
        return int(self._process.returncode or 0)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)


@pytest.mark.one_lane
@pytest.mark.slow
def test_a_killed_sweep_of_real_runs_goes_on(
    sweep: Callable[..., str], monkeypatch: pytest.MonkeyPatch, working_folder: Path
) -> None:
    arguments = [
        *SPACE, "--trials=2", "--train_steps=150", "--checkpoint_steps=10", "--loggers=none",
        "--keep_checkpoint_max=2", "--online_eval=never",
    ]  # fmt: skip
    command = ["-m", "simclr_tf.sweep", *tiny(arguments), "--sweep_dir=sweep", *arguments]
    begun = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": processes.ROOT},
        stdout=subprocess.DEVNULL,
    )
    folder = working_folder / "sweep" / "trial_0000"
    deadline = time.monotonic() + 240
    while not list(folder.glob("ckpt-*.index")):
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    begun.kill()
    begun.wait()
    if sys.platform != "linux":
        pytest.skip("there a killed sweep leaves its run, which has to be ended by hand")
    # Its run gets a signal, writes its checkpoint, and is waited for.
    monkeypatch.setattr(child, "start", Forked)
    said = sweep(*arguments)
    log = (folder / child.LOG_FILE).read_text()
    assert log.count("$ python -m simclr_tf.run") == 2
    assert "interrupted; step" in log and "Resuming from sweep/trial_0000/ckpt-" in log
    assert states() == "fifi"
    found = trials()
    for trial in found:
        run = Path(f"sweep/trial_{trial['number']:04d}")
        reached = json.loads((run / "result.json").read_text())
        assert trial["value"] == reached["eval/label_top_1_accuracy"]
        assert reached["global_step"] == 150
        settings = json.loads((run / "flags.json").read_text())
        assert {name: settings[name] for name in trial["settings"]} == trial["settings"]
    best = max(found, key=lambda trial: (trial["value"], -trial["number"]))
    assert f"Best: trial {best['number']}, label_top_1_accuracy {best['value']:.4f}" in said
    # What the report of several runs reads.
    records = [read_record(path) for path in find_runs(["sweep"])]
    header, rows = differing_settings(records)
    assert header == ["setting", "trial_0000", "trial_0001"]
    assert {row[0] for row in rows} >= {"learning_rate"}
