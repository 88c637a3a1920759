"""Wrong input: one clear line, exit code 2, and every file as it was.

Each case runs the command itself. Most run in this process (a fresh one costs seconds); the same
front door is checked in processes of their own at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import tensorflow as tf
from tiny_runs import TINY as TINY_RUN
from tiny_runs import working_folder

from simclr_tf.run import main

__all__ = ["working_folder"]  # a fixture

TINY = [*TINY_RUN, "--train_steps=2"]


def fingerprint(folder: Path) -> dict[str, str]:
    """Returns every file below a folder with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], working_folder: Path) -> Callable[..., str]:
    """Runs the command, asserts that it is refused as it should be; returns the line.

    Later arguments override earlier ones, as on the command line.
    """

    def run(*arguments: str, defaults: list[str] = TINY, begun: bool = False) -> str:
        before = fingerprint(working_folder)
        capsys.readouterr()
        code = main(["simclr-tf", *defaults, *arguments])
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("simclr-tf: error: ")]
        assert code == 2, err
        assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
        assert "Traceback" not in err
        assert len(lines[0]) < 1000, lines[0]
        after = fingerprint(working_folder)
        if begun:  # a run that had to begin to meet the mistake may have added files
            after = {path: after.get(path, "lost") for path in before}
        assert after == before
        return lines[0]

    return run


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


def write_image(path: Path, side: int = 12, seed: int = 0) -> bytes:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (side, side, 3)).astype("uint8")
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def write_folder(folder: Path, classes: dict[str, int]) -> Path:
    """Writes a folder of images: class name ('' for none) -> number of images."""
    for name, count in classes.items():
        for index in range(count):
            write_image(folder / name / f"{index}.png", seed=index)
    return folder


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


# Data.


def test_unknown_data_set(refused: Callable[..., str]) -> None:
    line = refused("--dataset=cifar11", "--model_dir=run")
    assert "'cifar11'" in line and "Did you mean" in line and "cifar10" in line
    assert not os.path.exists("run"), "a folder was made for a run that cannot start"


def test_unknown_config_of_a_data_set(refused: Callable[..., str]) -> None:
    assert "imagenet2012_subset/2pct" in refused("--dataset=imagenet2012_subset/2pct")
    assert not os.path.exists("runs")


def test_data_set_that_must_be_downloaded_offline(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, working_folder: Path
) -> None:
    import tensorflow_datasets as tfds

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    line = refused("--dataset=cifar10", f"--data_dir={working_folder / 'data'}")
    assert "download_and_prepare" in line and "--data_dir" in line


@pytest.mark.parametrize("flag", ["train_split", "eval_split"])
def test_unknown_split(refused: Callable[..., str], flag: str) -> None:
    line = refused(f"--{flag}=unlabelled", "--mode=train_then_eval", "--model_dir=run")
    assert "(train, test)" in line and "'unlabelled'" in line
    assert not os.path.exists("run")


def test_split_that_selects_nothing(refused: Callable[..., str]) -> None:
    assert "selects none" in refused("--train_split=train[4000:]")


def test_split_that_is_no_expression(refused: Callable[..., str]) -> None:
    assert "percent (80%); received: 'a'" in refused("--train_split=train[a:b]")


def test_missing_folder(refused: Callable[..., str]) -> None:
    assert "does not exist" in refused("--dataset=./photos")


def test_file_for_a_folder(refused: Callable[..., str], working_folder: Path) -> None:
    write_image(working_folder / "cat.png")
    assert "which is a file" in refused("--dataset=cat.png")


def test_empty_folder(refused: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "photos").mkdir()
    (working_folder / "photos" / "notes.txt").write_text("none yet")
    line = refused("--dataset=./photos")
    assert "received: none" in line and ".png" in line


def test_folder_of_unreadable_images(refused: Callable[..., str], working_folder: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (working_folder / "photos").mkdir(exist_ok=True)
        (working_folder / "photos" / name).write_bytes(b"not a picture")
    line = refused("--dataset=./photos", "--train_split=train+test")
    assert "none readable" in line and ".png" in line


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_broken_image_where_it_must_not_be(
    refused: Callable[..., str], working_folder: Path, kind: str
) -> None:
    folder = write_folder(working_folder / "photos", {"": 20})
    content = (folder / "3.png").read_bytes()
    broken = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}[kind]
    (folder / "3.png").write_bytes(broken)
    line = refused("--dataset=./photos", "--on_bad_image=fail", "--train_split=train+test")
    assert "3.png" in line


def test_image_that_breaks_while_training(
    refused: Callable[..., str], working_folder: Path
) -> None:
    """The header and the end are whole, the pixels between are not: found when it is decoded."""
    folder = write_folder(working_folder / "photos", {"": 20})
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 40] = bytes(40)
        path.write_bytes(bytes(content))
    line = refused(
        "--dataset=./photos", "--train_split=train", "--on_bad_image=fail", "--model_dir=run",
        begun=True,
    )  # fmt: skip
    assert ".png" in line


def test_images_beside_class_folders(refused: Callable[..., str], working_folder: Path) -> None:
    write_folder(working_folder / "photos", {"": 2, "cats": 8, "dogs": 8})
    line = refused("--dataset=./photos")
    assert "0.png" in line and "cats, dogs" in line


def test_evaluation_folder_of_other_classes(
    refused: Callable[..., str], working_folder: Path
) -> None:
    write_folder(working_folder / "photos/train", {"cats": 10, "dogs": 10})
    write_folder(working_folder / "photos/test", {"cats": 3, "cows": 3})
    line = refused("--dataset=./photos", "--eval_split=test", "--mode=train_then_eval")
    assert "cows" in line and "cats, dogs" in line


def test_evaluation_folder_without_classes(
    refused: Callable[..., str], working_folder: Path
) -> None:
    write_folder(working_folder / "photos/train", {"cats": 10, "dogs": 10})
    write_folder(working_folder / "photos/test", {"": 6})
    line = refused(
        "--dataset=./photos", "--train_split=train", "--eval_split=test", "--mode=train_then_eval"
    )
    assert "classes" in line and "test" in line


def test_share_for_evaluation_that_leaves_nothing(
    refused: Callable[..., str], working_folder: Path
) -> None:
    """A class of one image keeps it for training."""
    classes = {f"person{index}": 1 for index in range(20)}
    write_folder(working_folder / "photos", classes)
    line = refused(
        "--dataset=./photos", "--train_split=train", "--eval_split=test", "--mode=train_then_eval"
    )
    assert "test: 0" in line


def test_fine_tuning_without_labels(refused: Callable[..., str], working_folder: Path) -> None:
    write_folder(working_folder / "photos", {"": 20})
    line = refused("--dataset=./photos", "--train_split=train", "--train_mode=finetune")
    assert "no labels" in line and "one folder per class" in line


def test_fine_tuning_on_one_class(refused: Callable[..., str], working_folder: Path) -> None:
    write_folder(working_folder / "photos", {"cats": 20})
    line = refused("--dataset=./photos", "--train_split=train", "--train_mode=finetune")
    assert "two classes or more" in line


def test_block_that_the_encoder_lacks(refused: Callable[..., str]) -> None:
    line = refused("--train_mode=finetune", "--fine_tune_after_block=4")
    assert "received: 4" in line and "stage1" in line


def test_batch_larger_than_the_data(refused: Callable[..., str]) -> None:
    line = refused("--train_batch_size=65", "--model_dir=run")
    assert "at most 64" in line and "--train_batch_size" in line
    assert not os.path.exists("run"), "the folder would refuse the smaller batch that is asked for"


@pytest.mark.parametrize(
    "mode, train_mode, replicas",
    [("train", "pretrain", 1), ("train", "finetune", 2), ("train_then_eval", "finetune", 1)],
)
def test_labels_outside_the_classes(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    train_mode: str,
    replicas: int,
) -> None:
    """As with a TFDS data set whose records say more than its description."""
    from simclr_tf.datasets import InMemorySource
    from simclr_tf.runs import data
    from simclr_tf.runs import run as train

    images = np.random.RandomState(0).randint(0, 256, (32, 8, 8, 3)).astype("uint8")

    def source(dataset: str, split: str, **_: Any) -> InMemorySource:
        labels = np.arange(32) % 4
        labels[5] = 3 if mode == "train_then_eval" and split.startswith("train") else 4
        description = {"name": "pets", "split": split, "num_classes": 4}
        return InMemorySource(images, labels, **description)

    monkeypatch.setattr(data, "open_source", source)
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
        monkeypatch.setattr(train, "make_strategy", lambda *_, **__: strategy)
    line = refused("--dataset=pets", f"--mode={mode}", f"--train_mode={train_mode}",
                   "--model_dir=run", begun=True)  # fmt: skip
    assert "labels in [0, 4)" in line


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
