"""`input_kind="any"`: token ids, masks, spectrograms; one array, a dictionary or a tuple."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_models import small_encoder
from tiny_tokens import CLASSES, LENGTH, drop_words, labels, token_encoder, token_model, tokens

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.errors import UserError
from simclr_tf.models.encoders import wrap_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training import structures
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR


def compiled(model: Any, eager: bool = True) -> Any:
    model.compile(optimizer=keras.optimizers.SGD(0.05), run_eagerly=eager)
    return model


def trained(data: Any, kind: str = "dict", eager: bool = True, **settings: Any) -> list[np.ndarray]:
    """Weights after one pass in batches of 4, from the same start each time."""
    keras.utils.set_random_seed(0)
    model = compiled(token_model(kind, **settings), eager)
    x, y = data if isinstance(data, list) else (data, None)
    batch_size = 4 if isinstance(data, list) else None
    model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 2
    return model.get_weights()


def assert_same(ours: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


class Batches(keras.utils.Sequence):
    def __init__(self, x: Any, y: np.ndarray) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        rows = slice(4 * index, 4 * index + 4)
        return tf.nest.map_structure(lambda part: part[rows], self.x), self.y[rows]


def data_set(x: Any, y: Any = None) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x,) if y is None else (x, y)).batch(4)


@pytest.mark.parametrize("kind", ["dict", "tuple", "array"])
def test_every_form_of_data_trains_alike(kind: str) -> None:
    x, y = tokens(kind=kind), labels()
    expected = trained([x, y], kind)
    batches = Batches(x, y)
    forms = {
        "dict": [data_set(x, y), batches, (batches[i] for i in range(2))],
        "tuple": [[list(x), y], data_set(x, y)] if kind == "tuple" else [],  # Keras's own form
        "array": [[x.tolist(), y]] if kind == "array" else [],
    }
    for data in forms[kind]:
        assert_same(trained(data, kind), expected)


def test_inputs_reach_augmentation_and_encoder_as_they_are() -> None:
    """No scaling, no cast: every row twice, first views before second ones, with a seed."""
    seen: list[Any] = []

    def augment(inputs: Any, seed: tf.Tensor, training: bool) -> Any:
        seen.append((inputs, seed, training))
        return inputs["sound"]

    sound = keras.Input((4,))
    encoder = keras.Model(sound, keras.layers.Dense(2, use_bias=False)(sound))
    model = compiled(SimCLR(encoder, ProjectionHead("none"), augment, input_kind="any"))
    x = {
        "sound": np.float32([[250, -7, 0, 1e4], [3, 4, 5, 6]]),
        "heard": np.array([True, False]),
        "ids": np.array([[1, 70_000], [3, 4]], np.int64),
    }
    model.fit(x, verbose=0)
    ((inputs, seed, training),) = seen
    assert training is True and seed.shape == (2,) and seed.dtype == tf.int32
    for name, part in x.items():
        assert inputs[name].dtype == part.dtype
        np.testing.assert_array_equal(inputs[name], np.concatenate([part, part]))
    plain = x["sound"] @ np.asarray(model.encoder.get_weights()[0])
    np.testing.assert_allclose(model.predict(x["sound"], verbose=0), plain, rtol=1e-5)
    whole = keras.Model(sound, keras.layers.Dense(2, use_bias=False)(sound))
    counts = np.full((2, 4), 200, np.uint8)  # of images it would be 200 / 255
    bytes_model = SimCLR(whole, input_kind="any")
    expected = counts @ np.asarray(bytes_model.encoder.get_weights()[0])
    np.testing.assert_allclose(bytes_model.predict(counts, verbose=0), expected, rtol=1e-5)


# Both lanes train on both above.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("dict", marks=pytest.mark.one_lane),
        pytest.param("tuple", marks=pytest.mark.second_lane),
    ],
)
def test_ready_made_views(kind: str) -> None:
    """A pair of what the encoder takes is two views, as an augmentation would have made them."""
    x, other, y = tokens(kind=kind), tokens(kind=kind, seed=1), labels()

    def second_is_other(inputs: Any) -> Any:
        half = tf.nest.map_structure(lambda part: tf.split(part, 2)[0], inputs)
        ours = tf.nest.flatten(tf.nest.map_structure(np.asarray, half))
        place = [i for i in (0, 4) if (tf.nest.flatten(x)[0][i : i + 4] == ours[0]).all()][0]
        return structures.joined(
            [half, tf.nest.map_structure(lambda part: tf.constant(part[place : place + 4]), other)]
        )

    expected = trained([x, y], kind, augment=second_is_other)
    assert_same(trained([(x, other), y], kind, augment=None), expected)
    assert_same(trained(data_set((x, other), y), kind), expected)


def test_micro_batches_take_the_same_step() -> None:
    """The second one with a momentum encoder, which embeds first views in micro-batches too."""
    x, y = tokens(), labels()
    for data, memory_size in (([x, y], 0), ([(x, tokens(seed=1)), y], 6)):
        expected = trained(data, memory_size=memory_size)
        assert_same(trained(data, memory_size=memory_size, micro_batch_size=2), expected)


# `test_dual_encoder` shares out a dictionary on the other lane.
@pytest.mark.second_lane
def test_replicas_equal_one_device(strategy: tf.distribute.Strategy) -> None:
    """Also where they can't share a batch equally: the last has one row, for one of them."""
    x, y = tokens(9), labels(9)
    views = (x, tokens(9, seed=1))
    found = []
    for scope in (tf.distribute.get_strategy(), strategy):
        keras.utils.set_random_seed(0)
        with scope.scope():
            model = compiled(token_model(augment=None), eager=scope is not strategy)
        model.fit(data_set(views, y).take(2), verbose=0)
        contrast = model.evaluate(data_set(views), verbose=0, return_dict=True)
        found.append((model.get_weights(), contrast, model.predict(x, batch_size=4, verbose=0)))
    (weights, *one), (ours, *several) = found
    for a, b in zip(ours, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert several[0] == pytest.approx(one[0], rel=1e-4)
    np.testing.assert_allclose(several[1], one[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_keras_file(kind: str, tmp_path: Path) -> None:
    x, y = tokens(kind=kind), labels()
    model = compiled(token_model(kind))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.input_kind == "any" and again.augment is drop_words
    assert_same(again.get_weights(), model.get_weights())
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5)
    again.fit(x, y, verbose=0)
    model.fit(x, y, verbose=0)
    assert_same(again.get_weights(), model.get_weights())


def test_masks_of_an_embedding_count() -> None:
    """Keras's own masks pass through the encoder: padding changes no feature."""
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
    encoder = wrap_encoder(keras.Model(ids, x))
    short = np.array([[4, 2]])
    padded = np.array([[4, 2, 0, 0, 0]])
    np.testing.assert_allclose(encoder(short), encoder(padded), rtol=1e-6)
    np.testing.assert_allclose(
        encoder(short)[0], encoder.get_weights()[0][[4, 2]].mean(0), rtol=1e-5
    )


def test_fine_tuning() -> None:
    x, y = tokens(), labels()
    classifier = compiled(
        Classifier(token_model().encoder, CLASSES, augment=drop_words, input_kind="any")
    )
    classifier.fit(x, y, verbose=0)
    results = classifier.evaluate(data_set(x, y), verbose=0, return_dict=True)
    assert 0 <= results["label_top_1_accuracy"] <= 1
    again = Classifier.from_config(classifier.get_config())
    assert again.input_kind == "any"
    assert classifier.predict(x, verbose=0).shape == (8, CLASSES)
    with pytest.raises(UserError, match="Expected inputs, for a classifier; received: views"):
        classifier.fit((x, x), y, verbose=0)


@pytest.fixture(scope="module")
def model() -> SimCLR:
    return compiled(token_model())


@pytest.fixture(scope="module")
def bare() -> SimCLR:
    return compiled(token_model(augment=None))


X = tokens()
ALIKE = r"as the encoder takes them, \{'ids': \(N, 5\), 'mask': \(N, 5\)\}"


@pytest.mark.parametrize(
    ("call", "data", "words"),
    [
        ("fit", lambda: {"ids": X["ids"], "mask": X["mask"][:3]}, "one row for each.*\\(3, 5\\)"),
        ("fit", lambda: {"ids": [["a", "b"]], "mask": [[1, 1]]}, "inputs as one array"),
        ("fit", lambda: {"ids": X["ids"][:0], "mask": X["mask"][:0]}, "at least one batch"),
        ("fit", lambda: {**X, "mask": X["mask"] / 0}, "finite numbers.*silence is -inf"),
        ("fit", lambda: data_set({**X, "mask": X["mask"] * np.nan}, labels()), "finite numbers"),
        ("fit", lambda: data_set(X, labels()).unbatch(), "one example. Batch them"),
        ("fit", lambda: data_set(tf.ragged.constant([[1], [2, 3]]), [0, 1]), "dense tensors.*mask"),
        ("fit", lambda: data_set(np.array([["a"]]), [0]), "TextVectorization"),
        ("fit", lambda: (X, {**X, "ids": X["ids"][:, :3]}), f"Expected views {ALIKE}.*\\(8, 3\\)"),
        ("predict", lambda: X["ids"], f"Expected inputs {ALIKE}; received: \\(N, 5\\)|\\(8, 5\\)"),
        ("predict", lambda: {"ids": X["ids"]}, f"Expected inputs {ALIKE}"),
        ("predict", lambda: {**X, "ids": X["ids"][:, :3]}, f"Expected inputs {ALIKE}"),
        ("predict", lambda: (X, X), "Expected inputs, to predict one by one; received: views"),
        ("evaluate", lambda: {"ids": X["ids"]}, f"Expected inputs {ALIKE}"),
    ],
)  # fmt: skip
def test_wrong_inputs(model: SimCLR, call: str, data: Callable[[], Any], words: str) -> None:
    with np.errstate(all="ignore"):
        x = data()
    beside = () if call == "predict" or isinstance(x, tf.data.Dataset) else (labels(),)
    with pytest.raises(UserError, match=words) as caught:
        getattr(model, call)(x, *beside, verbose=0)
    assert "\n" not in str(caught.value)


def test_no_augmentation_and_wrong_views(bare: SimCLR) -> None:
    with pytest.raises(UserError, match=r"Expected \(view1, view2\) as the inputs.*'mask'"):
        bare.fit(X, labels(), verbose=0)
    with pytest.raises(UserError, match="Expected views of the augmentation as the encoder takes"):
        compiled(token_model(augment=lambda x: x["ids"]), eager=False).fit(X, labels(), verbose=0)


def test_settings_that_do_not_fit() -> None:
    images = small_encoder()
    with pytest.raises(UserError, match="Expected input_kind to be one of images, any"):
        SimCLR(images, input_kind="text")
    with pytest.raises(UserError, match="augmentation of your own with input_kind"):
        SimCLR(images, augment=SimCLRAugment(16), input_kind="any")
    with pytest.raises(UserError, match="Expected no value_range with input_kind"):
        SimCLR(images, value_range=(-1, 1), input_kind="any")
    with pytest.raises(UserError, match='2 inputs and 1 outputs. Pass input_kind="any"'):
        SimCLR(token_encoder())

    class OwnCall(keras.Model):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            return super().call(inputs)

    encoder = token_encoder()
    with pytest.raises(UserError, match="several inputs as a functional model"):
        SimCLR(OwnCall(inputs=encoder.inputs, outputs=encoder.outputs[0]), input_kind="any")


@pytest.mark.one_lane
def test_what_is_a_pair_of_views() -> None:
    ids, mask = np.zeros([2, LENGTH]), np.zeros([2, LENGTH])
    pair = (tf.TensorSpec([None, LENGTH]), tf.TensorSpec([None, LENGTH]))
    named = {"ids": pair[0], "mask": pair[1]}
    assert structures.are_views((ids, mask), pair[0])
    assert not structures.are_views((ids, mask), pair)
    assert structures.are_views(((ids, mask), (ids, mask)), pair)
    assert not structures.are_views((ids, mask), named)
    assert not structures.are_views(({"ids": ids}, {"ids": ids}), named)
    assert structures.are_views([{"mask": mask, "ids": ids}] * 2, named)
    assert structures.describe({"a": ids, "b": (mask,)}) == "{'a': (2, 5), 'b': ((2, 5))}"
