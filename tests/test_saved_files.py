"""Files that earlier versions wrote keep loading, and compute what they computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorflow import keras

from simclr_tf import LARS, Classifier, ResNet, SimCLR, SimCLRAugment, WarmUpCosine, make_encoder
from simclr_tf.checkpoints import load_weights
from simclr_tf.compat import KERAS_3

SAVED = Path(__file__).parent / "golden" / "saved" / ("keras3" if KERAS_3 else "keras2")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    pixels = np.arange(2 * 16 * 16 * 3, dtype=np.float32) % 251 / 251
    return pixels.reshape(2, 16, 16, 3)


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    return dict(np.load(SAVED / "outputs.npz"))


def test_a_pretrained_model_loads(images: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    model = keras.models.load_model(SAVED / "simclr.keras")
    assert type(model) is SimCLR and type(model.augment) is SimCLRAugment
    features = model.encoder(images, training=False)
    np.testing.assert_allclose(features, outputs["simclr"], rtol=1e-5, atol=1e-6)
    projected = model.projection_head(features, training=False)
    np.testing.assert_allclose(projected, outputs["simclr_head"], rtol=1e-4, atol=1e-7)


def test_its_training_goes_on(images: np.ndarray) -> None:
    model = keras.models.load_model(SAVED / "simclr.keras")
    assert type(model.optimizer) is LARS
    assert type(model.optimizer._learning_rate) is WarmUpCosine
    assert int(model.optimizer.iterations) == 1
    model.fit(images, np.array([0, 2]), batch_size=2, verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_an_encoder_loads(images: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    encoder = keras.models.load_model(SAVED / "encoder.keras")
    assert type(encoder) is ResNet
    features = encoder(images, training=False)
    np.testing.assert_allclose(features, outputs["encoder"], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_loads(images: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    model = Classifier(make_encoder("mlp:8", image_size=16), 3)
    load_weights(model, str(SAVED / "classifier"))
    logits = model(images, training=False)
    np.testing.assert_allclose(logits, outputs["classifier"], rtol=1e-5, atol=1e-5)
