"""Figures of the representation during `fit`: what they are, and what may be built on them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier
from tensorflow import keras
from tiny_models import batch, small_model

from simclr_tf.config.settings import ONLINE_FIGURES
from simclr_tf.evaluation.health import feature_health
from simclr_tf.evaluation.monitor import FIGURES, FeatureMonitor, online_figures


def pictures(labels: np.ndarray, seed: int) -> np.ndarray:
    """Grey pictures whose brightness is their class, with noise."""
    random = np.random.RandomState(seed)
    level = (0.2 + 0.3 * labels)[:, None, None, None]
    return np.clip(level + 0.05 * random.randn(len(labels), 16, 16, 3), 0, 1).astype("f")


def data(count: int, seed: int, labelled: bool = True) -> tf.data.Dataset:
    labels = np.random.RandomState(seed).randint(0, 3, count)
    images = pictures(labels, seed)
    parts = (images, labels) if labelled else (images,)
    return tf.data.Dataset.from_tensor_slices(parts).batch(7)


def test_the_settings_name_what_is_measured() -> None:
    assert tuple(FIGURES) == ONLINE_FIGURES


def test_figures_are_those_of_the_features() -> None:
    corner = lambda images: tf.reshape(images[:, :2, :2], [-1, 12])  # noqa: E731
    found = online_figures(corner, data(40, 0), data(21, 1), neighbours=1)
    queries = np.concatenate([np.asarray(corner(x)) for x, _ in data(21, 1)])
    health = feature_health(queries)
    assert found["effective_rank"] == health.effective_rank and found["spread"] == health.spread
    bank, bank_labels = (
        np.concatenate(p) for p in zip(*data(40, 0).as_numpy_iterator(), strict=True)
    )
    _, labels = (np.concatenate(p) for p in zip(*data(21, 1).as_numpy_iterator(), strict=True))
    plain = KNeighborsClassifier(1, metric="cosine").fit(corner(bank), bank_labels)
    assert found["knn_top_1"] == pytest.approx(plain.score(queries, labels))
    unlabelled = online_figures(corner, data(40, 0, False), data(21, 1, False))
    assert unlabelled == {n: v for n, v in found.items() if n != "knn_top_1"}
    broken = online_figures(lambda x: corner(x) * np.nan, data(40, 0), data(21, 1))
    assert broken == {}  # the loss says that


def test_images_without_a_label_do_not_vote() -> None:
    corner = lambda images: tf.reshape(images[:, :2, :2], [-1, 12])  # noqa: E731
    plain = online_figures(corner, data(40, 0), data(21, 1), neighbours=1)

    def with_unknown(whole: tf.data.Dataset) -> tf.data.Dataset:
        other = data(14, 2).map(lambda images, labels: (images, -tf.ones_like(labels)))
        return other.concatenate(whole)

    part = online_figures(corner, with_unknown(data(40, 0)), with_unknown(data(21, 1)), 1)
    assert part["knn_top_1"] == plain["knn_top_1"]
    none = data(21, 1).map(lambda images, labels: (images, -tf.ones_like(labels)))
    assert "knn_top_1" not in online_figures(corner, data(40, 0), none)
    assert "knn_top_1" not in online_figures(corner, none, data(21, 1))


def test_in_fit_they_are_logs_like_others() -> None:
    model = small_model(num_classes=None)
    model.compile(keras.optimizers.SGD(0.01))
    images, _ = batch(16)
    monitor = FeatureMonitor(data(40, 0), data(20, 1), every=2)
    stop = keras.callbacks.EarlyStopping("spread", mode="max", patience=3, min_delta=10)
    before = [w.numpy().copy() for w in model.encoder.weights]
    assert 0 <= monitor_of(monitor, model)["knn_top_1"] <= 1
    for old, new in zip(before, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())  # moving statistics too
    history = model.fit(
        images, batch_size=8, epochs=9, verbose=0, callbacks=[monitor, stop]
    ).history
    assert len(history["loss"]) == 4  # nothing gains 10 on the first epoch
    for name in FIGURES:
        first, again, third, _ = history[name]
        assert first == again, name  # every second epoch
    assert third != first


def monitor_of(monitor: FeatureMonitor, model: keras.Model) -> dict[str, float]:
    monitor.set_model(model)
    return monitor.measure()


# The first lane measures beside `fit` above, and finds all weights as they were.
@pytest.mark.second_lane
def test_it_changes_no_step_of_training() -> None:
    losses = []
    for callbacks in ([], [FeatureMonitor(data(40, 0), data(20, 1))]):
        keras.utils.set_random_seed(0)
        model = small_model()
        model.compile(keras.optimizers.SGD(0.1))
        history = model.fit(*batch(16), batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]


def test_a_wrong_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="every of at least 1"):
        FeatureMonitor(data(4, 0), data(4, 1), every=0)


@pytest.mark.one_lane
def test_the_documentations_script() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    model = small_model(num_classes=None)
    model.compile(keras.optimizers.SGD(0.01))
    images = tf.data.Dataset.from_tensor_slices(batch(16)[0]).batch(8)
    names = {"model": model, "images": images, "bank": data(40, 0), "queries": data(20, 1)}
    exec(code.replace("epochs=100", "epochs=2"), {**names, "keras": keras,
                                                 "FeatureMonitor": FeatureMonitor})  # fmt: skip
    assert len(model.history.history["knn_top_1"]) == 2
