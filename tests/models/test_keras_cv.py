"""Backbones of KerasCV as encoders: round trip, sizes as published, every family."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from quick_networks import drawn_once
from tensorflow import keras
from tiny_models import images

from simclr_tf.compat import KERAS_3
from simclr_tf.errors import UserError
from simclr_tf.models import keras_cv as keras_cv_backbones
from simclr_tf.models.encoders import Encoder, make_encoder, stages
from simclr_tf.models.library_names import name_key

__all__ = ["drawn_once", "images"]  # fixtures

pytestmark = pytest.mark.usefixtures("drawn_once")


@pytest.fixture(scope="module")
def built(drawn_once: None) -> Callable[[str], Encoder]:
    """Encoders for 64 pixels, each built once."""
    return functools.lru_cache(lambda name: make_encoder(f"keras_cv.{name}", image_size=64))


def test_keras_cv_backbone_runs_and_round_trips(images: np.ndarray) -> None:
    encoder = make_encoder("keras_cv.ResNet18Backbone", image_size=32)  # or keras_cv.resnet18
    assert stages(encoder) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in encoder.layers)
    again = Encoder.from_config(encoder.get_config())
    again.set_weights(encoder.get_weights())
    np.testing.assert_allclose(again(images), encoder(images), rtol=1e-5, atol=1e-6)


@pytest.mark.one_lane
def test_depths_are_those_of_the_names() -> None:
    """Layers with weights, the classifier's included; KerasCV publishes no size of a DenseNet."""
    counted = {}
    for key, (family, arguments) in keras_cv_backbones.ARCHITECTURES.items():
        if family == "DenseNetBackbone":
            counted[key] = 2 * sum(arguments["stackwise_num_repeats"]) + 3 + 2  # 3 transitions
        elif family in ("ResNetBackbone", "ResNetV2Backbone"):
            convolutions = 3 if arguments["block_type"] == "block" else 2
            counted[key] = convolutions * sum(arguments["stackwise_blocks"]) + 2
    assert len(counted) == 13
    for key, depth in counted.items():
        assert key.removesuffix("v2").endswith(str(depth)) and depth >= 18, key


@pytest.mark.one_lane  # a table of ours against a table of theirs; both lanes run a backbone
@pytest.mark.slow
def test_keras_cv_architectures_have_the_published_number_of_parameters(
    built: Callable[[str], Encoder],
) -> None:
    import keras_cv

    presets = keras_cv_backbones._preset_classes(keras_cv.models)
    compared = 0
    for key, (family, arguments) in keras_cv_backbones.ARCHITECTURES.items():
        names = [preset for preset in presets if name_key(preset) == key]
        metadata = presets[names[0]].presets[names[0]].get("metadata", {}) if names else {}
        expected = metadata.get("params")
        if expected is None or expected > 12_000_000:  # the large ones take too long
            continue
        if family == "EfficientNetV1Backbone":
            if key != "efficientnetv1b0":
                continue
            # KerasCV's own figure has 1152 more; Keras's network without its top (4,049,571) has 7
            # of input statistics more.
            expected = 4_049_564
        if family == "MiTBackbone":  # published with a head of 10 classes
            expected -= 10 * arguments["embedding_dims"][-1] + 10
        encoder = built(key)  # scaling and pooling have no parameters
        assert encoder.get_config()["network"] == f"keras_cv.{family}", key
        assert encoder.count_params() == expected, key
        compared += 1
    assert compared >= 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["cspdarknettiny", "mitb0"]
    # KerasCV builds them from the same layers on both lanes.
    + [pytest.param(n, marks=pytest.mark.one_lane) for n in ("densenet121", "efficientnetv1b0")],
)
def test_one_of_each_keras_cv_family_builds_and_runs(
    built: Callable[[str], Encoder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if KERAS_3 or name == "densenet121":  # the others are counted above, and built whole for it
        for blocks in ("depths", "stackwise_depth", "stackwise_num_repeats"):
            arguments = keras_cv_backbones.ARCHITECTURES[name][1]
            if blocks in arguments:
                monkeypatch.setitem(arguments, blocks, [1, 1, 1, 1])
    encoder = built(name)
    assert encoder(np.zeros((1, 64, 64, 3), np.float32)).shape == (1, encoder.output_shape[1])
    assert len(stages(encoder)) >= 4


def test_missing_keras_cv_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "keras_cv":
            raise ImportError("No module named 'keras_cv'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install keras-cv"):
        make_encoder("keras_cv.resnet18", image_size=32)
