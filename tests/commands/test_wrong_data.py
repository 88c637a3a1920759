"""Data that a run can't use: one clear line, exit code 2, and every file as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from tiny_runs import working_folder, write_folder

pytestmark = pytest.mark.one_lane  # data and plans; what Keras makes of them is asked elsewhere

__all__ = ["refused", "working_folder"]  # fixtures


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
    write_folder(working_folder, {"": 1})
    assert "which is a file" in refused("--dataset=0.png")


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
