"""Distillation: the loss as the paper writes it, the student as a Keras model, its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_models import batch, comparable, dataset, small_encoder

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.errors import UserError
from simclr_tf.features.exported import ExportedModel
from simclr_tf.features.teacher import Teacher, load_teacher
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller, distillation_loss
from tf_hub_export import export_saved_model

NAMES = {"distill_loss", "teacher_agreement", "weight_decay", "total_loss", "learning_rate"}


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
    model.compile(optimizer=keras.optimizers.SGD(1.0), run_eagerly=True)
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
    assert set(history) - {"loss", "gradient_norm"} == NAMES
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
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
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


# `test_replicas` has a distiller's step on the other lane.
@pytest.mark.one_lane
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
            # One device's steps as Python runs them: to trace them takes longer.
            model.compile(keras.optimizers.SGD(0.1), run_eagerly=scope is not strategy)
        copy.set_weights(start)
        history = model.fit(data, epochs=3, verbose=0).history
        found.append((model.get_weights(), history["total_loss"][-1]))
    for one, two in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


# Teachers in files.


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
