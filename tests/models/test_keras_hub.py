"""Backbones and presets of KerasHub as encoders; no preset is downloaded here."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import images

from simclr_tf.compat import KERAS_3
from simclr_tf.errors import UserError
from simclr_tf.models import keras_hub as backbones
from simclr_tf.models.encoders import Encoder, make_encoder, stages
from simclr_tf.models.library_names import name_key

__all__ = ["images"]  # a fixture

keras_3 = pytest.mark.skipif(not KERAS_3, reason="KerasHub is Keras 3's")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset as KerasHub saves it: a tiny ResNet, its weights, and ImageNet's preprocessing."""
    import keras_hub

    folder = tmp_path_factory.mktemp("preset")
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],  # KerasHub asks for 64
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    backbone.save_to_preset(str(folder))
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(32, 32), scale=list(1 / 255 / STD), offset=list(-MEAN / STD)
    )
    converter.save_to_preset(str(folder))
    return folder


@pytest.fixture
def published(preset: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which KerasHub lists that preset, as if it were one of its own."""
    from keras_hub.src.utils import preset_utils

    entry = {"metadata": {"params": 1}, "kaggle_handle": str(preset)}
    cls = backbones._models().ResNetBackbone
    monkeypatch.setattr(cls, "presets", {**cls.presets, "resnet_34_imagenet": entry})
    monkeypatch.setitem(preset_utils.BUILTIN_PRESETS, "resnet_34_imagenet", entry)
    return "keras_hub.resnet_34_imagenet"


@keras_3
def test_a_backbone_runs_and_round_trips(images: np.ndarray) -> None:
    encoder = make_encoder("keras_hub.ResNet_18", image_size=32)
    assert stages(encoder) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    again = Encoder.from_config(encoder.get_config())
    again.set_weights(encoder.get_weights())
    np.testing.assert_allclose(again(images), encoder(images), rtol=1e-5, atol=1e-6)


@keras_3
def test_a_transformer_runs(images: np.ndarray) -> None:
    encoder = make_encoder("keras_hub.vit_tiny_patch16", image_size=32)
    assert encoder(images).shape == (len(images), 192)
    with pytest.raises(UserError, match="image_size for a transformer"):
        make_encoder("keras_hub.vit_tiny_patch16", image_size=None)


@keras_3
def test_a_preset_brings_its_weights_and_its_preprocessing(
    published: str, preset: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras_hub

    encoder = make_encoder(published, image_size=32)
    donor = keras_hub.models.Backbone.from_preset(str(preset))
    expected = np.mean(donor.predict((images - MEAN) / STD, verbose=0), axis=(1, 2))
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-5)
    # A bare name with published weights is the same preset; a saved encoder asks for none.
    bare = make_encoder("keras_hub.ResNet34", image_size=32, weights="imagenet")
    np.testing.assert_allclose(bare(images), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.undo()
    config = encoder.get_config()
    assert config["network"] == "keras_hub.ResNetBackbone"
    again = Encoder.from_config(config)
    again.set_weights(encoder.get_weights())
    np.testing.assert_allclose(again(images), expected, rtol=1e-4, atol=1e-5)


@keras_3
@pytest.mark.parametrize("name", ["resnet_18", "resnet_50", "densenet_121"])
def test_architectures_have_the_published_number_of_parameters(name: str) -> None:
    family, arguments = backbones.ARCHITECTURES[name_key(name)]
    cls = getattr(backbones._models(), family)
    expected = cls.presets[f"{name}_imagenet"]["metadata"]["params"]
    assert cls(**arguments).count_params() == expected


@keras_3
def test_a_description_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import kagglehub

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(kagglehub, "model_download", refuse)
    with pytest.raises(UserError, match="the description of keras_hub.resnet_18.*no connection"):
        make_encoder("keras_hub.resnet_18_imagenet", image_size=32)


@keras_3
@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("nothing_like_it", None, "a backbone or preset of keras_hub.models"),
        ("bert_base_en", None, "for images"),
        ("vit_tiny_patch16", "imagenet", "published ImageNet weights"),
    ],
)
def test_wrong_names_are_refused(name: str, weights: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_encoder(f"keras_hub.{name}", image_size=32, weights=weights)


def test_missing_keras_hub_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "keras_hub":
            raise ImportError("No module named 'keras_hub'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    said = r"pip install 'simclr-tf\[keras-hub\]'" if KERAS_3 else "received: Keras 2"
    with pytest.raises(UserError, match=said):
        make_encoder("keras_hub.resnet_18", image_size=32)
