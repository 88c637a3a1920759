"""The online evaluation of a run: its cost, early stopping, the best checkpoint, warnings."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import small_model
from tiny_runs import Command, command, no_exports, printed_by, working_folder  # noqa: F401

from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.config import Config
from simclr_tf.datasets import open_source
from simclr_tf.features.exported import find_export
from simclr_tf.files.csv_files import append_csv, trim_csv
from simclr_tf.losses.nt_xent import nt_xent
from simclr_tf.runs import following
from simclr_tf.runs.callbacks import Progress
from simclr_tf.runs.gain import FILE, Gain
from simclr_tf.runs.monitoring import OnlineEvaluation, unlearned_line
from simclr_tf.runs.settling import _stem_line
from tf_hub_export.sources import load_model

MEASURED = [
    "--online_eval=always",
    "--online_eval_images=40",
    "--checkpoint_steps=2",
    "--keep_checkpoint_max=10",
]


def rows(folder: str = "run") -> list[dict[str, str]]:
    with open(Path(folder) / "online_evaluation.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(prefix: str) -> dict[str, np.ndarray]:
    stored = StoredWeights(prefix)
    assert stored.shapes
    return {path: stored.read(path) for path in stored.shapes}


def scalars(folder: str, tag: str) -> dict[int, float]:
    found = {}
    for path in Path(folder).glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == tag:
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that is measured three times, and what it printed."""
    folder = tmp_path_factory.mktemp("measured")
    return folder / "run", printed_by(folder, "--model_dir=run", *MEASURED)


def test_a_run_is_measured_and_takes_the_same_steps(
    command: Command,  # noqa: F811
    measured: tuple[Path, str],
) -> None:
    folder, out = measured
    shutil.copytree(folder, "run")
    assert "Measured the features 3 times while training" in out
    table = rows()
    assert [row["step"] for row in table] == ["2", "4", "6"]
    assert list(table[0]) == ["step", "knn_top_1", "effective_rank", "spread", "uniformity"]
    tags = scalars("run", "online/knn_top_1")
    assert tags == {int(r["step"]): pytest.approx(float(r["knn_top_1"])) for r in table}
    out = command("--model_dir=plain", "--checkpoint_steps=2", "--online_eval=never")
    assert "Measured" not in out and not Path("plain/online_evaluation.csv").exists()
    ours, plain = weights("run/ckpt-6"), weights("plain/ckpt-6")
    for name in plain:
        np.testing.assert_array_equal(ours[name], plain[name], name)


@pytest.mark.one_lane
def test_early_stopping_keeps_the_best(
    command: Command,  # noqa: F811
    no_exports: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is learned at a rate of zero: the first measurement stays the best."""
    monkeypatch.setattr(following, "POLL_SECONDS", 0.1)  # before no other checkpoint is awaited
    arguments = ["--model_dir=run", "--mode=train_then_eval", *MEASURED, "--learning_rate=1e-12",
                 "--train_steps=16", "--early_stopping=knn_top_1",
                 "--early_stopping_patience=2"]  # fmt: skip
    out = command(*arguments)
    best = Gain.of_folder("run")
    last = int(rows()[-1]["step"])
    assert best.is_over and last < 16
    assert f"Stopped at step {last}, knn_top_1 was best at step {best.best_step}" in out
    kept = {name.split(".")[0] for name in os.listdir("run/best") if name.startswith("ckpt")}
    assert kept == {f"ckpt-{best.best_step}"}
    assert json.loads(Path("run/result.json").read_text())["global_step"] == best.best_step
    # The weights are those of the checkpoint of that step.
    step = weights(f"run/ckpt-{best.best_step}")
    for name, value in weights(f"run/best/ckpt-{best.best_step}").items():
        np.testing.assert_array_equal(value, step[name], name)
    # The same command again: it has ended; and so has one that follows it.
    out = command(*arguments)
    assert f"Already trained to step {last} of 16" in out and len(rows()) * 2 == last
    assert f"taking the weights of {os.path.join('run', 'best')}" in out
    # Other commands take the best too; so does one that followed the run, without its flags.
    assert StoredWeights("run").step == StoredWeights("run/best").step == best.best_step
    assert load_model("run/best")[1]["settings"]["image_size"] == 8
    out = command("--model_dir=run", "--mode=eval", defaults=[])
    assert f"Step {last}: " in out and f"Step {best.best_step}: " in out.split(f"Step {last}: ")[1]
    assert json.loads(Path("run/result.json").read_text())["global_step"] == best.best_step
    assert find_export("run").endswith(f"saved_model/{best.best_step}")
    # More patience: it goes on. Without early stopping the newest checkpoint is the run's again.
    out = command(*arguments[:-1], "--early_stopping_patience=3", "--mode=train")
    assert "Training on" in out
    command(*arguments[:-2], "--early_stopping=none", "--train_steps=18", "--mode=train")
    assert StoredWeights("run").step == 18


@pytest.mark.one_lane
def test_early_stopping_that_is_asked_for_later(
    command: Command,  # noqa: F811
    measured: tuple[Path, str],
) -> None:
    """Measurements from before do not count: no checkpoint was kept for them."""
    shutil.copytree(measured[0], "run")
    out = command("--model_dir=run", *MEASURED, "--train_steps=8", "--early_stopping=spread")
    gain = Gain.of_folder("run")
    assert gain.best_step == 8 and "spread was best at step 8" in out
    command("--model_dir=run", *MEASURED, "--train_steps=10", "--early_stopping=uniformity")
    assert Gain.of_folder("run").figure == "uniformity"
    assert Gain.of_folder("run").best_step == 10


@pytest.mark.one_lane
def test_an_interrupted_run_goes_on_counting(command: Command) -> None:  # noqa: F811
    arguments = [*MEASURED, "--early_stopping=spread", "--early_stopping_patience=50"]
    command("--model_dir=whole", *arguments, "--train_steps=8")
    shutil.copytree("whole", "parts")
    for name in os.listdir("parts"):  # as if it had been killed after step 4 was saved
        if name.startswith(("ckpt-6", "ckpt-8")):
            os.remove(f"parts/{name}")
    Path("parts/checkpoint").write_text('model_checkpoint_path: "ckpt-4"\n')
    out = command("--model_dir=parts", *arguments, "--train_steps=8")
    assert "Resuming from parts/ckpt-4" in out
    assert rows("parts") == rows("whole")
    assert sorted(os.listdir("parts/best")) == sorted(os.listdir("whole/best"))


@pytest.mark.one_lane
def test_a_run_killed_ahead_of_its_checkpoint_keeps_the_best(tmp_path: Path) -> None:
    """The best of step 4 is written, its checkpoint is not: the run goes on from step 2."""
    config = Config(model_dir=str(tmp_path), early_stopping="spread")
    model = small_model(num_classes=None)
    gain = Gain.begin(config, 0)
    for step, value in ((2, 0.1), (4, 0.2)):
        append_csv(str(tmp_path / FILE), {"step": step, "spread": value})
        before = gain.best_step
        assert gain.add(step, value)
        gain.keep(model, str(tmp_path), before)
    trim_csv(str(tmp_path / FILE), 2)
    resumed = Gain.begin(config, 2)
    assert resumed.best_step == 2 and os.path.exists(f"{resumed.prefix(str(tmp_path))}.index")


@pytest.mark.one_lane
@pytest.mark.parametrize("arguments, message", [
    (["--early_stopping=knn_top_1", "--online_eval=never"], "Expected online_eval with early"),
    (["--early_stopping=luck"], "Expected one of none, knn_top_1"),
    (["--early_stopping_patience=0"], "Expected early_stopping_patience >= 1"),
    (["--early_stopping=spread", "--train_split=train[:16]"], "20 images or more"),
])  # fmt: skip
def test_wrong_settings(arguments: list[str], message: str, command: Command) -> None:  # noqa: F811
    assert message in command("--model_dir=run", *arguments, code=2)


@pytest.mark.one_lane
def test_no_labels_no_neighbours(command: Command, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "photos").mkdir()
    random = np.random.RandomState(0)
    for number in range(24):
        picture = random.randint(0, 256, (8, 8, 3)).astype("uint8")
        tf.io.write_file(f"photos/{number}.png", tf.io.encode_png(picture))
    folder = ["--dataset=photos", "--train_split=all", "--train_batch_size=8"]
    out = command("--model_dir=run", *folder, *MEASURED, "--early_stopping=knn_top_1", code=2)
    assert "Expected labels for early_stopping=knn_top_1" in out
    command("--model_dir=run", *folder, *MEASURED)
    assert list(rows()[0]) == ["step", "effective_rank", "spread", "uniformity"]


class Clock:
    """Seconds that pass only as told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.one_lane
@pytest.mark.parametrize("cost", [0.1, 2.0, 50.0])
def test_the_cost_stays_below_its_share(
    cost: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of a second, measurements of `cost` seconds, over a thousand steps."""
    clock = Clock()

    def measure(*_: object) -> dict[str, float]:
        clock.now += cost
        return {"spread": 1.0}

    monkeypatch.setattr("simclr_tf.runs.monitoring.online_figures", measure)
    config = Config(
        dataset="mnist_5k", model_dir=str(tmp_path), train_batch_size=64, image_size=8,
        online_eval_images=40,
    )  # fmt: skip
    progress = Progress(0, 1000, 64)
    source = open_source("mnist_5k", "train[:64]")
    online = OnlineEvaluation(config, source, 0, lambda step: step % 10 == 0, progress, clock)
    online._encode = lambda images: images
    for step in range(1, 1001):
        clock.now += 1
        spent = online._spent
        online.on_step(step, {})
        if online._spent > spent and spent:  # the first is a guess
            assert online._spent <= 0.03 * clock.now + 0.03 * cost
    assert online.count == {0.1: 100, 2.0: 15, 50.0: 1}[cost]
    line = online.line()
    times = "once" if online.count == 1 else f"{online.count} times"
    assert line is not None and f"Measured the features {times} while" in line


def test_gain_in_both_directions() -> None:
    up, down = Gain("spread", 2), Gain("uniformity", 2)
    assert [up.add(i, v) for i, v in enumerate([1, 2, 2, 3])] == [True, True, False, True]
    assert up.best_step == 3 and not up.is_over
    assert [down.add(i, v) for i, v in enumerate([-1, -2, -1.5, -2])] == [True, True, False, False]
    assert down.best_step == 1 and down.is_over
    assert not Gain("none", 1).is_over


def test_the_loss_of_a_network_that_knows_nothing() -> None:
    same = tf.ones([2 * 16, 8])
    chance = float(nt_xent(same).loss)
    assert chance == pytest.approx(2 * math.log(31), rel=1e-4)
    line = unlearned_line(chance, 16, 1000)
    assert line is not None and f"= {chance:.3f}" in line
    assert unlearned_line(chance, 16, 20) is None  # hardly begun
    assert unlearned_line(0.8 * chance, 16, 1000) is None
    assert unlearned_line(math.nan, 16, 1000) is None


def test_the_stem_for_large_images_is_warned_of() -> None:
    def line(**settings: object) -> str | None:
        return _stem_line(Config(**settings))  # type: ignore[arg-type]

    assert "leaves 2 x 2 positions" in (line(image_size=64) or "")
    for settings in (
        {"image_size": 32}, {"image_size": 65}, {"image_size": 64, "resnet_stem": "imagenet"},
        {"image_size": 64, "encoder": "mlp"},
    ):  # fmt: skip
        assert line(**settings) is None, settings
