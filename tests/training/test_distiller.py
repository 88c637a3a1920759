"""Distillation: the loss as the paper writes it, the student as a Keras model, the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_models import batch, comparable, dataset, small_encoder
from tiny_runs import (
    OFTEN,
    ONE_STEP,
    TINY,
    TUNE,
    assert_same_weights,
    command,
    finish,
    process,
    results,
    rows,
    weights,
    working_folder,
    write_folder,
)

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.errors import UserError
from simclr_tf.features.exported import ExportedModel, find_export
from simclr_tf.features.teacher import Teacher, load_teacher
from simclr_tf.run import main
from simclr_tf.runs.callbacks import Checkpoints
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller, distillation_loss
from tf_hub_export import export_saved_model
from tf_hub_export.sources import load_model

__all__ = ["command", "working_folder"]  # fixtures

DISTILL = ["--train_mode=distill", "--encoder=mlp:8", "--optimizer=momentum"]
NAMES = {"distill_loss", "teacher_agreement", "weight_decay", "total_loss", "learning_rate"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model_dir of a fine-tuned teacher, wider than its students."""
    folder = tmp_path_factory.mktemp("taught") / "teacher"
    arguments = [*TINY, *TUNE, "--encoder=mlp:32", "--train_steps=20", "--mode=train_then_eval"]
    assert main(["simclr-tf", *arguments, f"--model_dir={folder}"]) == 0
    return folder


def equations(
    teacher: np.ndarray,
    student: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    alpha: float,
) -> float:
    """SimCLRv2's equations 2 and 3 as loops, over the number of images; a label of -1 is none."""

    def log_probability(logits: np.ndarray, y: int, tau: float) -> float:
        scaled = [float(value) / tau for value in logits]
        top = max(scaled)
        return scaled[y] - top - np.log(sum(np.exp(s - top) for s in scaled))

    total = 0.0
    for x in range(len(teacher)):
        for y in range(teacher.shape[1]):
            p = np.exp(log_probability(teacher[x], y, temperature))
            total -= alpha * p * log_probability(student[x], y, temperature)
        if labels[x] >= 0:
            total -= (1 - alpha) * log_probability(student[x], labels[x], 1.0)
    return total / len(teacher)


def student(**settings: Any) -> Distiller:
    teacher = Classifier(small_encoder(), 3)
    defaults = {"encoder": small_encoder(), "num_classes": 3, "teacher": teacher}
    return Distiller(**{**defaults, **settings})


# The loss.


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_loss_is_equation_2(temperature: float) -> None:
    random = np.random.RandomState(0)
    teacher, logits = 3 * random.standard_normal((2, 6, 5)).astype("float32")
    wanted = equations(teacher, logits, np.full(6, -1), temperature, alpha=1.0)
    assert float(distillation_loss(teacher, logits, temperature)) == pytest.approx(wanted, rel=1e-5)


def test_gradient_moves_the_student_towards_the_teacher_and_not_back() -> None:
    random = np.random.RandomState(1)
    teacher, logits = (tf.Variable(x) for x in random.standard_normal((2, 4, 3)))
    with tf.GradientTape() as tape:
        loss = distillation_loss(teacher, logits, 2.0)
    of_teacher, of_student = tape.gradient(loss, [teacher, logits])
    assert of_teacher is None
    gap = tf.nn.softmax(logits / 2) - tf.nn.softmax(teacher / 2)
    np.testing.assert_allclose(of_student, gap / 2 / 4, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("labels_weight", [0.0, 0.3, 1.0])
def test_a_step_minimises_equation_3(labels_weight: float) -> None:
    """Some images have no label; the linear head's gradient is that of the loops."""
    model = student(labels_weight=labels_weight, temperature=2.0)
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    images, labels = batch()
    labels[[0, 3, 4]] = -1
    floats = tf.constant(images / 255.0, tf.float32)
    teacher = np.asarray(model.teacher(floats, training=False))
    features = np.asarray(model.encoder(floats, training=True), np.float64)
    kernel, bias = (np.array(w, np.float64) for w in model.supervised_head.get_weights())

    def loss_at(kernel: np.ndarray) -> float:
        logits = features @ kernel + bias
        return equations(teacher, logits, labels, 2.0, alpha=1 - labels_weight)

    history = model.fit(images, labels, batch_size=8, shuffle=False, verbose=0).history
    assert history["total_loss"][0] == pytest.approx(loss_at(kernel), rel=1e-4)
    moved = np.asarray(model.supervised_head.kernel) - kernel
    for place in ((0, 0), (5, 1), (63, 2)):
        step = np.zeros_like(kernel)
        step[place] = 1e-4
        slope = (loss_at(kernel + step) - loss_at(kernel - step)) / 2e-4
        assert moved[place] == pytest.approx(-slope, rel=1e-2, abs=1e-5)
    known = labels >= 0
    hits = (features @ kernel + bias).argmax(1)[known] == labels[known]
    assert history["supervised_acc"][0] == pytest.approx(hits.mean())


# As a Keras model.


def test_student_learns_the_teacher_without_labels() -> None:
    keras.utils.set_random_seed(0)
    model = student(augment=SimCLRAugment(16, augmentations="crop,flip"))
    model.teacher.supervised_head.kernel.assign(
        np.random.RandomState(0).standard_normal((64, 3)) * 3
    )
    before = [np.array(w) for w in model.teacher.get_weights()]
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    history = model.fit(dataset(labelled=False), epochs=30, verbose=0).history
    assert set(history) - {"loss"} == NAMES
    assert history["distill_loss"][-1] < 0.9 * history["distill_loss"][0]
    for was, now in zip(before, model.teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    found = model.evaluate(dataset(labelled=False), verbose=0, return_dict=True)
    images = tf.constant(batch(16)[0] / 255.0, tf.float32)
    same = model.predict(images, verbose=0).argmax(1) == np.argmax(
        model.teacher(images, training=False), 1
    )
    assert found["teacher_agreement"] == pytest.approx(same.mean())
    assert "label_top_1_accuracy" in model.evaluate(dataset(), verbose=0, return_dict=True)


def test_teacher_is_no_part_of_the_student(tmp_path: Path) -> None:
    model = student(temperature=2.0, labels_weight=0.5)
    alone = Classifier(small_encoder(), 3)
    assert len(model.weights) == len(alone.weights)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.fit(dataset(), verbose=0)
    model.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    images = batch()[0]
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
    )
    assert comparable(loaded.get_config()) == comparable(model.get_config())
    loaded.evaluate(dataset(), verbose=0)  # labels need no teacher
    for call in (loaded.fit, loaded.evaluate):
        with pytest.raises(UserError, match="Set distiller.teacher"):
            call(dataset(labelled=False), verbose=0)
    loaded.teacher = model.teacher
    loaded.fit(dataset(), verbose=0)
    assert len(loaded.weights) == len(alone.weights)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 0.0}, "temperature > 0"),
        ({"labels_weight": 1.5}, r"labels_weight in \[0, 1\]"),
        ({"labels_weight": -0.1}, r"labels_weight in \[0, 1\]"),
    ],
)
def test_wrong_settings(settings: dict[str, float], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        student(**settings)


def test_labels_that_are_missing_or_wrong() -> None:
    model = student(labels_weight=0.5)
    model.compile(optimizer="sgd")
    with pytest.raises(UserError, match="images alone"):
        model.fit(dataset(labelled=False), verbose=0)
    images, labels = batch()
    with pytest.raises(UserError, match=r"labels in \[-1, 3\)"):
        model.fit(images, labels - 2, verbose=0)
    with pytest.raises(UserError, match=r"labels in \[0, 3\)"):
        model.evaluate(images, labels - 1, verbose=0)


def test_replicas_equal_one_device(strategy: tf.distribute.Strategy, tmp_path: Path) -> None:
    """The teacher comes from a file, loaded under the strategy."""
    export_saved_model(Classifier(small_encoder(), 3), str(tmp_path / "teacher"), image_size=16)
    images, labels = batch(8)
    labels[:3] = -1
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    encoder = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Conv2D(8, 3, 2), keras.layers.Flatten()]
    )
    start = encoder.get_weights()
    found = []
    for scope in (tf.distribute.get_strategy(), strategy):
        with scope.scope():
            copy = keras.models.clone_model(encoder)
            teacher = load_teacher(str(tmp_path / "teacher"), 16)
            model = Distiller(copy, 3, teacher, labels_weight=0.4, zero_init_logits_layer=True)
            model.compile(optimizer=keras.optimizers.SGD(0.1))
        copy.set_weights(start)
        history = model.fit(data, epochs=3, verbose=0).history
        found.append((model.get_weights(), history["total_loss"][-1]))
    for one, two in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


# Teachers in files.


def test_newest_export_of_a_run_is_found(tmp_path: Path, taught: Path) -> None:
    assert find_export(str(taught)) == str(taught / "saved_model" / "20")
    exports = tmp_path / "run" / "saved_model"
    for name in ("9", "10", "11", "notes"):
        (exports / name).mkdir(parents=True)
        if name != "11":  # half-written
            (exports / name / "saved_model.pb").touch()
    assert find_export(str(tmp_path / "run")) == str(exports / "10")
    assert find_export(str(exports / "9")) == str(exports / "9")


def test_teacher_gives_the_exported_logits(tmp_path: Path) -> None:
    classifier = Classifier(small_encoder(), 3)
    export_saved_model(classifier, str(tmp_path / "module"), image_size=16)
    images = tf.constant(batch()[0] / 255.0, tf.float32)
    teacher = load_teacher(str(tmp_path / "module"), image_size=16)
    assert isinstance(teacher, Teacher) and teacher.num_classes == 3
    np.testing.assert_allclose(teacher(images), classifier(images), rtol=1e-4, atol=1e-5)
    # Shown images of another size, it sees them at its own.
    assert teacher.exported.image_size == (16, 16)
    small = tf.image.resize(images, (12, 12))
    wanted = classifier(tf.image.resize(small, (16, 16)))
    np.testing.assert_allclose(teacher(small), wanted, rtol=1e-4, atol=1e-5)


def test_exports_of_others_are_used_without_a_card(tmp_path: Path) -> None:
    class Release(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([], bool)]
        )
        def __call__(self, inputs, trainable=False):  # type: ignore[no-untyped-def]
            return {"logits_sup": tf.reduce_mean(inputs, [1, 2]), "final_avg_pool": inputs[:, 0, 0]}

    class Other(tf.Module):
        pass

    tf.saved_model.save(Release(), str(tmp_path / "release"))
    assert load_teacher(str(tmp_path / "release"), 20).num_classes == 3
    assert ExportedModel(str(tmp_path / "release")).image_size is None
    tf.saved_model.save(Other(), str(tmp_path / "other"))
    with pytest.raises(UserError, match="can't be called"):
        load_teacher(str(tmp_path / "other"), 20)


# The command.


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


def test_student_sees_the_labels_that_its_teacher_saw(
    command: Callable[..., str], working_folder: Path
) -> None:
    few = [*ONE_STEP, "--label_fraction=0.25"]
    command(*TUNE, *few, "--mode=train_then_eval", "--model_dir=first")
    command(*DISTILL, *few, "--distill_labels_weight=0.5", "--teacher=first", "--seed=5",
            "--model_dir=second")  # fmt: skip
    seen, shown = (Path(run, "labelled_images.csv").read_text() for run in ("first", "second"))
    assert seen == shown and len(seen.splitlines()) == 18


def test_images_without_labels(
    command: Callable[..., str], taught: Path, working_folder: Path
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
        command("--nolineareval_while_pretraining", *ONE_STEP, "--model_dir=pretrained",
                "--mode=train_then_eval")  # fmt: skip
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
        ["--mixed_precision=bfloat16", "--fine_tune_after_block=0"]
        + ["--ft_proj_selector=1", "--zero_init_logits_layer"],
        ["--mixed_precision=float16"],
        ["--jit_compile"],
        ["--augment_on=host", "--augmentations=crop,flip", "--optimizer=lars"]
        + ["--weight_decay=1e-4"],
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
