"""SimCLR and Classifier as Keras models: fit, evaluate, predict, save, any input.

Where the graph of a step is not asked about it runs eagerly: to trace one takes longer than that.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny_models import (
    METRICS,
    batch,
    comparable,
    dataset,
    small_encoder,
    small_model,
    small_resnet,
)

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import KERAS_3
from simclr_tf.errors import UserError
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.lars import LARS
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

pytestmark = pytest.mark.usefixtures("half_as_deep")


class TestFit:
    def test_metrics_have_the_releases_names(self) -> None:
        model = small_model()
        model.compile(optimizer=LARS(0.1))
        history = model.fit(dataset(), epochs=2, verbose=0).history
        assert set(history) - {"loss"} == METRICS
        assert all(np.isfinite(values).all() for values in history.values())

    def test_a_step_is_traced_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Left to Keras 2 the step makes the optimizer's variables, and is traced twice."""
        traced = []
        step = SimCLR.train_step

        def counted(self: Any, data: Any) -> Any:
            traced.append(data)
            return step(self, data)

        monkeypatch.setattr(SimCLR, "train_step", counted)
        model = small_model(augment=SimCLRAugment(16, augmentations="crop"))
        model.compile(optimizer=keras.optimizers.Adam(0.01))
        model.fit(dataset(), epochs=2, verbose=0)
        assert len(traced) == 1 and len(model.optimizer.variables) > 2

    def test_total_loss_is_the_sum_and_rate_is_reported(self) -> None:
        model = small_model(weight_decay=0.1)
        model.compile(optimizer=LARS(0.25, weight_decay=0.1), run_eagerly=True)
        history = model.fit(dataset(), verbose=0).history
        parts = sum(history[n][0] for n in ("contrast_loss", "supervised_loss", "weight_decay"))
        assert history["total_loss"][0] == pytest.approx(parts, rel=1e-5)
        assert history["learning_rate"][0] == pytest.approx(0.25)

    @pytest.mark.second_lane
    def test_weight_of_the_linear_heads_loss_scales_its_gradient_alone(self) -> None:
        moved = []
        for weight in (1.0, 0.25):
            keras.utils.set_random_seed(1)
            model = small_model(supervised_loss_weight=weight)
            model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
            start = np.asarray(model.supervised_head.kernel)
            history = model.fit(dataset().take(1), verbose=0).history
            parts = history["contrast_loss"][0] + weight * history["supervised_loss"][0]
            assert history["total_loss"][0] == pytest.approx(parts, rel=1e-5)
            head = np.asarray(model.supervised_head.kernel) - start
            moved.append((head, np.asarray(model.encoder.trainable_variables[0])))
        np.testing.assert_allclose(moved[1][0], 0.25 * moved[0][0], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(moved[1][1], moved[0][1], rtol=1e-6, atol=1e-7)
        with pytest.raises(UserError, match="supervised_loss_weight > 0"):
            small_model(supervised_loss_weight=0)

    @pytest.mark.one_lane
    def test_contrastive_loss_falls(self) -> None:
        # Images that differ in colour are easily told apart under crops.
        images = np.zeros((8, 16, 16, 3), "uint8") + np.random.RandomState(0).randint(
            0, 256, (8, 1, 1, 3)
        ).astype("uint8")
        model = small_model(num_classes=None)
        model.compile(optimizer=keras.optimizers.Adam(3e-3))
        data = tf.data.Dataset.from_tensors(images).repeat(30)
        losses = [model.fit(data.take(10), verbose=0).history["contrast_loss"][0] for _ in range(3)]
        assert losses[-1] < 0.8 * losses[0]

    def test_images_alone_without_linear_head(self) -> None:
        model = small_model(num_classes=None)
        model.compile(optimizer=LARS(0.1), run_eagerly=True)
        history = model.fit(dataset(labelled=False), verbose=0).history
        assert "supervised_loss" not in history and "contrast_loss" in history
        results = model.evaluate(dataset(labelled=False), verbose=0, return_dict=True)
        assert {"contrast_loss", "contrast_acc", "contrast_entropy"} <= set(results)

    def test_a_linear_head_asks_for_labels(self) -> None:
        model = small_model()
        model.compile(optimizer=LARS(0.1))
        with pytest.raises(UserError, match="Expected \\(images, labels\\)"):
            model.fit(dataset(labelled=False), verbose=0)

    def test_labels_outside_the_head(self) -> None:
        model = small_model(num_classes=2)
        model.compile(optimizer=LARS(0.1))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"Expected labels in \[0, 2\)"):
            model.fit(dataset(), verbose=0)
        with pytest.raises(UserError, match=r"Expected labels in \[0, 2\)"):
            model.evaluate(*batch(16), verbose=0)

    def test_linear_head_does_not_train_the_encoder(self) -> None:
        """The supervised loss is behind a stop-gradient."""
        images, labels = batch()
        kernels = []
        for shift in (0, 1):
            keras.utils.set_random_seed(1)
            model = small_model()
            model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
            model.fit(images, (labels + shift) % 3, batch_size=8, verbose=0, shuffle=False)
            kernels.append([np.asarray(w) for w in model.encoder.trainable_variables])
        for first, second in zip(*kernels, strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)

    def test_the_seed_decides(self) -> None:
        losses = []
        for seed in (3, 3, 4):
            keras.utils.set_random_seed(0)
            model = small_model(seed=seed)
            model.compile(optimizer=LARS(0.1), run_eagerly=True)
            losses.append(model.fit(dataset(), verbose=0).history["contrast_loss"][0])
        assert losses[0] == losses[1] != losses[2]


class TestInputs:
    def test_one_channel_images_that_are_not_square(self) -> None:
        """As spectrograms are: nothing in the model asks for RGB."""
        model = small_model(
            encoder=small_encoder(channels=1),
            augment=SimCLRAugment((12, 20), augmentations="crop,blur"),
            num_classes=None,
        )
        model.compile(optimizer=LARS(0.1), run_eagerly=True)
        images = np.random.RandomState(0).rand(8, 14, 30, 1).astype("float32")
        history = model.fit(tf.data.Dataset.from_tensors(images), verbose=0).history
        assert np.isfinite(history["contrast_loss"]).all()
        assert model.predict(images, verbose=0).shape == (8, 64)

    def test_any_callable_as_augmentation(self) -> None:
        seen = []

        def noise(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            seen.append((images.shape, images.dtype, seed.shape))
            return images + tf.random.stateless_normal(tf.shape(images), seed, stddev=0.1)

        model = small_model(augment=noise)
        model.compile(optimizer=LARS(0.1), run_eagerly=True)
        model.fit(dataset(), verbose=0)
        assert seen[0] == ((16, 16, 16, 3), tf.float32, (2,))

    def test_keras_layers_as_augmentation(self) -> None:
        augment = keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomContrast(0.5)])
        model = small_model(augment=augment, num_classes=None)
        model.compile(optimizer=LARS(0.1))
        model.fit(dataset(labelled=False), verbose=0)
        views = model.views(batch()[0], tf.constant([0, 0])).numpy()
        assert not np.allclose(views[:8], views[8:])  # `training=True` reached the layers

    def test_views_from_the_data_set(self) -> None:
        model = small_model(augment=None)
        model.compile(optimizer=LARS(0.1), run_eagerly=True)
        images, labels = batch()
        data = tf.data.Dataset.from_tensors(((images, images[:, ::-1]), labels))
        assert np.isfinite(model.fit(data, verbose=0).history["contrast_loss"]).all()
        with pytest.raises(UserError, match="view1, view2"):
            model.fit(dataset(), verbose=0)

    def test_any_keras_model_as_encoder(self) -> None:
        layers = [keras.layers.Conv2D(8, 3), BatchNorm(), keras.layers.ReLU()]
        encoder = keras.Sequential([keras.Input((16, 16, 3)), *layers])
        model = small_model(encoder=encoder)
        model.compile(optimizer=LARS(0.1), run_eagerly=True)
        model.fit(dataset(), verbose=0)
        assert model.predict(batch()[0], verbose=0).shape == (8, 8)


def brightened(images: tf.Tensor, least: float = 0.0) -> tf.Tensor:
    """A person's own augmentation: Python's `if` asks a tensor."""
    if tf.reduce_mean(images) > least:
        images = 1.0 - images
    return images


class Brightened:
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return brightened(images)

    def views(self, images: tf.Tensor) -> tf.Tensor:
        return brightened(images)


class BrightenedLayer(keras.layers.Layer):
    def call(self, images: tf.Tensor) -> tf.Tensor:
        if tf.reduce_mean(images) > 0.0:
            images = 1.0 - images
        return images


@pytest.mark.skipif(KERAS_3, reason="Keras 3 traces a step as it stands: tf.cond is needed there")
@pytest.mark.parametrize(
    "augment",
    [
        brightened, Brightened(), Brightened().views, functools.partial(brightened, least=-1.0),
        tf.function(brightened), BrightenedLayer(),
    ],
    ids=["function", "object", "method", "partial", "tf.function", "layer"],
)  # fmt: skip
def test_python_branches_of_users_over_tensors(augment: Any) -> None:
    """What Keras 2 lets a person write, though our own functions are traced as they stand."""
    dense = [keras.layers.Flatten(), keras.layers.Dense(4)]
    model = small_model(
        encoder=keras.Sequential([keras.Input((16, 16, 3)), *dense]),
        projection_head=ProjectionHead("none"), augment=augment, num_classes=None,
    )  # fmt: skip
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.fit(batch()[0], batch_size=8, verbose=0)
    images = tf.constant(batch()[0])
    seen = tf.function(lambda x: model.views(x, tf.constant([0, 0])))(images)
    expected = 1.0 - np.concatenate([images] * 2) / 255.0
    np.testing.assert_allclose(seen, expected, atol=1e-6)


class TestHeads:
    @pytest.mark.parametrize("mode", ["none", "linear", "nonlinear"])
    def test_every_projection_head_trains(self, mode: str) -> None:
        model = small_model(projection_head=ProjectionHead(mode=mode, out_dim=8))
        model.compile(optimizer=LARS(0.1), run_eagerly=True)
        assert np.isfinite(model.fit(dataset(), verbose=0).history["total_loss"]).all()

    @pytest.mark.parametrize(("selector", "width"), [(0, 64), (1, 64), (2, 8), (-1, 8)])
    def test_projection_selector(self, selector: int, width: int) -> None:
        classifier = Classifier(
            small_encoder(),
            num_classes=3,
            projection_head=ProjectionHead(out_dim=8, num_layers=2),
            projection_selector=selector,
        )
        assert classifier.supervised_head.kernel.shape == (width, 3)
        assert classifier(batch()[0]).shape == (8, 3)
        with pytest.raises(UserError, match="selector"):
            Classifier(small_encoder(), 3, projection_selector=1)


class TestSaving:
    @pytest.mark.parametrize("kind", ["pretrain", "finetune"])
    def test_keras_file(self, kind: str, tmp_path: Path) -> None:
        if kind == "pretrain":
            model: Any = small_model(temperature=0.3)
        else:
            model = Classifier(
                small_resnet(), 3, augment=SimCLRAugment(16, augmentations="crop,flip"),
                fine_tune_after_block=2,
            )  # fmt: skip
        # What is loaded runs as what was saved: the smaller model's graph on both sides.
        optimizer = LARS(0.1, weight_decay=1e-4)
        model.compile(optimizer=optimizer, run_eagerly=kind == "finetune")
        model.fit(dataset(), verbose=0)
        images = batch()[0]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(
            loaded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
        )
        assert comparable(loaded.get_config()) == comparable(model.get_config())
        assert len(loaded.trainable_variables) == len(model.trainable_variables)
        loaded.fit(dataset(), verbose=0)

    @pytest.mark.parametrize("kind", [SimCLR, Classifier])
    def test_config_names_every_argument(self, kind: type) -> None:
        model = small_model() if kind is SimCLR else Classifier(small_encoder(), 3)
        arguments = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
        assert arguments | {"name"} == set(model.get_config())


class TestFineTuning:
    @pytest.mark.parametrize(("block", "trained"), [(0, 4), (2, 2), (4, 0)])
    def test_frozen_blocks_stay(self, block: int, trained: int) -> None:
        """`trained` of the five parts (stem, four block groups) change; the others don't move."""
        classifier = Classifier(small_resnet(), 3, fine_tune_after_block=block)
        before = self.parts(classifier)
        classifier.compile(optimizer=keras.optimizers.SGD(0.5), run_eagerly=True)
        classifier.fit(dataset(), verbose=0)
        changed = [name for name, value in self.parts(classifier).items()
                   if not np.array_equal(value, before[name])]  # fmt: skip
        everything = ["stem", "group1", "group2", "group3", "group4"]
        assert changed == everything[len(everything) - trained :]

    @staticmethod
    def parts(model: Classifier) -> dict[str, np.ndarray]:
        """All weights of each part, moving statistics included."""
        return {
            part: np.concatenate(
                [
                    np.asarray(w).ravel()
                    for layer in model.encoder.layers
                    if layer.name.startswith(part)
                    for w in layer.weights
                ]
            )
            for part in ("stem", "group1", "group2", "group3", "group4")
        }

    def test_zero_init(self) -> None:
        classifier = Classifier(small_encoder(), 3, zero_init_logits_layer=True)
        assert not classifier(batch()[0]).numpy().any()

    def test_evaluate_counts_every_image_once(self) -> None:
        classifier = Classifier(small_encoder(), 3)
        classifier.compile(optimizer=LARS(0.1), run_eagerly=True)
        images, labels = batch(11)
        data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
        logits = classifier.predict(images, verbose=0)
        results = classifier.evaluate(data, verbose=0, return_dict=True)
        assert results["label_top_1_accuracy"] == pytest.approx(
            (logits.argmax(-1) == labels).mean(), abs=1e-6
        )
        assert results["label_top_5_accuracy"] == 1.0  # three classes
