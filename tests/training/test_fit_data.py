"""What `fit`, `evaluate` and `predict` take in every form, and what they refuse in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_inputs import CLASSES, batch, compiled, data_set, encoder, identity
from tuned_data import tuned

from simclr_tf.errors import UserError
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training import padding
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR

__all__ = ["tuned"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """One model for all refusals: what is refused leaves it as it was."""
    return compiled(Classifier(encoder(), CLASSES, augment=identity))


@pytest.fixture(scope="module")
def simclr() -> SimCLR:
    return compiled(
        SimCLR(encoder(), ProjectionHead(out_dim=4, num_layers=1), identity, num_classes=CLASSES)
    )


class Batches(keras.utils.Sequence):
    """A user's sequence."""

    def __init__(self, images: Any, labels: Any = None, size: int = 4) -> None:
        super().__init__()
        self.parts, self.size = (images, labels), size

    def __len__(self) -> int:
        return len(self.parts[0]) // self.size

    def __getitem__(self, index: int) -> Any:
        rows = slice(index * self.size, (index + 1) * self.size)
        images, labels = self.parts
        return images[rows] if labels is None else (images[rows], labels[rows])


def generated(images: Any, labels: Any = None, size: int = 4) -> Iterator[Any]:
    batches = Batches(images, labels, size)
    return (batches[index] for index in range(len(batches)))


def flow(images: Any, labels: Any = None, size: int = 4) -> Any:
    generator = keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255)
    return generator.flow(images, labels, batch_size=size, shuffle=False)


FORMS: dict[str, Callable[..., Any]] = {
    "data set": data_set, "generator": generated, "sequence": Batches,
}  # fmt: skip


def test_data_whose_end_nobody_knows_are_no_reason_to_warn() -> None:
    """As `evaluation_dataset` gives them: how many images can be read shows at the end."""
    model = compiled(Classifier(encoder(), CLASSES, augment=identity))
    images, labels = batch()
    unknown = data_set(images, labels).filter(lambda image, label: True)
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.fit(unknown, validation_data=unknown, verbose=0)
        model.evaluate(unknown, verbose=0)
        assert len(model.predict(unknown, verbose=0)) == len(images)
    assert not [str(w.message) for w in warned if issubclass(w.category, UserWarning)]


class TestForms:
    @pytest.mark.parametrize("form", [*FORMS, "arrays", "tensors", "lists", "flow"])
    def test_every_form_trains_alike(self, form: str) -> None:
        """No batch is lost, none is seen twice: the weights are those of plain arrays."""
        images, labels = batch()
        images = images.astype("float32") / 255
        found = []
        for one in ("arrays", form):
            keras.utils.set_random_seed(0)
            model = compiled(Classifier(encoder(), CLASSES))
            if one in FORMS:
                data: Any = (FORMS[one](images, labels),)
            elif one == "flow":
                data = (flow(images * 255, labels),)
            else:
                convert = {"arrays": np.asarray, "tensors": tf.constant, "lists": list}[one]
                data = (convert(images), convert(labels))
            model.fit(*data, batch_size=4 if len(data) == 2 else None, shuffle=False, verbose=0)
            found.append(model.get_weights())
            assert int(model.optimizer.iterations.numpy()) == 2
            if one in FORMS and one != "generator":
                results = model.evaluate(*data, verbose=0, return_dict=True)
                expected = model.evaluate(images, labels, verbose=0, return_dict=True)
                assert results == pytest.approx(expected, rel=1e-4)
                assert model.predict(*data, verbose=0).shape == (8, CLASSES)
        for ours, plain in zip(found[1], found[0], strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("form", [*FORMS, "arrays"])
    def test_validation_data(self, form: str, classifier: Classifier) -> None:
        images, labels = batch()
        data = (images, labels) if form == "arrays" else FORMS[form](images, labels)
        history = classifier.fit(images, labels, validation_data=data, verbose=0).history
        assert "val_label_top_1_accuracy" in history
        wrong = (images, labels + 1) if form == "arrays" else FORMS[form](images, labels + 1)
        with pytest.raises(UserError, match=r"labels in \[0, 3\)"):
            classifier.fit(images, labels, validation_data=wrong, verbose=0)

    @pytest.mark.parametrize("form", FORMS)
    def test_a_later_batch_is_checked_too(self, form: str, classifier: Classifier) -> None:
        images, labels = batch()
        bad = labels.copy()
        bad[6] = 7
        for x, y, words in (
            (images, bad, r"labels in \[0, 3\).*row 2"),
            (np.float32(images) * (np.arange(8) > 5)[:, None, None, None], labels, "/ 255"),
        ):
            for call in (classifier.fit, classifier.evaluate):
                with pytest.raises(UserError, match=words) as caught:
                    call(FORMS[form](x, y), verbose=0)
                assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (lambda x, y: None, "received: nothing"),
            (lambda x, y: "photos", "builtins.str"),
            (lambda x, y: {"image": x, "label": y}, r"lambda d: \(d\['image'\], d\['label'\]\)"),
            (lambda x, y: data_set({"image": x, "label": y}), "dataset.map"),
            (lambda x, y: (x, y), "labels as y"),
            (lambda x, y: [x[0], x[0, :2]], "different sizes"),
            (lambda x, y: data_set(x, y).unbatch(), "dataset.batch"),
            (lambda x, y: data_set((x, y, y * 1.0)), "Sample weights are not supported"),
            (lambda x, y: iter([(x, y, y * 1.0)]), "Sample weights are not supported"),
            (lambda x, y: {1, 2}, "generator of NumPy batches"),
            (lambda x, y: iter([]), "at least one batch"),
        ],
    )  # fmt: skip
    def test_what_is_not_taken(self, classifier: Classifier, data: Any, words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            classifier.fit(data(*batch()), verbose=0)
        assert "\n" not in str(caught.value)


class TestNothingToTrainOn:
    @pytest.mark.parametrize(
        "data",
        [
            lambda x, y: data_set(x, y).take(0),
            lambda x, y: data_set(x, y).filter(lambda *_: False),
            lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(9, drop_remainder=True),
            lambda x, y: generated(x[:0], y[:0]),
            lambda x, y: Batches(x[:0], y[:0]),
        ],
        ids=["known", "unknown", "drop_remainder", "generator", "sequence"],
    )
    @pytest.mark.parametrize("call", ["fit", "evaluate", "predict", "validation"])
    def test_no_batch(self, classifier: Classifier, data: Any, call: str) -> None:
        images, labels = batch()
        with pytest.raises(UserError, match="at least one batch"):
            if call == "validation":
                validation = data(images, labels)
                classifier.fit(images, labels, validation_data=validation, verbose=0)
            else:
                getattr(classifier, call)(data(images, labels), verbose=0)

    def test_empty_arrays_and_no_steps(self, classifier: Classifier) -> None:
        images, labels = batch()
        for call in (classifier.fit, classifier.evaluate):
            with pytest.raises(UserError, match="at least one batch"):
                call(images[:0], labels[:0], verbose=0)
        with pytest.raises(UserError, match="at least one batch"):
            classifier.predict(images[:0], verbose=0)
        with pytest.raises(UserError, match="steps_per_epoch of at least 1"):
            classifier.fit(data_set(images, labels), steps_per_epoch=0, verbose=0)
        with pytest.raises(UserError, match="steps of at least 1"):
            classifier.evaluate(data_set(images, labels), steps=0, verbose=0)


class TestWhatAModelLacks:
    @pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
    def test_weights(self, classifier: Classifier, name: str) -> None:
        images, labels = batch()
        weights = {0: 1.0} if name == "class_weight" else np.ones(8)
        calls = ["fit", "train_on_batch"]
        calls += ["evaluate", "test_on_batch"] if name == "sample_weight" else []
        for call in calls:
            with pytest.raises(UserError, match=f"Expected no {name}"):
                getattr(classifier, call)(images, labels, **{name: weights})
        with pytest.raises(UserError, match="Sample weights"):
            classifier.fit(images, labels, validation_data=(images, labels, np.ones(8)))

    @pytest.mark.parametrize("call", ["fit", "train_on_batch"])
    def test_nothing_to_train(self, call: str) -> None:
        model = compiled(Classifier(encoder(), CLASSES))
        model.trainable = False
        with pytest.raises(UserError, match="weights to train"):
            getattr(model, call)(*batch())
        model.evaluate(*batch(), verbose=0)

    def test_parts_of_different_strategies(self, strategy: Any) -> None:
        plain = encoder()
        with strategy.scope():
            mirrored = encoder()
            of_two = Classifier(plain, CLASSES)
            with pytest.raises(UserError, match="for 1 replicas in a model for 2"):
                compiled(of_two)
        of_one = Classifier(mirrored, CLASSES)
        with pytest.raises(UserError, match="for 2 replicas in a model for 1"):
            compiled(of_one)
        for model in (of_one, of_two):
            assert model.predict(batch()[0], verbose=0).shape[1] == CLASSES

    @pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
    def test_parts(self, call: str) -> None:
        images, labels = batch()
        head = ProjectionHead(out_dim=4, num_layers=1)
        bare = SimCLR(encoder(), head)
        with pytest.raises(UserError, match="Expected a compiled model"):
            getattr(bare, call)(images)
        cases = [
            (bare, (images,), "augment=SimCLRAugment"),
            (Classifier(encoder(), CLASSES), (images,), "received: images alone"),
            (Distiller(encoder(), CLASSES), (images,), "Expected a teacher"),
        ]
        for model, data, words in cases:
            with pytest.raises(UserError, match=words):
                getattr(compiled(model), call)(*data)
        assert bare.predict(images, verbose=0).shape == (8, 4)

    def test_batches_by_hand(self, classifier: Classifier) -> None:
        images, labels = batch()
        before = int(classifier.optimizer.iterations.numpy())
        classifier.train_on_batch(images, labels)
        assert int(classifier.optimizer.iterations.numpy()) == before + 1
        classifier.test_on_batch(images, labels)
        assert np.shape(classifier.predict_on_batch(images)) == (8, CLASSES)
        with pytest.raises(UserError, match=r"labels in \[0, 3\)"):
            classifier.train_on_batch(images, labels + 5)


def test_data_sets_are_iterated_untuned(tuned: list[bool]) -> None:
    """TensorFlow's tuner lets an iterator end up to a minute late."""
    model = compiled(Classifier(encoder(), CLASSES, augment=identity))
    images, classes = batch()
    for data in (data_set(images, classes), data_set(images / np.float32(255), classes)):
        model.fit(data, validation_data=data, epochs=2, verbose=0)
        model.evaluate(data, verbose=0)
        model.predict(data, verbose=0)
    assert len(tuned) >= 8
    assert not any(tuned)


def test_arrays_for_replicas_are_iterated_untuned(strategy: tf.distribute.Strategy) -> None:
    data, _, _ = padding.for_replicas(*batch(), 4, strategy)
    assert data.options().autotune.enabled is False
