"""Wrong input: one clear line, exit code 2, and every file as it was.

Each case runs the command itself. Most run in this process (a fresh one costs seconds); the same
front door is checked in processes of their own at the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import tensorflow as tf
from refusals import TINY, fingerprint, refused
from tiny_runs import working_folder

from simclr_tf.run import main

__all__ = ["refused", "working_folder"]  # fixtures


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run with results and an export: model_dir."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["simclr-tf", *TINY, "--mode=train_then_eval", f"--model_dir={folder}"]) == 0
    return folder


@pytest.fixture
def mine(trained: Path, working_folder: Path) -> Path:
    """A copy of the trained run that a test may damage."""
    return Path(shutil.copytree(trained, working_folder / "mine"))


# Flags (ten at most: test_run_cli.py and test_config.py go on).


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--learning_rat=0.1"], "learning_rate"),
        (
            ["--train_batch_size=many"],
            "Expected a whole number for --train_batch_size; received: 'many'. The",
        ),
        (["--learning_rate=a: b"], "Expected a number for --learning_rate; received: 'a: b'. The"),
        (["--use_blur=maybe"], "Expected true or false for --use_blur; received: 'maybe'. The def"),
        (
            ["--cache_dataset=no"],
            "Expected one of true, false, memory, disk for --cache_dataset; r",
        ),
        (["--image_size=0"], "image_size > 0; received: 0"),
        (
            ["--optimizer=sgd"],
            "Expected one of lars, momentum, adam, lamb for --optimizer; received: 'sgd'",
        ),
        (["--seed=4294967296"], "seed"),
        (["--augmentations=crop,flop"], "crop, flip, color, blur"),
        (["--flagfile=missing.flags"], "missing.flags"),
        (["--preset=quikstart"], "quickstart"),
        (["--ft_proj_selector=3"], "ft_proj_selector in 0..2"),
        (["--fine_tune_after_block=2"], "--train_mode=finetune"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_flags(refused: Callable[..., str], arguments: list[str], expected: str) -> None:
    assert expected in refused("--model_dir=run", *arguments)
    assert not os.path.exists("run")


def test_block_that_the_encoder_lacks(refused: Callable[..., str]) -> None:
    line = refused("--train_mode=finetune", "--fine_tune_after_block=4")
    assert "received: 4" in line and "stage1" in line


# Where weights come from.


def finetuning(checkpoint: Path | str, *more: str) -> list[str]:
    return ["--train_mode=finetune", f"--checkpoint={checkpoint}", "--model_dir=tuned", *more]


def test_checkpoint_that_is_not_there(refused: Callable[..., str]) -> None:
    assert "found nothing there" in refused(*finetuning("nowhere/ckpt-100"))
    assert not os.path.exists("tuned")


def test_folder_without_checkpoint(refused: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "bare").mkdir()
    assert "found neither" in refused(*finetuning("bare"))


@pytest.mark.parametrize(
    "change",
    [["--encoder=mlp:24"], ["--encoder=mlp:16,16"], ["--image_size=9"],
     ["--encoder=resnet", "--resnet_depth=18", "--width_multiplier=0.125"]],
    ids=["wider", "deeper", "other images", "other family"],
)  # fmt: skip
def test_checkpoint_of_another_architecture(
    refused: Callable[..., str], trained: Path, change: list[str]
) -> None:
    line = refused(*finetuning(trained, *change))
    assert "same architecture" in line and "encoder" in line
    assert not os.path.exists("tuned")


def test_saved_model_of_another_program(refused: Callable[..., str], working_folder: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])
    tf.saved_model.save(module, str(working_folder / "theirs"))
    assert "same architecture" in refused(*finetuning("theirs"))


def test_saved_model_of_another_architecture(refused: Callable[..., str], trained: Path) -> None:
    line = refused(*finetuning(trained / "saved_model" / "2", "--encoder=mlp:24"))
    assert "same architecture" in line and "of another shape" in line


def test_pattern_that_restores_nothing(refused: Callable[..., str], trained: Path) -> None:
    line = refused(*finetuning(trained, "--variable_schema=resnet50"))
    assert "left out by variable_schema" in line


def test_projection_layer_that_the_checkpoint_lacks(
    refused: Callable[..., str], trained: Path
) -> None:
    line = refused(*finetuning(trained, "--proj_out_dim=12", "--ft_proj_selector=2"))
    assert "projection" in line


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
def test_cut_off_checkpoint_to_start_from(
    refused: Callable[..., str], mine: Path, part: str
) -> None:
    path = mine / f"ckpt-2.{part}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = refused(*finetuning(mine))
    assert "damaged" in line and "ckpt-2" in line


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
def test_cut_off_checkpoint_to_resume(refused: Callable[..., str], mine: Path, part: str) -> None:
    path = mine / f"ckpt-2.{part}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "ckpt-2" in refused(f"--model_dir={mine}", "--train_steps=4")


def test_checkpoint_whose_data_are_gone(refused: Callable[..., str], mine: Path) -> None:
    (mine / "ckpt-2.data-00000-of-00001").unlink()
    assert "ckpt-2" in refused(f"--model_dir={mine}", "--train_steps=4")


def test_weights_file_that_is_not_there(refused: Callable[..., str]) -> None:
    line = refused("--encoder_weights=vgg.h5", "--train_mode=finetune")
    assert "vgg.h5" in line and "Correct the path" in line


def test_weights_file_that_is_none(refused: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "mine.weights.h5").write_bytes(b"no weights")
    assert "mine.weights.h5" in refused("--encoder_weights=mine.weights.h5")


@pytest.mark.parametrize(
    "encoder, expected",
    [("resnet18", "Nearest: resnet"), ("mlp:0", "at least 1"), ("mlp:x", "mlp:512,512"),
     ("keras_cv.NoSuchBackbone", "NoSuchBackbone"),
     ("keras.applications.InceptionV3", "at least 75 x 75")],
)  # fmt: skip
def test_unknown_or_unfit_encoder(refused: Callable[..., str], encoder: str, expected: str) -> None:
    assert expected in refused(f"--encoder={encoder}", "--model_dir=run")
    assert not os.path.exists("run")


# The folder of a run.


def test_folder_that_cannot_be_written(refused: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "notes").write_text("mine")
    line = refused("--model_dir=notes/run")
    assert "can be written" in line and "notes/run" in line


def test_file_where_the_folder_should_be(refused: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "notes").write_text("mine")
    assert "notes" in refused("--model_dir=notes")


def test_no_place_for_a_fresh_folder(refused: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "runs").write_text("mine")
    assert "Pass --model_dir" in refused()


@pytest.mark.parametrize(
    "changes",
    [["--train_split=train[:48]"], ["--encoder=mlp:24"], ["--temperature=0.5"],
     ["--train_batch_size=32"], ["--optimizer=adam"], ["--augmentations=crop,flip"],
     ["--train_mode=finetune"], ["--seed=1", "--proj_out_dim=16", "--weight_decay=0.1"]],
    ids=["data", "model", "loss", "batch", "optimizer", "views", "task", "several"],
)  # fmt: skip
def test_folder_of_a_run_with_other_settings(
    refused: Callable[..., str], mine: Path, changes: list[str]
) -> None:
    line = refused(f"--model_dir={mine}", "--train_steps=4", *changes)
    for change in changes:
        name, value = change[2:].split("=", 1)
        assert f"{name} (" in line and f"{value} now" in line
    assert "another --model_dir" in line


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe\x00", b""], ids=str)
def test_damaged_settings(refused: Callable[..., str], mine: Path, content: bytes) -> None:
    (mine / "flags.json").write_bytes(content)
    line = refused(f"--model_dir={mine}", "--train_steps=4")
    assert "flags.json" in line and "Fix the file" in line


def test_settings_of_wrong_types_are_not_taken(refused: Callable[..., str], mine: Path) -> None:
    settings = json.loads((mine / "flags.json").read_text())
    (mine / "flags.json").write_text(json.dumps({**settings, "temperature": "warm"}))
    line = refused("--mode=eval", f"--model_dir={mine}", defaults=[])
    assert "temperature to be of type float; received: 'warm'" in line


def test_evaluating_a_folder_that_is_not_there(refused: Callable[..., str]) -> None:
    assert "does not exist" in refused("--mode=eval", "--model_dir=nowhere")
    assert "nowhere/flags.json" in refused("--mode=eval", "--model_dir=nowhere", defaults=[])
    assert not os.path.exists("nowhere")


def test_evaluating_with_other_settings(refused: Callable[..., str], mine: Path) -> None:
    line = refused("--mode=eval", f"--model_dir={mine}", "--proj_out_dim=16")
    assert "proj_out_dim (8 there, 16 now)" in line


def test_evaluating_a_checkpoint_of_another_model(refused: Callable[..., str], mine: Path) -> None:
    """The settings are gone, the checkpoint tells."""
    (mine / "flags.json").unlink()
    line = refused("--mode=eval", f"--model_dir={mine}", "--proj_out_dim=12")
    assert "checkpoint of this model" in line and "(16, 12) here" in line


def test_run_and_its_start_in_one_folder(refused: Callable[..., str], mine: Path) -> None:
    line = refused("--train_mode=finetune", f"--checkpoint={mine}", f"--model_dir={mine}/")
    assert "to differ" in line


def test_evaluation_named_as_a_path(refused: Callable[..., str]) -> None:
    assert "a name, not a path" in refused("--eval_name=../../elsewhere")


# Devices.


@pytest.mark.parametrize(
    "description, expected",
    [
        (None, "TF_CONFIG"),
        ("{worker: 1}", "JSON"),
        ("[1]", "JSON"),
        ('{"cluster": ["a:1", "b:2"]}', "JSON"),
        ('{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker"}}', "task"),
        ('{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 7}}',
         "task"),
    ],
    ids=["none", "no JSON", "list", "list of workers", "no index", "index too high"],
)  # fmt: skip
def test_several_workers_not_described(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    description: str | None,
    expected: str,
) -> None:
    if description is not None:
        monkeypatch.setenv("TF_CONFIG", description)
    line = refused("--strategy=multiworker", "--model_dir=run")
    assert "TF_CONFIG" in line and expected in line


@pytest.mark.parametrize("address", ["", "grpc://127.0.0.1:1x", "grpc://"])
def test_no_such_tpu(refused: Callable[..., str], address: str) -> None:
    assert "TPU" in refused("--use_tpu", f"--tpu_name={address}", "--model_dir=run")


def test_batch_that_replicas_cannot_share(refused: Callable[..., str]) -> None:
    line = refused("--cpu_replicas=3", "--strategy=mirrored")
    assert "multiple of cpu_replicas=3" in line


# The same in processes of their own: the exit code, the streams, no traceback.


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--trian_steps=1"], "train_steps"),
        (["--dataset=./photos"], "./photos"),
        pytest.param(["--dataset=mnist_5k", "--train_split=tarin"], "tarin",
                     marks=pytest.mark.slow),
        pytest.param(["--cpu_replicas=2", "--strategy=mirrored", "--train_batch_size=100"],
                     "at most 64", marks=pytest.mark.slow),
    ],
    ids=["flag", "folder", "split", "batch"],
)  # fmt: skip
def test_as_a_process(working_folder: Path, arguments: list[str], expected: str) -> None:
    done = processes.run("-m", "simclr_tf.run", *TINY, *arguments, cwd=working_folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("simclr-tf: error: ") and expected in last
    assert fingerprint(working_folder) == {}
