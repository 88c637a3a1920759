"""Every flag that the other commands leave out, in a run that must end well; replicas and workers.

Runs take a second or two: a tiny network on 8-pixel digits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from tiny_runs import (
    OFTEN,
    TUNE,
    Command,
    command,
    finish,
    no_exports,
    process,
    results,
    rows,
    working_folder,
)

from simclr_tf.config import Config

__all__ = ["command", "no_exports", "working_folder"]  # fixtures
pytestmark = pytest.mark.usefixtures("half_as_deep")


COMMANDS = {
    "settings of the loss": ["--optimizer=lars", "--learning_rate_scaling=sqrt",
                             "--warmup_epochs=1", "--momentum=0.8", "--temperature=0.5",
                             "--nohidden_norm", "--batch_norm_decay=0.99", "--global_bn=False",
                             "--cache_dataset", "--color_jitter_strength=0.5", "--brightness=v1",
                             "--augmentations=crop,flip,color", "--on_bad_image=skip",
                             "--clip_gradients=0.5", "--gray_probability=0.1",
                             "--proj_hidden_dim=12", "--on_nan=skip", "--deterministic"],
    "memory, triplets": ["--loss=margin_triplet", "--margin=0.5", "--negatives=semi_hard",
                         "--similarity=euclidean", "--memory_size=20", "--memory_momentum=0.9",
                         "--mode=train_then_eval"],
    "labels in the loss alone": [
        "--loss=supcon", "--nolineareval_while_pretraining", "--data_dir=.", "--encoder=mlp",
        "--mlp_layers=12,10", "--augmentations=padded_crop,flip", "--optimizer=momentum",
        "--learning_rate=0.01", "--weight_decay=1e-4", "--strategy=one_device"],
    "weighted pairs, weights of classes": [
        "--loss=dclw", "--dclw_sigma=0.4", "--class_balance=weight", "--imbalance=4",
        "--weight_penalty=decoupled", "--optimizer=adam", "--weight_decay=0.1"],
    "hard negatives, no projection": [
        "--loss=hcl", "--positive_prior=0.05", "--hard_negative_beta=0.5", "--image_size=40",
        "--proj_head_mode=none", "--mode=train_then_eval"],
    "a prior, pruning": [
        "--loss=generalized", "--prior=normal", "--prior_weight=2", "--prune=0.5",
        "--prune_begin=0", "--prune_end=0.9", "--prune_interval=1", "--optimizer=momentum",
        "--mode=train_then_eval"],
    "few and unequal labels": [*TUNE, "--imbalance=10", "--class_balance=sample",
                               "--head_dropout=0.2", "--label_smoothing=0.1",
                               "--weight_penalty=smooth_l1", "--optimizer=momentum",
                               "--weight_decay=1e-4", "--mode=train_then_eval"],
    "adam": ["--optimizer=adam", "--learning_rate=0.001", "--train_epochs=1", "--train_steps=0",
             "--checkpoint_steps=0", "--checkpoint_epochs=1"],
    "lamb": ["--optimizer=lamb", "--learning_rate=0.001", "--loggers=none"],
    "micro-batches, linear projection": [
        "--micro_batch_size=2", "--lineareval_loss_weight=0.1", "--loss=info_nce",
        "--lineareval_batch_norm", "--proj_head_mode=linear", "--mode=train_then_eval",
        "--augmentations=crop,noise,sobel,rotate,affine,cutout,solarize"],
    "bfloat16": ["--mixed_precision=bfloat16", "--mode=train_then_eval"],
    "float16": ["--mixed_precision=float16", "--mode=train_then_eval", "--optimizer=adam",
                "--learning_rate=0.001"],
    # test_simclr_devices compiles every view and compares; test_compiled_views those of processors.
    "XLA": ["--jit_compile", "--augmentations=crop,flip"],
    "compiled views": ["--augment_jit_compile=on", "--augmentations=crop,flip,color"],
    "views on the host": ["--augment_on=host", "--transparent=black",
                          "--augmentations=crop,flip,color,blur",
                          "--crop_area_min=0.2", "--mode=train_then_eval"],
    "fine-tuning, views on the host": [*TUNE, "--augment_on=host", "--label_fraction=0.25",
                                       "--label_seed=3", "--train_batch_size=4",
                                       "--mode=train_then_eval"],
    "ResNet": ["--encoder=resnet", "--resnet_depth=18", "--width_multiplier=0.125",
               "--resnet_stem=imagenet", "--sk_ratio=0.0625", "--se_ratio=0.25",
               "--train_steps=1"],
    "keras.applications": ["--encoder=keras.applications.MobileNet", "--image_size=32",
                           "--optimizer=momentum", "--train_steps=1"],
}  # fmt: skip


# Our own arithmetic on arrays, or a part that its own tests train and compare on both lanes.
OWN = ("labels in the loss alone", "weighted pairs, weights of classes",
       "hard negatives, no projection", "a prior, pruning", "settings of the loss",
       "micro-batches, linear projection", "compiled views", "views on the host", "ResNet",
       "keras.applications", "memory, triplets")  # fmt: skip


# Like cases, by halves: test_distill_command compiles and rounds on the other lane.
FIRST = ("lamb", "bfloat16", "float16", "XLA")
SECOND = ("adam", "few and unequal labels", "fine-tuning, views on the host")

# Cases whose model is exported like no other's: the others' exports are left out.
EXPORTED = ("hard negatives, no projection", "micro-batches, linear projection", "bfloat16",
            "float16")  # fmt: skip


def marked(name: str) -> Any:
    if name in (*OWN, *FIRST):
        return pytest.param(name, marks=pytest.mark.one_lane)
    return pytest.param(name, marks=pytest.mark.second_lane) if name in SECOND else name


@pytest.mark.slow
@pytest.mark.parametrize("name", map(marked, COMMANDS))
def test_settings_run_to_the_end(
    command: Command, working_folder: Path, request: pytest.FixtureRequest, name: str
) -> None:
    if name not in EXPORTED:
        request.getfixturevalue("no_exports")
    command("--model_dir=run", "--train_steps=2", *COMMANDS[name])
    (*_, last) = rows(working_folder / "run")
    assert all(math.isfinite(value) for value in last.values()), last
    assert list((working_folder / "run").glob("ckpt-*.index"))
    if "--mode=train_then_eval" in COMMANDS[name]:
        assert all(math.isfinite(v) for v in results(working_folder / "run").values())


@pytest.mark.second_lane  # test_replicas compares steps on both lanes
@pytest.mark.slow
def test_two_replicas_equal_one(command: Command, no_exports: None, working_folder: Path) -> None:
    """Two processors with half the batch each learn the same, and evaluate uneven batches."""
    # Views of the host: on a device each replica draws its own.
    arguments = [*OFTEN, "--augment_on=host", "--mode=train_then_eval", "--eval_batch_size=15",
                 "--online_eval=always"]  # fmt: skip
    replicas = ["--cpu_replicas=2", "--strategy=mirrored", "--model_dir=two"]
    started = process(*arguments, *replicas, wait=False)
    command(*arguments, "--model_dir=one")
    assert "2 replica(s)" in finish(started)
    one, two = working_folder / "one", working_folder / "two"
    ours, theirs = rows(two), rows(one)
    assert len(ours) == len(theirs) == 6
    for step, expected in zip(ours, theirs, strict=True):
        assert step == pytest.approx(expected, rel=1e-3, abs=1e-5)
    measured = (rows(run, "online_evaluation.csv") for run in (two, one))
    for step, expected in zip(*measured, strict=True):
        assert step == pytest.approx(expected, rel=1e-2, abs=0.1)
    assert results(two) == pytest.approx(results(one), rel=1e-3, abs=1e-5)
    assert results(two)["global_step"] == 6
    before = results(two)
    again = process(*arguments, *replicas, wait=False)
    assert "Already trained to step 6 of 6" in finish(again)
    assert results(two) == pytest.approx(before, rel=1e-5)


def test_steps_that_float16_skips_count(
    command: Command, no_exports: None, working_folder: Path
) -> None:
    """Every step overflows: none moves a weight, all are trained, numbered, evaluated."""
    overflow = ["--mixed_precision=float16", "--temperature=1e-9", "--learning_rate_scaling=linear",
                *OFTEN, "--model_dir=run"]  # fmt: skip
    command(*overflow, "--mode=train")
    folder = working_folder / "run"
    found = sorted(int(path.stem.split("-")[1]) for path in folder.glob("ckpt-*.index"))
    assert found == [4, 6]
    first, last = (
        load_values(folder / f"ckpt-{step}", "kernel/.ATTRIBUTES/VARIABLE_VALUE") for step in found
    )
    assert first and all(np.array_equal(first[name], last[name]) for name in first)
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4, 5, 6]
    rates = [row["learning_rate"] for row in rows(folder)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 6
    assert "Already trained to step 6 of 6" in command(*overflow, "--mode=train_then_eval")
    assert results(folder)["global_step"] == 6
    assert "Step 6 is the last of 6" in command(*overflow, "--mode=eval")


def load_values(prefix: Path, ending: str) -> dict[str, np.ndarray]:
    """Returns the model's values in a checkpoint whose names end so."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = [n for n in reader.get_variable_to_shape_map() if n.endswith(ending)]
    return {name: reader.get_tensor(name) for name in names if name.startswith("model/")}


@pytest.mark.second_lane  # both lanes train with several
@pytest.mark.slow
def test_one_of_one_worker(working_folder: Path) -> None:
    """--strategy=multiworker, with a cluster of one."""
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    description = {
        "cluster": {"worker": [f"localhost:{port}"]},
        "task": {"type": "worker", "index": 0},
    }
    process(
        "--strategy=multiworker", "--mode=train_then_eval", "--model_dir=run", "--train_steps=2",
        TF_CONFIG=json.dumps(description),
    )  # fmt: skip
    assert results(working_folder / "run")["global_step"] == 2


# Flags that no command of these files uses, and why.
UNUSED = {
    "use_tpu": "needs a TPU",
    "tpu_name": "needs a TPU",
    "tpu_zone": "needs a TPU",
    "gcp_project": "needs a TPU",
    "master": "needs a TPU",
}


@pytest.mark.one_lane
def test_every_flag_is_used_by_a_command_here() -> None:
    here = Path(__file__)
    others = ("command_line", "kinds_of_data", "own_lists", "dry_run", "workers")
    beside = (here.with_name(f"test_{name}.py") for name in others)
    monitoring = here.parents[1] / "runs" / "test_monitoring.py"
    files = (here, *beside, Path(tiny_runs.__file__), monitoring)
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    used = set(re.findall(r'"--([a-z0-9_]+)[="]', text))
    known = {field.name for field in dataclasses.fields(Config)}
    switched_off = {name.removeprefix("no") for name in used if name.startswith("no")}
    used |= switched_off & known
    assert known - used == set(UNUSED), "flags that are unused, or used but listed as unused"
    spelled = re.findall(r'f?"--([a-z0-9_]+)[="]', text)
    assert {name for name in spelled if name not in known} <= {
        f"no{name}" for name in switched_off
    }, "a command here uses a flag that does not exist"
