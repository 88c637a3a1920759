"""One picture, one set of features, whatever its type; and labels that say what they mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_inputs import CLASSES, batch, compiled, data_set, encoder, identity

from simclr_tf.augment.layer import SimCLRAugment, host_views
from simclr_tf.datasets.canvas import resize_to_uint8, to_uint8
from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.datasets.user import source_from_dataset
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training import labels
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR

TAKEN = {
    "uint8": lambda x: x,
    "uint16": lambda x: x.astype("uint16") * 257,
    "float16": lambda x: (x / 255).astype("float16"),
    "float32": lambda x: (x / 255).astype("float32"),
    "float64": lambda x: x / 255,
}


@pytest.fixture(scope="module")
def model() -> Classifier:
    return compiled(Classifier(encoder(), CLASSES, augment=identity))


def shared_out(kinds: Iterable[str], both: tuple[str, ...] = ()) -> list[Any]:
    """Kinds that one rule treats alike: each lane has every second one, through all calls."""
    lanes = itertools.cycle((pytest.mark.one_lane, pytest.mark.second_lane))
    return [pytest.param(kind, marks=() if kind in both else next(lanes)) for kind in kinds]


@pytest.mark.parametrize("kind", shared_out(TAKEN, both=("float32",)))
def test_the_same_picture_gives_the_same_features(model: Classifier, kind: str) -> None:
    images, ids = batch()
    same = TAKEN[kind](images)
    tolerance = 1e-2 if kind == "float16" else 1e-5
    expected = model.predict(images, verbose=0)
    for found in (
        model.predict(same, verbose=0),
        model.predict(data_set(same), verbose=0),
        np.asarray(model(same)),
        model.predict_on_batch(same),
    ):
        np.testing.assert_allclose(found, expected, atol=tolerance)
    losses = [model.evaluate(x, ids, verbose=0, return_dict=True) for x in (images, same)]
    assert losses[0] == pytest.approx(losses[1], abs=tolerance)
    views = [SimCLRAugment(4)(x, seed=tf.constant([0, 1])) for x in (images, same)]
    np.testing.assert_allclose(views[1], views[0], atol=tolerance)
    views = [host_views(x[0], [0, 1], image_size=4)[0] for x in (images, same)]
    np.testing.assert_allclose(views[1], views[0], atol=tolerance)
    for convert in (to_uint8, lambda x: resize_to_uint8(x, 2)):
        pairs = [np.int32(convert(tf.constant(x))) for x in (images, same)]
        assert abs(pairs[0] - pairs[1]).max() <= 1


@pytest.mark.parametrize(
    "kind", shared_out(["int8", "int16", "int32", "int64", "uint32", "bool", "complex64"])
)
def test_other_types_are_refused_by_name(model: Classifier, kind: str) -> None:
    images, ids = batch()
    wrong = images.astype(kind)
    for call in (
        lambda: model.fit(wrong, ids, verbose=0),
        lambda: model.fit(data_set(wrong, ids), verbose=0),
        lambda: model.fit(iter([(wrong, ids)]), verbose=0),
        lambda: model.evaluate(wrong, ids, verbose=0),
        lambda: model.predict(wrong, verbose=0),
        lambda: model.predict(data_set(wrong), verbose=0),
        lambda: model(wrong),
        lambda: SimCLRAugment(4)(wrong),
        lambda: host_views(wrong[0], [0, 1], image_size=4),
        lambda: InMemorySource(wrong, None, name="a", split="train"),
    ):
        with pytest.raises(UserError, match=f"received: {kind}") as caught:
            call()
        assert "\n" not in str(caught.value)


WRONG = {
    "bytes": (lambda x: np.float32(x), "255.0"),
    "symmetric": (lambda x: np.float32(x) / 127.5 - 1, "below 0"),
    "nan": (lambda x: np.where(x == x[0, 0, 0, 0], np.nan, x / 255), "not a number"),
    "infinite": (lambda x: np.where(x == x[0, 0, 0, 0], np.inf, x / 255), "up to inf"),
}


@pytest.mark.parametrize("kind", shared_out(WRONG))
def test_floats_out_of_range_are_refused(model: Classifier, kind: str) -> None:
    images, ids = batch()
    change, words = WRONG[kind]
    wrong = change(images).astype("float32")
    single = tf.data.Dataset.from_tensor_slices(wrong)
    for call in (
        lambda: model.fit(wrong, ids, verbose=0),
        lambda: model.fit(data_set(wrong, ids), verbose=0),
        lambda: model.fit(iter([(wrong, ids)]), verbose=0),
        lambda: model.evaluate(data_set(wrong, ids), verbose=0),
        lambda: model.predict(data_set(wrong), verbose=0),
        lambda: model(wrong),
        lambda: SimCLRAugment(4)(wrong),
        lambda: host_views(wrong[0], [0, 1], image_size=4),
        lambda: InMemorySource(wrong, None, name="a", split="train"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    # In a pipeline that would clip them, TensorFlow's own error around the same words.
    source = source_from_dataset(single)
    for data in (
        evaluation_dataset(source, batch_size=4, image_size=2),
        single.map(lambda image: host_views(image, [0, 1], image_size=4)),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            list(data)


def test_overshoot_passes_and_any_values_on_request() -> None:
    images, ids = batch()
    edges = (images > 127).astype("float32")
    resized = tf.image.resize(edges, (7, 7), "bicubic").numpy()[:, :4, :4]
    assert resized.max() > 1.01 and resized.min() < -0.01
    for settings, data in (({}, resized), ({"value_range": None}, images * 9.0 - 70)):
        made = compiled(Classifier(encoder(), CLASSES, augment=identity, **settings))
        made.fit(data, ids, verbose=0)
        loaded = Classifier.from_config({**made.get_config(), "augment": None})
        assert loaded.value_range == made.value_range
        assert np.isfinite(made.predict(data, verbose=0)).all()
    with pytest.raises(UserError, match="not a number"):
        made.predict(images * np.nan, verbose=0)
    with pytest.raises(UserError, match=r"value_range within \(0.0, 1.0\)"):
        Classifier(encoder(), CLASSES, augment=SimCLRAugment(4), value_range=None)
    with pytest.raises(UserError, match="lowest, highest"):
        Classifier(encoder(), CLASSES, value_range=(1.0, 0.0))


EYE = np.eye(CLASSES)[[0, 2, 1, 0]]
SOFT = 0.7 * EYE + 0.1
RIGHT = [
    np.array([0, 2, 1, 0]), np.array([[0], [2], [1], [0]]), np.array([0.0, 2, 1, 0]),
    EYE, EYE.astype(int), EYE.astype(bool), SOFT, SOFT.astype("float16"),
]  # fmt: skip
BAD = [
    np.array([0, 3, 1, 0]), np.array([0, -1, 1, 0]), np.array([0, 0.5, 1, 0]),
    np.array([0, np.nan, 1, 0]), EYE + np.eye(4, 3, -1)[[0, 1, 0, 0]],
    EYE * [[1], [0], [1], [1]], EYE * [[1], [2], [1], [1]], EYE * [[1], [np.nan], [1], [1]],
    SOFT - [[0], [0.5], [0], [0]], np.array([[0], [5], [1], [0]]),
    np.where(np.arange(4)[:, None] == 1, [1.5, -0.5, 0.0], EYE),
]  # fmt: skip


@pytest.mark.parametrize("given", [*RIGHT, *BAD], ids=range(len(RIGHT) + len(BAD)))
def test_labels_in_arrays_and_in_data_sets(given: Any) -> None:
    rule = labels.LabelRule(CLASSES)
    data = tf.data.Dataset.from_tensors(given).map(lambda x: labels.checked(x, rule))
    if any(given is one for one in RIGHT):
        labels.check_labels(given, rule)
        assert labels.class_ids(next(iter(data)), CLASSES).numpy().tolist() == [0, 2, 1, 0]
        return
    with pytest.raises(UserError, match="row 1"):
        labels.check_labels(given, rule)
    with pytest.raises(tf.errors.InvalidArgumentError, match="row 1 of a batch"):
        list(data)


@pytest.mark.parametrize("given", [np.zeros((4, 5)), np.zeros((4, 3, 1)), np.array(list("abcd"))])
def test_labels_of_another_form(model: Classifier, given: Any) -> None:
    images, _ = batch(4)
    for data in ((images, given), (data_set(images, given),)):
        for call in (model.fit, model.evaluate):
            with pytest.raises(UserError, match="Expected labels"):
                call(*data, verbose=0)


def test_soft_labels_train_by_cross_entropy() -> None:
    """Against the sum written out; accuracy counts the largest probability."""
    images, _ = batch(4)
    made = compiled(Classifier(encoder(), CLASSES))
    logits = made.predict(images, verbose=0)
    expected = -(SOFT * np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))).sum(1).mean()
    accuracy = (logits.argmax(1) == SOFT.argmax(1)).mean()
    results = made.evaluate(images, SOFT, verbose=0, return_dict=True)
    assert results["supervised_loss"] == pytest.approx(expected, rel=1e-4)
    assert results["label_top_1_accuracy"] == pytest.approx(accuracy)
    history = made.fit(images, SOFT, verbose=0).history
    assert history["supervised_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert history["supervised_acc"][0] == pytest.approx(accuracy)


def test_value_range_of_a_pipeline_of_any_float_type() -> None:
    for kind in (tf.float16, tf.bfloat16, tf.float64):
        data = tf.data.Dataset.from_tensors(tf.cast(tf.fill([2, 2], 7.0), kind))
        with pytest.raises(tf.errors.InvalidArgumentError, match="up to 7"):
            list(data.map(pixel_values.checked))
        none = tf.data.Dataset.from_tensors(tf.zeros([0, 2], kind)).map(pixel_values.checked)
        assert next(iter(none)).shape == (0, 2)


def test_policy_does_not_hide_the_type() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        made = Classifier(encoder(), CLASSES)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    images, _ = batch()
    with pytest.raises(UserError, match="255"):
        made(np.float32(images))


def test_soft_and_one_hot_labels_of_the_online_head_and_of_a_student() -> None:
    """A row of probabilities that is one-hot is the class id; -1 stays "no label"."""
    images, _ = batch(4)
    ids = np.array([0, 2, 1, 0])

    def teacher(x: tf.Tensor) -> tf.Tensor:
        return tf.zeros([tf.shape(x)[0], CLASSES])

    for make in (
        lambda: SimCLR(
            encoder(), ProjectionHead(out_dim=4, num_layers=1), identity, num_classes=CLASSES
        ),
        lambda: Distiller(encoder(), CLASSES, teacher, labels_weight=0.5),
    ):
        biases = []
        for given in (ids, EYE, EYE.astype(int), SOFT):
            keras.utils.set_random_seed(0)
            model = compiled(make())
            model.fit(images, given, verbose=0, shuffle=False)
            biases.append(np.asarray(model.supervised_head.bias))
        np.testing.assert_allclose(biases[1:3], biases[:1] * 2, rtol=1e-4, atol=1e-7)
        assert abs(biases[3] - biases[0]).max() > 1e-5
    student = compiled(Distiller(encoder(), CLASSES, teacher, labels_weight=0.5))
    student.fit(images, np.array([0, -1, 1, -1]), verbose=0)
    with pytest.raises(UserError, match=r"labels in \[-1, 3\).*row 2"):
        student.fit(images, np.array([0, -1, -2, 1]), verbose=0)
