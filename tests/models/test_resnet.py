"""Networks equal to the release's: variables, endpoints, heads, training mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from quick_networks import drawn_once
from recorded import network, network_images
from release import two_views
from tensorflow import keras

from simclr_tf.compat import raw_variable
from simclr_tf.errors import UserError
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.models.endpoints import endpoint_model
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import BLOCKS_PER_GROUP, ResNet

__all__ = ["drawn_once"]  # a fixture

pytestmark = pytest.mark.usefixtures("drawn_once")


@pytest.mark.parametrize(
    "name",
    # On each lane the small stem and the large one, with and without bottlenecks; a depth or a
    # width more, and an image size, on one of them.
    [
        "r18_w1_cifar",
        pytest.param("r18_w2_cifar", marks=[pytest.mark.slow, pytest.mark.second_lane]),
        pytest.param("r34_w1_cifar", marks=[pytest.mark.slow, pytest.mark.one_lane]),
        pytest.param("r50_w1_224", marks=[pytest.mark.slow, pytest.mark.second_lane]),
        pytest.param("r50_w1_se_64", marks=[pytest.mark.slow, pytest.mark.one_lane]),
        "r50_w1_sk_64",
    ],
)
def test_network_equals_release(name: str, golden: Any) -> None:
    recorded = golden(f"resnet_{name}")
    model = network(name)
    views = np.concatenate(two_views(network_images(recorded)))
    outputs = endpoint_model(model.encoder)(views, training=False)
    for endpoint in model.encoder.endpoint_layers:
        ours = outputs[endpoint].numpy()
        if ours.ndim == 4:
            shape = recorded[f"{endpoint}_shape"]
            assert list(ours.shape[1:]) == list(shape[1:])
            ours, key = ours.mean((1, 2)), f"{endpoint}_eval_mean"
        else:
            key = f"{endpoint}_eval"
        assert deviation(ours, recorded[key]) < 1e-4, endpoint
    # In training, batch norm over four features (the context of selective kernels, the heads)
    # divides by all but vanishing deviations: rounding is what is left, and it is magnified.
    tolerance = {"eval": 1e-4, "train": 5e-2 if "sk" in name else 1e-3}
    for training, mode in ((False, "eval"), (True, "train")):
        features = model.encoder(views, training=True) if training else outputs["final_avg_pool"]
        hidden = model.projection_head.hidden_layers(features, training=training)
        projected = recorded[f"proj_head_output_{mode}"]
        if training and len(projected) == 2:
            # Over two rows batch norm is the sign of a difference: where that is next to nothing,
            # rounding decides. Nine in ten must agree.
            error = np.abs(hidden[-1] - projected) / np.abs(projected).max()
            assert np.quantile(error, 0.9) < 1e-2
        else:
            assert deviation(hidden[-1], projected) < tolerance[mode]
        logits = model.supervised_head(hidden[0])
        assert deviation(logits, recorded[f"logits_sup_{mode}"]) < min(tolerance[mode], 2e-3)
    stem = next(layer for layer in model.encoder.layers if isinstance(layer, BatchNorm))
    assert deviation(stem.moving_mean, recorded["stem_moving_mean_after_one_train_call"]) < 1e-4


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_fractional_width(width: float) -> None:
    encoder = ResNet(18, width, cifar_stem=True)
    assert encoder.output_shape == (None, int(512 * width))
    assert encoder(tf.zeros([2, 17, 23, 3])).shape == (2, int(512 * width))


def test_config_round_trip_and_keras_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS_PER_GROUP, 18, (1, 2, 1, 1))
    encoder = ResNet(18, 0.25, cifar_stem=True, channels=1, synchronized=False, se_ratio=0.5)
    images = np.random.RandomState(0).rand(2, 16, 16, 1).astype("float32")
    encoder(images, training=True)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    assert loaded.get_config() == encoder.get_config()
    np.testing.assert_allclose(loaded(images), encoder(images), rtol=1e-5, atol=1e-6)
    assert loaded.release_paths == encoder.release_paths


@pytest.mark.parametrize(
    "arguments",
    [{"depth": 20}, {"width_multiplier": 0}, {"sk_ratio": -1}, {"se_ratio": 2}, {"channels": 0}],
)
def test_settings_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Expected"):
        ResNet(**arguments)


class TestBatchNorm:
    def reference(self, images: np.ndarray) -> np.ndarray:
        flat = images.reshape(-1, images.shape[-1]).astype(np.float64)
        return ((flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)).reshape(images.shape)

    @pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 5)])
    def test_equals_the_formula(self, shape: tuple[int, ...]) -> None:
        images = np.random.RandomState(0).randn(*shape).astype("float32") * 3 + 1
        layer = BatchNorm(momentum=0.8)
        assert deviation(layer(images, training=True), self.reference(images)) < 1e-5
        flat = images.reshape(-1, shape[-1])
        assert deviation(layer.moving_mean, 0.2 * flat.mean(0)) < 1e-5
        assert deviation(layer.moving_variance, 0.8 + 0.2 * flat.var(0)) < 1e-5

    def test_frozen_layer_infers(self) -> None:
        layer = BatchNorm()
        layer.build((None, 5))
        layer.trainable = False
        images = np.random.RandomState(0).randn(6, 5).astype("float32")
        np.testing.assert_allclose(layer(images, training=True), images, rtol=1e-4)
        assert not np.asarray(layer.moving_mean).any()

    @pytest.mark.parametrize("strategy", [2, 4], indirect=True)
    def test_synchronised_over_replicas(self, strategy: Any) -> None:
        images = np.random.RandomState(0).randn(8, 3, 3, 5).astype("float32") * 2 + 1
        with strategy.scope():
            layer = BatchNorm()
            layer.build((None, None, None, 5))
        parts = np.split(images, strategy.num_replicas_in_sync)
        values = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )
        outputs = strategy.run(tf.function(lambda x: layer(x, training=True)), [values])
        outputs = np.concatenate([o.numpy() for o in strategy.experimental_local_results(outputs)])
        assert deviation(outputs, self.reference(images)) < 1e-5
        moving = tf.convert_to_tensor(raw_variable(layer.moving_variance))
        expected = 0.9 + 0.1 * images.reshape(-1, 5).var(0)
        assert deviation(moving, expected) < 1e-5

    def test_config_keeps_synchronized(self) -> None:
        for synchronized in (True, False):
            layer = BatchNorm(synchronized=synchronized)
            assert BatchNorm.from_config(layer.get_config()).synchronized is synchronized


class TestProjectionHead:
    @pytest.mark.parametrize(
        ("mode", "layers", "out"), [("none", 0, 32), ("linear", 1, 8), ("nonlinear", 3, 8)]
    )
    def test_modes(self, mode: str, layers: int, out: int) -> None:
        head = ProjectionHead(mode=mode, out_dim=8)
        features = tf.random.normal([4, 32], seed=1)
        hidden = head(features), head.hidden_layers(features)
        assert hidden[0].shape == (4, out) and len(hidden[1]) == layers + 1
        np.testing.assert_allclose(hidden[0], hidden[1][-1])
        assert all(tf.reduce_min(h) >= 0 for h in hidden[1][1:-1])  # ReLU inside, not at the end

    def test_config_round_trip(self) -> None:
        head = ProjectionHead(out_dim=8, num_layers=2, synchronized=False)
        assert ProjectionHead.from_config(head.get_config()).get_config() == head.get_config()

    def test_wrong_settings(self) -> None:
        with pytest.raises(UserError, match="mode"):
            ProjectionHead(mode="quadratic")
        with pytest.raises(UserError, match="out_dim"):
            ProjectionHead(out_dim=0)
