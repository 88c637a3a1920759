"""Two encoders and one loss between them: pictures and token ids, of different widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loss_loops as loops
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_tokens import token_encoder, tokens

from simclr_tf import DualEncoder
from simclr_tf.errors import UserError
from simclr_tf.models.heads import ProjectionHead


def picture_encoder() -> keras.Model:
    images = keras.Input((4, 4, 1))
    return keras.Model(images, keras.layers.Dense(7)(keras.layers.Flatten()(images)))


def pairs(count: int = 8) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    images = np.random.RandomState(0).uniform(size=(count, 4, 4, 1)).astype("float32")
    return images, tokens(count)


def dual(eager: bool = True, **settings: Any) -> DualEncoder:
    keras.utils.set_random_seed(0)
    heads = (ProjectionHead("linear", 3), ProjectionHead("linear", 3))
    model = DualEncoder(picture_encoder(), token_encoder(), *heads, **settings)
    model.compile(optimizer=keras.optimizers.SGD(1e-4), run_eagerly=eager)
    return model


def darker(pair: Any, seed: tf.Tensor) -> Any:
    images, texts = pair
    return images * tf.random.stateless_uniform([], seed, alg="philox"), texts


def fitted(data: Any, **settings: Any) -> list[np.ndarray]:
    model = dual(**settings)
    model.fit(data, batch_size=None if isinstance(data, tf.data.Dataset) else 4, verbose=0,
              shuffle=False)  # fmt: skip
    return model.get_weights()


def assert_same(ours: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_clip_between_both_sides() -> None:
    model, x = dual(), pairs()
    first, second = model.predict(x, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    results = model.evaluate(x, verbose=0, return_dict=True)
    hidden = np.concatenate([first, second])
    assert results["contrast_loss"] == pytest.approx(2 * loops.clip(hidden, 0.07), rel=1e-4)
    right = (first @ second.T).argmax(1) == np.arange(8)
    assert results["contrast_acc"] == pytest.approx(right.mean())
    for side, expected in enumerate((first, second)):
        embedded = model.tower(side).predict(x[side], verbose=0)
        np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="Expected a side, 0 or 1; received: 2"):
        model.tower(2)


def test_both_sides_learn() -> None:
    model, x = dual(), pairs()
    model.compile(keras.optimizers.Adam(0.02))
    before = model.get_weights()
    losses = model.fit(x, batch_size=8, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(moved)


def test_micro_batches_take_the_same_step() -> None:
    expected = fitted(pairs(), augment=darker)
    assert_same(fitted(pairs(), augment=darker, micro_batch_size=2), expected)
    data = tf.data.Dataset.from_tensor_slices((pairs(), np.arange(8))).batch(4)
    assert_same(fitted(data, augment=darker), expected)


# `test_any_inputs` shares out a dictionary on the other lane.
@pytest.mark.one_lane
def test_replicas_equal_one_device(strategy: tf.distribute.Strategy) -> None:
    data = tf.data.Dataset.from_tensor_slices((pairs(9),)).batch(9)
    found = []
    for scope in (tf.distribute.get_strategy(), strategy):
        with scope.scope():
            model = dual(eager=scope is not strategy)
        model.fit(data, verbose=0)
        found.append((model.get_weights(), model.predict(pairs(9), batch_size=4, verbose=0)))
    assert_same(found[1][0], found[0][0])
    assert_same(found[1][1], found[0][1])


def test_keras_file(tmp_path: Path) -> None:
    settings = {
        "temperature": 0.2, "hidden_norm": False, "weight_decay": 0.1, "micro_batch_size": 4,
        "weight_penalty": "smooth_l1", "seed": 3,
    }  # fmt: skip
    model, x = dual(**settings), pairs()
    model.fit(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is DualEncoder
    assert {name: getattr(again, name) for name in settings} == settings
    assert_same(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert_same(again.get_weights(), model.get_weights())
    model.tower(1).save(tmp_path / "tower.keras")
    tower = keras.models.load_model(tmp_path / "tower.keras")
    assert_same([tower.predict(x[1], verbose=0)], [model.predict(x, verbose=0)[1]])


def test_what_is_refused() -> None:
    model, (images, texts) = dual(), pairs()
    cases = [
        (lambda: model.fit(images, np.arange(8), verbose=0), "A pair comes as"),
        (lambda: dual(augment=darker).fit(images, verbose=0), "Expected a pair of inputs"),
        (lambda: model.predict(images, verbose=0), "Expected inputs as the encoder takes them"),
        (lambda: model.fit((texts, images), verbose=0), "A pair comes as"),
        (lambda: model.fit(((images, texts),) * 2, verbose=0), "received: two. A pair comes as"),
        (lambda: model.fit((images, tokens(5)), verbose=0), "one row for each example"),
        (lambda: model.evaluate((images, texts["ids"]), verbose=0), "A pair comes as"),
        (
            lambda: DualEncoder(
                picture_encoder(), token_encoder(), ProjectionHead("linear", 3),
                ProjectionHead("linear", 4),
            ),
            "two projection heads of one size; received: 3 and 4",
        ),
        (
            lambda: DualEncoder(picture_encoder(), token_encoder(), memory_size=8),
            "a DualEncoder without memory_size",
        ),
        (
            lambda: DualEncoder(picture_encoder(), token_encoder(), num_classes=3),
            "a DualEncoder without num_classes",
        ),
        (
            lambda: DualEncoder(picture_encoder(), token_encoder(), value_range=(0, 1)),
            "a DualEncoder without value_range",
        ),
    ]  # fmt: skip
    for call, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
