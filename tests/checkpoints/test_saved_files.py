"""Files that earlier versions wrote keep loading, and compute what they computed."""

from __future__ import annotations

import json
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow import keras

from simclr_tf import (
    LARS,
    Classifier,
    ResNet,
    SimCLR,
    SimCLRAugment,
    WarmUpCosine,
    make_encoder,
    moved,
)
from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.compat import KERAS_3

SAVED = Path(__file__).parents[1] / "golden" / "saved" / ("keras3" if KERAS_3 else "keras2")


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


def classes(config: Any) -> set[tuple[str, str]]:
    """Returns module and name of every class of ours that a config names."""
    parts = config.values() if isinstance(config, dict) else config
    if not isinstance(config, (dict, list)):
        return set()
    found = set().union(*map(classes, parts)) if parts else set()
    if isinstance(config, dict) and str(config.get("module")).startswith("simclr_tf."):
        found.add((config["module"], config["class_name"]))
    return found


@pytest.mark.parametrize("generation", ["keras2", "keras3"])
def test_classes_are_found_by_the_modules_that_files_name(generation: str) -> None:
    """Keras 2 looks there for a class that is not registered yet."""
    found = set()
    for path in SAVED.parent.joinpath(generation).glob("*.keras"):
        with zipfile.ZipFile(path) as file:
            found |= classes(json.loads(file.read("config.json")))
    assert len(found) >= 7
    for module, name in found:
        assert isinstance(vars(import_module(module))[name], type), f"{module}.{name}"
    for old, new in moved.MOVED.items():
        ours = {name for name, value in vars(import_module(new)).items() if isinstance(value, type)}
        assert ours <= set(vars(import_module(old)))
