"""Encoders by name and users' own: scaling, stages, freezing, saving, errors."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from quick_networks import drawn_once, few_blocks
from tensorflow import keras
from tiny_models import images

from simclr_tf.errors import UserError
from simclr_tf.models import applications
from simclr_tf.models.encoders import (
    Encoder,
    InputScaling,
    WrappedEncoder,
    endpoint_model,
    find_endpoints,
    freeze_until,
    make_encoder,
    stages,
    wrap_encoder,
)
from simclr_tf.models.resnet import ResNet

__all__ = ["drawn_once", "few_blocks", "images"]  # fixtures

pytestmark = pytest.mark.usefixtures("half_as_deep", "few_blocks", "drawn_once")

NAMES = applications.application_names()


@pytest.fixture(scope="module")
def network(few_blocks: None, drawn_once: None) -> Callable[[str], Encoder]:
    """Those that several tests ask about are built once, for 96 pixels and open to other sizes."""
    shared = ("ConvNeXtTiny", "MobileNetV2", "ResNet50")
    built: dict[str, Encoder] = {}

    def get(name: str) -> Encoder:
        if name not in shared:
            return make_encoder(name, image_size=96)
        if name not in built:
            built[name] = make_encoder(name.lower(), image_size=96)  # case does not matter
        return built[name]

    return get


@pytest.fixture(scope="module")
def mobilenet(network: Callable[[str], Encoder]) -> Encoder:
    return network("MobileNetV2")


@pytest.fixture(scope="module")
def efficientnet(few_blocks: None, drawn_once: None) -> keras.Model:
    return make_encoder("keras.applications.EfficientNetB0", image_size=32)


def two_stage_model() -> keras.Model:
    """A shortcut in each stage: only what nothing goes around may end a stage."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="entry")(inputs)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="down1")(x)
    side = keras.layers.Conv2D(4, 3, padding="same", name="side")(x)
    x = keras.layers.Add(name="joined")([x, side])
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.Conv2D(6, 3, padding="same", name="conv2")(x)
    x = keras.layers.BatchNormalization(name="norm2")(x)
    return keras.Model(inputs, x, name="two_stages")


# --- input scaling ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scaling_equals_the_networks_own_preprocess_input(name: str, images: np.ndarray) -> None:
    module = sys.modules[getattr(keras.applications, name).__module__]
    expected = module.preprocess_input(images * 255)
    mode = applications.application_scaling(name)
    np.testing.assert_allclose(InputScaling(mode)(images), expected, rtol=1e-4, atol=1e-3)


def test_every_kind_of_scaling_is_met_and_no_name_is_left_out() -> None:
    met = {applications.application_scaling(name) for name in NAMES}
    assert met == {"raw", "tf", "torch", "caffe"}
    assert {"ResNet50", "EfficientNetB0", "MobileNetV2", "ConvNeXtTiny", "DenseNet121"} <= {*NAMES}
    public = [name for name, x in vars(keras.applications).items() if inspect.isfunction(x)]
    assert sorted(public) == NAMES


def test_networks_without_an_outer_scaling_rescale_inside(efficientnet: keras.Model) -> None:
    assert efficientnet.get_layer("input_scaling").mode == "raw"
    assert any(isinstance(layer, keras.layers.Rescaling) for layer in efficientnet.layers)


def test_efficientnet_sees_standardised_images(
    efficientnet: keras.Model, images: np.ndarray
) -> None:
    (norm,) = applications.adaptive_normalizations(efficientnet)
    seen = keras.Model(efficientnet.inputs[0], norm.output)(images)
    expected = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-4)


def test_scaling_of_one_channel_uses_averaged_statistics() -> None:
    grey = np.full((1, 2, 2, 1), 0.5, np.float32)
    expected = 0.5 * 255 - np.mean([103.939, 116.779, 123.68])
    np.testing.assert_allclose(InputScaling("caffe")(grey), np.full_like(grey, expected), rtol=1e-5)


def test_scaling_stays_float32_and_round_trips() -> None:
    layer = InputScaling("tf")
    assert InputScaling.from_config(layer.get_config()).mode == "tf"
    assert layer(tf.ones([1, 2, 2, 3], tf.bfloat16)).dtype == tf.float32
    with pytest.raises(UserError, match="received: 'rgb'"):
        InputScaling("rgb")


# --- networks by name ---------------------------------------------------------------------------


def test_resnet_has_the_small_stem_up_to_32_pixels() -> None:
    narrow = {"resnet_depth": 18, "width_multiplier": 0.25}
    small = make_encoder("resnet", image_size=(32, 20), channels=1, **narrow)
    large = make_encoder("resnet", image_size=33, **narrow)
    assert isinstance(small, ResNet) and small.get_config()["cifar_stem"]
    assert not large.get_config()["cifar_stem"]
    for stem, side in (("cifar", 64), ("imagenet", 16)):
        chosen = make_encoder("resnet", image_size=side, resnet_stem=stem, **narrow)
        assert chosen.get_config()["cifar_stem"] == (stem == "cifar")
    with pytest.raises(UserError, match="Expected resnet_stem to be auto, imagenet or cifar"):
        make_encoder("resnet", image_size=32, resnet_stem="small")
    assert small.input_shape[-1] == 1 and large.output_shape == (None, 128)


def test_mlp_takes_widths_from_its_name() -> None:
    encoder = make_encoder("mlp:16,8", image_size=(5, 7), channels=1)
    assert encoder.output_shape == (None, 8) and encoder.layers[-1].name == "final_avg_pool"
    assert list(encoder.endpoint_layers) == ["stem", "stage1", "stage2", "final_avg_pool"]
    assert encoder(np.ones((3, 5, 7, 1), np.float32)).shape == (3, 8)


def test_application_is_pooled_open_in_size_and_has_stages(
    mobilenet: keras.Model, images: np.ndarray
) -> None:
    assert mobilenet.input_shape == (None, None, None, 3)
    assert mobilenet.layers[-1].name == "final_avg_pool"
    ends = endpoint_model(mobilenet)(np.repeat(np.repeat(images, 2, 1), 2, 2))
    sides = {name: ends[name].shape[1] for name in stages(mobilenet)}
    assert sides == {"stem": 32, "stage1": 16, "stage2": 8, "stage3": 4, "stage4": 2}
    np.testing.assert_allclose(
        ends["final_avg_pool"], tf.reduce_mean(ends["stage4"], [1, 2]), rtol=1e-4, atol=1e-5
    )
    ends["final_avg_pool"].shape.assert_is_compatible_with((4, 1280))


@pytest.mark.parametrize(
    "name",
    ["ConvNeXtTiny"]  # Keras 2's ConvNeXt would leave our scaling out
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("MobileNetV2", "ResNet50")],
)
def test_features_are_those_of_the_network_after_its_own_preprocessing(
    name: str, images: np.ndarray, network: Callable[[str], Encoder]
) -> None:
    constructor = getattr(keras.applications, name)
    own = constructor(weights=None, include_top=False, input_shape=(None, None, 3))
    encoder = network(name)
    own.set_weights(encoder.get_weights())
    prepared = sys.modules[constructor.__module__].preprocess_input(images * 255)
    expected = tf.reduce_mean(own(prepared), [1, 2])
    assert np.std(expected, 0).max() > 0
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNeXtTiny", "EfficientNetV2B0"])
def test_one_channel_switches_off_preprocessing_made_for_rgb(name: str) -> None:
    encoder = make_encoder(name, image_size=32, channels=1)
    assert encoder.get_layer("input_scaling").mode == "torch"
    assert encoder(np.zeros((1, 32, 32, 1), np.float32)).shape[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # On both lanes the families with layers of their own, and the smallest without; the others are
    # stacks of the same layers.
    ["MobileNet", "MobileNetV3Small", "ConvNeXtTiny"]
    + [
        pytest.param(name, marks=pytest.mark.one_lane)
        for name in ("ResNet50", "ResNet50V2", "VGG16", "Xception", "EfficientNetV2B0")
        + ("DenseNet121", "InceptionV3", "NASNetMobile")
        + ("RegNetX002", "RegNetY002", "ResNetRS50")
        if name in NAMES
    ],
)
def test_one_of_each_family_builds_runs_and_loads(
    name: str, network: Callable[[str], Encoder], tmp_path: Path
) -> None:
    encoder = network(name)
    x = np.random.default_rng(2).uniform(size=(1, 96, 96, 3)).astype(np.float32)
    features = encoder(x)
    assert features.shape == (1, encoder.output_shape[1])
    if name in ("MobileNetV3Small", "ConvNeXtTiny", "EfficientNetV2B0", "RegNetY002"):
        # The others are stacks of layers that these hold; building them again takes as long.
        encoder.save(tmp_path / "encoder.keras")
        again = keras.models.load_model(tmp_path / "encoder.keras")
        np.testing.assert_allclose(again(x), features, rtol=1e-4, atol=1e-5)
    assert stages(encoder)[0] == "stem" and len(stages(encoder)) >= 2
    assert isinstance(encoder.layers[1], InputScaling)


# --- endpoints and freezing ---------------------------------------------------------------------


def test_stages_end_where_nothing_goes_around() -> None:
    # `entry` is at full resolution; `side` and the pooling are no stage's end.
    encoder = wrap_encoder(two_stage_model())
    assert encoder.endpoint_layers == {
        "stem": "entry",
        "stage1": "joined",
        "stage2": "norm2",
        "final_avg_pool": "final_avg_pool",
    }


def test_freezing_takes_the_ancestors_of_a_stage() -> None:
    encoder = wrap_encoder(two_stage_model())
    freeze_until(encoder, -1)
    assert len(encoder.trainable_weights) == 10
    freeze_until(encoder, 1)
    frozen = {layer.name for layer in encoder.layers if not layer.trainable}
    assert {"entry", "down1", "side", "joined"} <= frozen and not frozen & {"conv2", "norm2"}
    assert len(encoder.trainable_weights) == 4


def test_frozen_batch_norm_runs_in_inference_mode(images: np.ndarray) -> None:
    encoder = ResNet(depth=18, width_multiplier=0.125, cifar_stem=True)
    ends = endpoint_model(encoder)
    free = ends(images, training=True)
    moved = encoder.get_layer("stem_bn").moving_mean.numpy()
    assert np.abs(moved).max() > 0
    freeze_until(encoder, 1)
    frozen, inference = ends(images, training=True), ends(images, training=False)
    np.testing.assert_array_equal(encoder.get_layer("stem_bn").moving_mean.numpy(), moved)
    np.testing.assert_allclose(frozen["block_group1"], inference["block_group1"], rtol=1e-5)
    assert not np.allclose(frozen["block_group1"], free["block_group1"], rtol=1e-2)
    assert not np.allclose(frozen["block_group2"], inference["block_group2"], rtol=1e-2)


def test_blocks_of_the_releases_resnet_are_stem_and_four_groups() -> None:
    encoder = ResNet(depth=18, width_multiplier=0.125)
    assert stages(encoder) == ["initial_max_pool", *(f"block_group{k}" for k in (1, 2, 3, 4))]
    freeze_until(encoder, 0)
    assert {w.name.split("/")[-1] for w in encoder.get_layer("stem_conv").weights}
    assert not encoder.get_layer("stem_bn").trainable
    freeze_until(encoder, 4)
    assert encoder.trainable_weights == []
    for block in (5, -2):
        with pytest.raises(UserError, match=f"between -1.*and 4.*received: {block}"):
            freeze_until(encoder, block)


# --- saving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "application", "wrapped", "wrapped_layer"])
def test_saving_and_loading_keeps_features_and_endpoints(
    kind: str, mobilenet: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    encoder = {
        "mlp": lambda: make_encoder("mlp:8", image_size=32),
        "application": lambda: mobilenet,
        "wrapped": lambda: wrap_encoder(two_stage_model()),
        "wrapped_layer": lambda: wrap_encoder(keras.layers.Conv2D(5, 3), (32, 32, 3)),
    }[kind]()
    encoder(images, training=True)  # moves the statistics away from their first values
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    assert type(again) is type(encoder)
    assert list(again.endpoint_layers) == list(encoder.endpoint_layers)
    np.testing.assert_allclose(again(images), encoder(images), rtol=1e-5, atol=1e-6)
    assert len(again.weights) == len(encoder.weights)


def test_config_matches_the_signature_and_holds_no_weights(mobilenet: keras.Model) -> None:
    arguments = {*inspect.signature(Encoder.__init__).parameters} - {"self", "kwargs"}
    assert {*mobilenet.get_config()} == arguments


def test_a_clone_has_the_same_endpoints(mobilenet: keras.Model) -> None:
    clone = keras.models.clone_model(mobilenet)  # Keras 3: a plain functional model
    assert find_endpoints(clone) == mobilenet.endpoint_layers
    ends = endpoint_model(clone)(np.zeros((1, 32, 32, 3), np.float32))
    assert ends.keys() == mobilenet.endpoint_layers.keys()
    assert wrap_encoder(clone).endpoint_layers == mobilenet.endpoint_layers
    assert len(clone.weights) == len(mobilenet.weights)


# --- users' encoders ----------------------------------------------------------------------------


def test_wrapping_shares_layers_and_pools() -> None:
    model = two_stage_model()
    encoder = wrap_encoder(model)
    assert encoder.get_layer("conv2") is model.get_layer("conv2")
    x = np.random.default_rng(1).uniform(size=(2, 9, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(encoder(x), np.mean(model(x), (1, 2)), rtol=1e-5, atol=1e-6)
    assert wrap_encoder(encoder) is encoder


def test_wrapping_a_layer_a_sequential_and_sequences() -> None:
    layer = wrap_encoder(keras.layers.Conv2D(8, 3), input_shape=(16, 20, 1))
    assert layer.output_shape == (None, 8) and isinstance(layer, WrappedEncoder)
    sequential = keras.Sequential([keras.Input((12, 4)), keras.layers.Conv1D(6, 3)])
    assert wrap_encoder(sequential).output_shape == (None, 6)
    unbuilt = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    assert wrap_encoder(unbuilt, input_shape=(4, 4, 1)).output_shape == (None, 3)
    assert stages(wrap_encoder(sequential)) == []


class Doubled(keras.Model):
    """A functional model whose own `call` the graph does not know."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return 2 * super().call(inputs, training=training)


def test_a_models_own_call_is_kept() -> None:
    inputs = keras.Input((4,))
    model = Doubled(inputs, keras.layers.Dense(3, use_bias=False, name="dense")(inputs))
    x = np.ones((2, 4), np.float32)
    expected = 2 * x @ model.get_layer("dense").get_weights()[0]
    np.testing.assert_allclose(wrap_encoder(model)(x), expected, rtol=1e-5)


def test_wrapping_refuses_what_is_no_encoder() -> None:
    inputs = keras.Input((4,))
    forked = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(UserError, match="received: 1 inputs and 2 outputs"):
        wrap_encoder(forked)
    with pytest.raises(UserError, match="received: str"):
        wrap_encoder("resnet")
    with pytest.raises(UserError, match="not built"):
        wrap_encoder(keras.layers.Dense(3))


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "ResNet51", "image_size": 32}, "received: 'ResNet51'. Nearest: .*ResNet50"),
        ({"name": "VGG16", "image_size": 28}, "at least 32 x 32 pixels for VGG16; received: 28"),
        ({"name": "mlp", "image_size": None}, "Expected an image_size for the encoder mlp"),
        ({"name": "mlp:0", "image_size": 8}, "widths of at least 1"),
        ({"name": "mlp", "image_size": 0}, "received: 0"),
        ({"name": "mlp", "image_size": 8, "channels": 0}, "at least one channel"),
        ({"image_size": 8, "resnet_depth": 18, "weights": "imagenet"}, "no weights published"),
        ({"name": "MobileNet", "image_size": 32, "channels": 1, "weights": "imagenet"}, "3 chan"),
        ({"name": "keras_cv.nothing_like_it", "image_size": 32}, "backbone or preset of keras_cv"),
        ({"name": "keras_cv.ResNetBackbone", "image_size": 32}, "failed with: "),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_encoder(**arguments)
    assert "\n" not in str(caught.value)
