"""Distillation by the command: teachers in files, students that resume, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import (
    OFTEN,
    ONE_STEP,
    TINY,
    TUNE,
    assert_same_weights,
    command,
    finish,
    no_exports,
    process,
    results,
    rows,
    weights,
    working_folder,
    write_folder,
)

from simclr_tf.features.exported import ExportedModel, find_export
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.run import main
from simclr_tf.runs.callbacks import Checkpoints
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_saved_model
from tf_hub_export.sources import load_model

__all__ = ["command", "no_exports", "working_folder"]  # fixtures
pytestmark = pytest.mark.usefixtures("half_as_deep")

DISTILL = ["--train_mode=distill", "--encoder=mlp:8", "--optimizer=momentum"]
NAMES = {"distill_loss", "teacher_agreement", "weight_decay", "total_loss", "learning_rate",
         "gradient_norm"}  # fmt: skip


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model_dir of a fine-tuned teacher, wider than its students."""
    folder = tmp_path_factory.mktemp("taught") / "teacher"
    arguments = [*TINY, *TUNE, "--encoder=mlp:32", "--train_steps=20", "--mode=train_then_eval"]
    assert main(["simclr-tf", *arguments, f"--model_dir={folder}"]) == 0
    return folder


@pytest.mark.one_lane
def test_newest_export_of_a_run_is_found(tmp_path: Path, taught: Path) -> None:
    assert find_export(str(taught)) == str(taught / "saved_model" / "20")
    exports = tmp_path / "run" / "saved_model"
    for name in ("9", "10", "11", "notes"):
        (exports / name).mkdir(parents=True)
        if name != "11":  # half-written
            (exports / name / "saved_model.pb").touch()
    assert find_export(str(tmp_path / "run")) == str(exports / "10")
    assert find_export(str(exports / "9")) == str(exports / "9")


def test_distillation_from_start_to_export(
    command: Callable[..., str], taught: Path, working_folder: Path
) -> None:
    run = working_folder / "run"
    said = command(*DISTILL, f"--teacher={taught}", "--mode=train_then_eval", "--model_dir=run")
    assert f"Teacher: {taught}/saved_model/20, 10 classes" in said
    assert set(rows(run)[0]) == {"step", "supervised_loss", "supervised_acc", *NAMES}
    found = results(run)
    assert {"eval/label_top_1_accuracy", "eval/label_top_5_accuracy"} <= set(found)
    module = ExportedModel(str(run))
    images = np.random.RandomState(0).rand(4, 8, 8, 3).astype("float32")
    assert module(images)["final_avg_pool"].shape == (4, 8)
    card = json.loads((run / "saved_model/6/model.json").read_text())
    assert card["settings"]["teacher"] == "teacher"  # not where it lay
    loaded, _ = load_model(str(run))
    assert isinstance(loaded, Classifier)
    np.testing.assert_allclose(loaded(images), module(images)["logits_sup"], rtol=1e-4, atol=1e-5)
    # Evaluating on labels needs no teacher: it may be gone.
    settings = json.loads((run / "flags.json").read_text())
    (run / "flags.json").write_text(json.dumps({**settings, "teacher": "/nowhere"}))
    assert "Step 6 is the last of 6" in command("--mode=eval", "--model_dir=run", defaults=[])
    assert results(run) == pytest.approx(found)


def test_student_of_a_student_starts_from_a_checkpoint(
    command: Callable[..., str], taught: Path, working_folder: Path
) -> None:
    """Self-distillation: the teacher's own weights as the start."""
    said = command(*DISTILL, *ONE_STEP, "--encoder=mlp:32", f"--teacher={taught}/saved_model/20",
                   f"--checkpoint={taught}", "--model_dir=run")  # fmt: skip
    assert "Starting from" in said
    assert_same_weights(working_folder / "run/ckpt-1", taught / "ckpt-20", "kernel")
    # It looks at other crops than an evaluation, in training mode; the teacher agrees all the same.
    assert rows(working_folder / "run")[0]["teacher_agreement"] > 0.4


@pytest.mark.one_lane  # test_command_line resumes on both lanes
def test_interrupted_distillation_resumes(
    command: Callable[..., str],
    taught: Path,
    working_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*DISTILL, *OFTEN, f"--teacher={taught}", "--distill_labels_weight=0.5",
                 "--label_fraction=0.3", "--distill_temperature=2"]  # fmt: skip
    said = command(*arguments, "--model_dir=whole")
    assert "of 64 images, listed in whole/labelled_images.csv" in said
    assert "Training on 64 images" in said
    save = Checkpoints.on_step

    def interrupt(self: Checkpoints, step: int, logs: dict) -> None:
        save(self, step, logs)
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "on_step", interrupt)
    command(*arguments, "--model_dir=run", code=130)
    monkeypatch.setattr(Checkpoints, "on_step", save)
    assert "at step 4" in command(*arguments, "--model_dir=run")
    assert_same_weights(working_folder / "run/ckpt-6", working_folder / "whole/ckpt-6")
    for ours, theirs in zip(rows(Path("run")), rows(Path("whole")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.one_lane
def test_student_sees_the_labels_that_its_teacher_saw(
    command: Callable[..., str], working_folder: Path
) -> None:
    few = [*ONE_STEP, "--label_fraction=0.25"]
    command(*TUNE, *few, "--mode=train_then_eval", "--model_dir=first")
    command(*DISTILL, *few, "--distill_labels_weight=0.5", "--teacher=first", "--seed=5",
            "--model_dir=second")  # fmt: skip
    seen, shown = (Path(run, "labelled_images.csv").read_text() for run in ("first", "second"))
    assert seen == shown and len(seen.splitlines()) == 18


@pytest.mark.second_lane
def test_images_without_labels(
    command: Callable[..., str], no_exports: None, taught: Path, working_folder: Path
) -> None:
    write_folder(working_folder / "photos", {"": 24})
    photos = ["--dataset=./photos", "--train_split=train", "--eval_split=test",
              "--eval_fraction=0.3", "--mode=train_then_eval", "--model_dir=run"]  # fmt: skip
    said = command(*DISTILL, *photos, f"--teacher={taught}")
    assert "no labels" in said and "agreement with the teacher instead" in said
    assert {"eval/distill_loss", "eval/teacher_agreement"} < set(results(working_folder / "run"))
    assert set(rows(working_folder / "run")[0]) == {"step", *NAMES}
    said = command("--mode=eval", "--model_dir=run", "--eval_batch_size=8", defaults=[])
    assert "Teacher: " in said


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Pass --teacher=SAVED_MODEL"),
        (["--teacher=nowhere"], "'nowhere', which is neither"),
        (["--teacher=empty"], "'empty', which is neither"),
        (["--teacher=damaged"], "SavedModel from images to named endpoints in damaged"),
        (["--teacher=pretrained"], "an endpoint logits_sup"),
        (["--teacher=TAUGHT", "--train_mode=finetune"], "--train_mode=distill with --teacher"),
        (["--teacher=TAUGHT", "--image_size=12"], None),
        (["--teacher=TAUGHT", "--label_fraction=0.5"], "distill_labels_weight too"),
        (["--teacher=TAUGHT", "--distill_labels_weight=2"], "distill_labels_weight >= 0 and <= 1"),
        (["--teacher=TAUGHT", "--distill_temperature=0"], "distill_temperature > 0"),
        (["--teacher=TAUGHT", "--micro_batch_size=4"], "contrastive loss"),
        (["--teacher=TAUGHT", "--model_dir=TAUGHT"], "outside model_dir"),
        (["--teacher=TAUGHT", "--dataset=./two"], "10 classes in ./two; received: 2"),
        (["--teacher=TAUGHT", "--dataset=./none", "--distill_labels_weight=0.5"], "no labels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused(
    command: Callable[..., str],
    taught: Path,
    working_folder: Path,
    arguments: list[str],
    expected: str | None,
) -> None:
    (working_folder / "empty").mkdir()
    for kind, classes in (("two", {"a": 20, "b": 20}), ("none", {"": 40})):
        if f"--dataset=./{kind}" in arguments:
            write_folder(working_folder / kind, classes)
            arguments = [*arguments, "--train_split=train", "--eval_split=test"]
    if "--teacher=damaged" in arguments:
        shutil.copytree(taught / "saved_model/20", working_folder / "damaged")
        (working_folder / "damaged/saved_model.pb").write_bytes(b"\x00\x01")
    if "--teacher=pretrained" in arguments:
        encoder = make_encoder("mlp:4", image_size=8)
        export_saved_model(SimCLR(encoder, ProjectionHead("none")), "pretrained")
    arguments = [argument.replace("TAUGHT", str(taught)) for argument in arguments]
    before = sorted(taught.rglob("*"))
    said = command(*DISTILL, "--model_dir=run", *arguments, code=2 if expected else 0)
    assert expected is None or expected in said
    assert (working_folder / "run").exists() == (expected is None)
    assert sorted(taught.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        # Of these, test_every_flag pretrains on the other lane.
        pytest.param(
            ["--mixed_precision=bfloat16", "--fine_tune_after_block=0"]
            + ["--ft_proj_selector=1", "--zero_init_logits_layer"],
            marks=pytest.mark.second_lane,
        ),
        pytest.param(["--mixed_precision=float16"], marks=pytest.mark.second_lane),
        pytest.param(["--jit_compile"], marks=pytest.mark.second_lane),
        pytest.param(
            ["--augment_on=host", "--augmentations=crop,flip", "--optimizer=lars"]
            + ["--weight_decay=1e-4"],
            marks=pytest.mark.one_lane,
        ),
        pytest.param(  # both lanes train this network by the command, and distil into another
            ["--encoder=resnet", "--resnet_depth=18", "--width_multiplier=0.125"]
            + ["--image_size=16"],
            marks=pytest.mark.one_lane,
        ),
    ],
    ids=" ".join,
)
def test_settings_run_to_the_end(
    command: Callable[..., str], taught: Path, working_folder: Path, arguments: list[str]
) -> None:
    command(*DISTILL, f"--teacher={taught}", "--distill_labels_weight=0.5", "--model_dir=run",
            "--train_steps=2", "--mode=train_then_eval", *arguments)  # fmt: skip
    (*_, last) = rows(working_folder / "run")
    assert all(np.isfinite(value) for value in last.values()), last
    assert results(working_folder / "run")["global_step"] == 2


@pytest.mark.one_lane  # both lanes distil on replicas, and start replicas by the command
@pytest.mark.slow
def test_two_replicas_by_the_command(taught: Path, working_folder: Path) -> None:
    arguments = [*DISTILL, f"--teacher={taught}", "--distill_labels_weight=0.5",
                 "--label_fraction=0.3", "--mode=train_then_eval", "--augmentations=flip",
                 "--cpu_replicas=2", "--strategy=mirrored", "--model_dir=run"]  # fmt: skip
    assert "2 replica(s)" in finish(process(*arguments, wait=False))
    assert results(working_folder / "run")["global_step"] == 6
    assert all(np.isfinite(value).all() for value in weights("run/ckpt-6").values())
