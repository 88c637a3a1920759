"""The command on a share of the labels: which images, the list that is kept, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import ONE_STEP, TUNE, command, results, working_folder, write_folder

from simclr_tf.datasets import open_source
from simclr_tf.datasets.labelled import LIST_FILE, choose_labelled

pytestmark = pytest.mark.one_lane  # data and plans; what Keras makes of them is asked elsewhere

__all__ = ["command", "working_folder"]  # fixtures

FEW = [*TUNE, *ONE_STEP, "--label_fraction=0.25", "--train_batch_size=4", "--model_dir=run"]


@pytest.mark.one_lane
def test_fine_tuning_on_a_share_of_the_labels(
    command: Callable[..., str], working_folder: Path
) -> None:
    said = command(*FEW, "--mode=train_then_eval", "--label_seed=3")
    listed = working_folder / "run" / LIST_FILE
    assert "labels of 17 of 64 images" in said and str(listed.relative_to(working_folder)) in said
    assert "Training on 17 images" in said
    before = listed.read_bytes()
    card = json.loads((working_folder / "run/saved_model/1/model.json").read_text())
    assert "label_fraction 0.25, 17 images" in card["data_set"]
    labels = open_source("mnist_5k", "train[:64]").read_labels()
    with open(listed, newline="") as file:
        chosen = [int(row["position"]) for row in csv.DictReader(file)]
    np.testing.assert_array_equal(chosen, choose_labelled(labels, 0.25, 3))

    said = command(*FEW, "--label_seed=3", "--train_steps=3")
    assert "at step 1" in said and listed.read_bytes() == before
    said = command("--mode=eval", "--model_dir=run", defaults=[])
    assert "Step 3 is the last of 3" in said
    assert results(working_folder / "run")["global_step"] == 3

    listed.write_text(before.decode().replace("\n", "\n0,,99,\n", 1))
    assert "another label" in command(*FEW, "--label_seed=3", "--train_steps=4", code=2)
    assert "label_seed (3 there, 0 now)" in command(*FEW, code=2)


@pytest.mark.one_lane
def test_a_head_that_has_seen_every_label_is_named(
    command: Callable[..., str], working_folder: Path
) -> None:
    """Pretraining's online linear head learns from all labels: few-label figures would lie."""
    command(*ONE_STEP, "--model_dir=pretrained")
    few = [*FEW, "--checkpoint=pretrained", "--variable_schema=.*"]
    assert "--zero_init_logits_layer starts it afresh" in command(*few)
    for index, fresh in enumerate(("--zero_init_logits_layer", "--variable_schema=(?!head)")):
        said = command(*few, fresh, f"--model_dir=run{index}")
        assert "Starting from" in said and "afresh" not in said


@pytest.mark.one_lane
def test_a_list_of_ones_own_is_used(command: Callable[..., str], working_folder: Path) -> None:
    (working_folder / "run").mkdir()
    labels = open_source("mnist_5k", "train[:64]").read_labels()
    rows = "".join(f"{i},,{labels[i]},\n" for i in range(8))
    (working_folder / "run" / LIST_FILE).write_text("position,file,label,class\n" + rows)
    assert "labels of 8 of 64 images" in command(*FEW)


def test_batch_larger_than_the_share(command: Callable[..., str], working_folder: Path) -> None:
    said = command(*FEW, "--train_batch_size=32", code=2)
    assert "at most 17" in said and "label_fraction 0.25" in said
    assert not (working_folder / "run").exists()


def test_no_labels_to_take_a_share_of(command: Callable[..., str], working_folder: Path) -> None:
    write_folder(working_folder / "photos", {"": 24})
    assert "labelled data set" in command(*FEW, "--dataset=./photos", "--train_split=train", code=2)
