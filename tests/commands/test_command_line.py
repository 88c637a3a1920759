"""The command as a user types it: train, stop, resume, evaluate, fine-tune.

Runs take a second or two: a tiny network on 8-pixel digits. Most run in this process; what needs
several processes runs in processes of its own.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
from tiny_runs import (
    OFTEN,
    ONE_STEP,
    TINY,
    TUNE,
    Command,
    assert_same_weights,
    command,
    finish,
    no_exports,
    results,
    rows,
    summaries,
    weights,
    working_folder,
)

from simclr_tf.config import Config
from simclr_tf.run import main
from simclr_tf.runs.callbacks import Checkpoints

__all__ = ["command", "no_exports", "working_folder"]  # fixtures

RELEASE_WITHOUT_HEADS = "(?!global_step|(?:.*/|^)Momentum|head)"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted pretraining run of six steps with its evaluation: model_dir."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = [*TINY, *OFTEN, "--mode=train_then_eval", f"--model_dir={folder}"]
    assert main(["simclr-tf", *arguments]) == 0
    return folder


@pytest.fixture
def mine(trained: Path, working_folder: Path) -> Path:
    """A copy of the trained run that a test may go on with."""
    copy = Path(shutil.copytree(trained, working_folder / "mine"))
    state = copy / "checkpoint"
    state.write_text(state.read_text().replace(str(trained), str(copy)))
    return copy


# What a run leaves.


def test_files_of_a_run(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith("events")}
    assert names == {
        "checkpoint", "ckpt-4.data-00000-of-00001", "ckpt-4.index", "ckpt-6.data-00000-of-00001",
        "ckpt-6.index", "flags.json", "metrics.csv", "result.json", "result_6.json", "saved_model",
        "training_time.csv", "views.png",
    }  # fmt: skip
    assert [path.name for path in (trained / "saved_model").iterdir()] == ["6"]
    settings = results(trained, "flags.json")
    assert settings["train_batch_size"] == 16 and settings["encoder"] == "mlp:16"
    assert set(settings) == {field.name for field in dataclasses.fields(Config)}


def test_results_have_the_releases_names(trained: Path) -> None:
    found = results(trained)
    assert set(found) == {
        "eval/label_top_1_accuracy", "eval/label_top_5_accuracy", "eval/regularization_loss",
        "global_step",
    }  # fmt: skip
    assert found["global_step"] == 6 and found == results(trained, "result_6.json")
    assert 0 <= found["eval/label_top_1_accuracy"] <= found["eval/label_top_5_accuracy"] <= 1


def test_metrics_and_summaries(trained: Path) -> None:
    table = rows(trained)
    assert [row["step"] for row in table] == [1, 2, 3, 4, 5, 6]
    names = {"contrast_loss", "contrast_acc", "contrast_entropy", "supervised_loss",
             "supervised_acc", "weight_decay", "total_loss", "gradient_norm"}  # fmt: skip
    assert set(table[0]) == {"step", "learning_rate", *names}
    assert all(math.isfinite(value) for row in table for value in row.values())
    found = summaries(trained)
    steps = {1, 2, 3, 4, 5, 6}
    for name in names:
        assert found[f"train/{name}"] == steps
    assert found["learning_rate"] == steps and found["views"] == steps
    assert found["eval/label_top_1_accuracy"] == {6}


def test_picture_of_the_views(trained: Path) -> None:
    from PIL import Image

    with Image.open(trained / "views.png") as picture:
        assert picture.width > 200 and picture.height > 400
        assert len(picture.convert("L").getcolors()) > 20, "the picture is empty"


def test_export_is_the_model(trained: Path) -> None:
    module = tf.saved_model.load(str(trained / "saved_model" / "6"))
    outputs = module(tf.zeros([3, 8, 8, 3]), trainable=False)
    assert outputs["final_avg_pool"].shape == (3, 16)
    assert outputs["proj_head_output"].shape == (3, 8)
    assert outputs["logits_sup"].shape == (3, 10)


# Stop and go on.


def test_interrupted_and_resumed_equals_uninterrupted(
    trained: Path,
    command: Command,
    no_exports: None,
    monkeypatch: pytest.MonkeyPatch,
    working_folder: Path,
) -> None:
    save = Checkpoints.on_step

    def interrupt(self: Checkpoints, step: int, logs: dict) -> None:
        save(self, step, logs)
        if step == 5:  # one step after a checkpoint: it is taken again
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "on_step", interrupt)
    arguments = [*OFTEN, "--mode=train_then_eval", "--model_dir=run"]
    said = command(*arguments, code=130)
    assert "the same command resumes" in said
    assert [row["step"] for row in rows(working_folder / "run")] == [1, 2, 3, 4, 5]
    assert not (working_folder / "run" / "result.json").exists()

    monkeypatch.setattr(Checkpoints, "on_step", save)
    said = command(*arguments)
    assert "Resuming from run/ckpt-4 at step 4" in said and "Changed" not in said
    assert_same_weights(working_folder / "run" / "ckpt-6", trained / "ckpt-6")
    for ours, theirs in zip(rows(working_folder / "run"), rows(trained), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert results(working_folder / "run") == pytest.approx(results(trained), rel=1e-4)


def test_finished_run_is_not_trained_again(command: Command, no_exports: None, mine: Path) -> None:
    """A shorter length changes nothing: the results are those of the step that it is at."""
    before = weights(mine / "ckpt-6")
    said = command(*OFTEN, "--mode=train_then_eval", f"--model_dir={mine}", "--train_steps=3")
    assert "Changed since this run began: train_steps from 6 to 3." in said
    assert "Already trained to step 6 of 3." in said
    assert results(mine)["global_step"] == 6 and not (mine / "result_3.json").exists()
    for name, value in weights(mine / "ckpt-6").items():
        np.testing.assert_array_equal(value, before[name])


def test_longer_run_goes_on_and_says_what_changed(
    command: Command, no_exports: None, mine: Path
) -> None:
    said = command(
        *OFTEN, f"--model_dir={mine}", "--train_steps=8", "--keep_checkpoint_max=3",
        "--keep_hub_module_max=2", "--mode=train_then_eval",
    )  # fmt: skip
    assert "train_steps from 6 to 8" in said and "keep_checkpoint_max from 2 to 3" in said
    assert "Resuming from" in said and "at step 6" in said
    kept = sorted(path.stem for path in mine.glob("*.index"))
    assert kept == ["ckpt-4", "ckpt-6", "ckpt-8"]
    exports = sorted(path.name for path in (mine / "saved_model").iterdir())
    assert exports == ["6", "8"]
    assert results(mine, "flags.json")["train_steps"] == 8
    assert [row["step"] for row in rows(mine)] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_lost_list_of_checkpoints_does_not_start_afresh(
    command: Command, mine: Path, damage: str
) -> None:
    if damage == "gone":
        (mine / "checkpoint").unlink()
    else:
        (mine / "checkpoint").write_bytes(b"\x00\x01")
    said = command(*OFTEN, f"--model_dir={mine}")
    assert "at step 6" in said and "Already trained" in said


def test_fresh_folder_is_named(command: Command, working_folder: Path) -> None:
    said = command(*TUNE, "--train_steps=1")
    (folder,) = (working_folder / "runs").iterdir()
    assert f"runs/{folder.name}" in said and (folder / "ckpt-1.index").exists()


# Evaluating.


def test_evaluation_of_a_finished_run(
    command: Command, no_exports: None, mine: Path, trained: Path
) -> None:
    (mine / "result.json").unlink()
    said = command(
        "--mode=eval", f"--model_dir={mine}", "--eval_name=again", "--eval_split=test[:16]",
        "--eval_steps=1", defaults=[],
    )  # fmt: skip
    assert "flags.json" in said and "Step 6 is the last of 6: evaluation complete." in said
    assert "eval_split from test[:32] to test[:16]" in said
    assert results(mine)["global_step"] == 6
    assert summaries(mine / "eval_again")["eval/label_top_1_accuracy"] == {6}
    assert results(mine, "flags.json") == results(trained, "flags.json")


@pytest.mark.one_lane
@pytest.mark.slow
def test_evaluation_follows_a_run(trained: Path, mine: Path, working_folder: Path) -> None:
    """A second process evaluates step 4, then, when it comes, step 6."""
    later = working_folder / "later"
    later.mkdir()
    for path in mine.glob("ckpt-6.*"):
        shutil.move(path, later / path.name)
    state = mine / "checkpoint"
    whole = state.read_text()
    state.write_text('model_checkpoint_path: "ckpt-4"\nall_model_checkpoint_paths: "ckpt-4"\n')
    (mine / "result.json").unlink()
    program = (
        "from simclr_tf.run import cli\nfrom simclr_tf.runs import following\n"
        "following.POLL_SECONDS = 1\ncli()"
    )
    follower = processes.start("-c", program, "--mode=eval", f"--model_dir={mine}")
    try:
        deadline = time.monotonic() + 120
        while not (mine / "result_4.json").exists():
            assert follower.poll() is None and time.monotonic() < deadline, follower.communicate()
            time.sleep(0.2)
        for path in later.iterdir():
            shutil.move(path, mine / path.name)
        state.write_text(whole)
        said = finish(follower)
    finally:
        follower.kill()
    assert "Step 6 is the last of 6: evaluation complete." in said
    assert results(mine) == pytest.approx(results(trained), rel=1e-4)
    assert results(mine, "result_4.json")["global_step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment_on",
    [
        pytest.param("device", marks=pytest.mark.second_lane),
        pytest.param("host", marks=pytest.mark.one_lane),
    ],
)
def test_pretraining_without_linear_head(
    command: Command, no_exports: None, working_folder: Path, augment_on: str
) -> None:
    said = command(
        "--nolineareval_while_pretraining", "--mode=train_then_eval", "--model_dir=run",
        "--train_steps=1", f"--augment_on={augment_on}",
    )  # fmt: skip
    assert "No accuracy" in said and "lineareval_while_pretraining" in said
    assert "eval/contrast_loss" in results(working_folder / "run")


@pytest.mark.one_lane
@pytest.mark.slow
def test_comparison_with_baselines(
    command: Command, no_exports: None, working_folder: Path
) -> None:
    said = command(
        "--mode=train_then_eval", "--model_dir=run", "--train_steps=2", "--eval_baselines=always"
    )
    assert "raw pixels" in said and "same encoder, untrained" in said
    compared = results(working_folder / "run", "comparison.json")
    accuracy = results(working_folder / "run")["eval/label_top_1_accuracy"]
    assert compared["online_linear_head"] == accuracy
    assert 0 < compared["raw pixels"]["logistic_regression"] <= 1


# Starting from weights.


@pytest.mark.parametrize(
    "start",
    ["", pytest.param("ckpt-6", marks=pytest.mark.slow),
     pytest.param("saved_model/6", marks=pytest.mark.slow)],
    ids=["folder", "prefix", "SavedModel"],
)  # fmt: skip
def test_fine_tuning_starts_from_a_checkpoint(
    command: Command, trained: Path, working_folder: Path, start: str
) -> None:
    said = command(*TUNE, *ONE_STEP, f"--checkpoint={trained / start}", "--model_dir=tuned")
    assert "Starting from" in said and "from scratch" not in said
    assert_same_weights(working_folder / "tuned/ckpt-1", trained / "ckpt-6", "kernel")
    # the contrastive loss is gone
    assert "train/contrast_loss" not in summaries(working_folder / "tuned")
    assert "supervised_acc" in rows(working_folder / "tuned")[0]


def test_only_what_the_pattern_names_is_restored(
    command: Command, no_exports: None, trained: Path, working_folder: Path
) -> None:
    said = command(
        *TUNE, *ONE_STEP, f"--checkpoint={trained}", "--model_dir=tuned",
        f"--variable_schema={RELEASE_WITHOUT_HEADS}", "--seed=1", "--zero_init_logits_layer",
        "--mode=train_then_eval",
    )  # fmt: skip
    assert "left out by variable_schema" in said
    ours, theirs = weights("tuned/ckpt-1"), weights(trained / "ckpt-6")
    for name in ours:
        if name.endswith("kernel"):
            same = np.allclose(ours[name], theirs[name], rtol=1e-5)
            assert same == name.startswith("encoder/"), name
    head = ours["supervised_head/linear_layer/dense/kernel"]
    assert np.all(head == 0)
    assert results(working_folder / "tuned")["global_step"] == 1


@pytest.mark.slow
def test_fine_tuning_from_the_projection_head(
    command: Command, trained: Path, working_folder: Path
) -> None:
    command(
        *TUNE, *ONE_STEP, f"--checkpoint={trained}", "--ft_proj_selector=2", "--model_dir=tuned",
        "--mode=train_then_eval", "--use_blur=False", "--variable_schema=(?!head_supervised)",
    )  # fmt: skip
    assert weights("tuned/ckpt-1")["supervised_head/linear_layer/dense/kernel"].shape == (8, 10)
    outputs = tf.saved_model.load("tuned/saved_model/1")(tf.zeros([1, 8, 8, 3]), trainable=False)
    assert outputs["logits_sup"].shape == (1, 10)


@pytest.mark.slow
def test_linear_evaluation_moves_the_head_alone(
    command: Command, trained: Path, working_folder: Path
) -> None:
    command(
        *TUNE, f"--checkpoint={trained}", "--fine_tune_after_block=1", "--model_dir=tuned",
        "--train_steps=3",
    )  # fmt: skip
    assert_same_weights(working_folder / "tuned/ckpt-3", trained / "ckpt-6", "encoder/", 0)
    head = "supervised_head/linear_layer/dense/kernel"
    assert not np.allclose(weights("tuned/ckpt-3")[head], weights(trained / "ckpt-6")[head])


@pytest.mark.slow
def test_supervised_baseline_from_scratch(
    command: Command, no_exports: None, working_folder: Path
) -> None:
    said = command(*TUNE, "--model_dir=scratch", "--train_steps=2", "--mode=train_then_eval")
    assert "supervised baseline from scratch" in said
    assert results(working_folder / "scratch")["global_step"] == 2


@pytest.mark.one_lane
def test_distillation(
    command: Command, no_exports: None, trained: Path, working_folder: Path
) -> None:
    """More of it, on both lanes: test_distill_command.py."""
    said = command(
        "--train_mode=distill", f"--teacher={trained}", "--distill_temperature=2",
        "--distill_labels_weight=0.5", "--mode=train_then_eval", "--train_steps=2",
        "--model_dir=student",
    )  # fmt: skip
    assert "Teacher: " in said and "teacher_agreement" in rows(working_folder / "student")[0]
    assert results(working_folder / "student")["global_step"] == 2


@pytest.mark.slow
def test_warm_start_while_pretraining(
    command: Command, trained: Path, working_folder: Path
) -> None:
    command(*ONE_STEP, f"--checkpoint={trained}", "--model_dir=warm", "--seed=5")
    assert_same_weights(working_folder / "warm/ckpt-1", trained / "ckpt-6", "kernel")


@pytest.mark.one_lane
@pytest.mark.slow
def test_encoder_from_a_weights_file(command: Command, working_folder: Path) -> None:
    from simclr_tf.models.encoders import make_encoder

    donor = make_encoder("mlp:16", image_size=8)
    donor.save_weights("donor.weights.h5")
    command(*ONE_STEP, "--encoder_weights=donor.weights.h5", "--model_dir=run")
    kernels = [v for name, v in weights("run/ckpt-1").items() if "encoder/" in name and v.ndim == 2]
    np.testing.assert_allclose(kernels[0], donor.get_weights()[0], rtol=1e-5)
