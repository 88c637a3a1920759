"""Checkpoints: exact resume, the release's layout, loading in part, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.reader import find_checkpoint, read_step
from simclr_tf.checkpoints.store import CheckpointStore
from simclr_tf.checkpoints.variables import model_variables, schema_name
from simclr_tf.errors import UserError
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.optim.lars import LARS
from simclr_tf.optim.schedules import WarmUpCosine
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

pytestmark = pytest.mark.usefixtures("half_as_deep")

# The README's commands for linear evaluation and for fine-tuning from a middle layer.
WITHOUT_HEADS = "(?!global_step|(?:.*/|^)Momentum|head)"
WITHOUT_SUPERVISED = "(?!global_step|(?:.*/|^)Momentum|head_supervised)"


def pretrained(width: float = 0.125, num_classes: int = 3, seed: int = 0) -> SimCLR:
    keras.utils.set_random_seed(seed)
    model = SimCLR(
        ResNet(18, width, cifar_stem=True),
        ProjectionHead(out_dim=8, num_layers=2),
        augment=SimCLRAugment(8, augmentations="crop,flip"),
        num_classes=num_classes,
    )
    model.compile(optimizer=LARS(WarmUpCosine(0.5, 8, 64, epochs=2, warmup_epochs=1)))
    model.optimizer.build(model.trainable_variables)
    return model


def values(model: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(v) for path, v in model_variables(model).items()}


def data() -> tf.data.Dataset:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (16, 8, 8, 3)).astype("uint8")
    return tf.data.Dataset.from_tensor_slices((images, random.randint(0, 3, 16))).batch(8)


@pytest.fixture(scope="module")
def whole(half_as_deep: None) -> SimCLR:
    """A model after two steps."""
    model = pretrained()
    model.fit(data(), verbose=0)
    return model


@pytest.fixture(scope="module")
def saved(
    whole: SimCLR, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, np.ndarray]]:
    """A checkpoint after two steps, and the weights that it holds."""
    folder = str(tmp_path_factory.mktemp("run"))
    CheckpointStore(whole, whole.optimizer, folder).save(2)
    return folder, values(whole)


def test_resume_is_exact(whole: SimCLR, saved: tuple[str, dict[str, np.ndarray]]) -> None:
    """Two more steps after restoring equal two more without: slots, step, views and all."""
    whole.fit(data(), verbose=0)
    resumed = pretrained(seed=9)
    assert CheckpointStore(resumed, resumed.optimizer, saved[0]).restore() == 2
    resumed.fit(data(), verbose=0)
    for path, value in values(whole).items():
        np.testing.assert_allclose(values(resumed)[path], value, rtol=1e-5, atol=1e-6)


def test_keys_are_the_releases(saved: tuple[str, dict[str, np.ndarray]]) -> None:
    prefix = find_checkpoint(saved[0])
    assert prefix.endswith("ckpt-2") and read_step(prefix) == 2
    keys = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    for key in (
        "global_step",
        "model/resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel",
        "model/resnet_model/block_groups/3/layers/0/conv2d_bn_layers/3/bn/moving_variance",
        "model/_projection_head/linear_layers/1/bn_relu/bn/gamma",
        "model/supervised_head/linear_layer/dense/bias",
    ):
        assert f"{key}/.ATTRIBUTES/VARIABLE_VALUE" in keys


def test_old_checkpoints_are_deleted(whole: SimCLR, tmp_path: Path) -> None:
    store = CheckpointStore(whole, whole.optimizer, str(tmp_path), max_to_keep=2)
    for step in (1, 2, 3):
        store.save(step)
    assert sorted(p.name for p in tmp_path.glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]


@pytest.fixture(scope="module")
def classifier(half_as_deep: None) -> Classifier:
    return Classifier(
        ResNet(18, 0.125, cifar_stem=True), 3, ProjectionHead(out_dim=8, num_layers=2)
    )


@pytest.mark.parametrize(
    ("schema", "projection", "supervised"),
    [(None, True, True), (WITHOUT_HEADS, False, False), (WITHOUT_SUPERVISED, True, False)],
)
def test_variable_schema(
    saved: tuple[str, dict[str, np.ndarray]],
    classifier: Classifier,
    schema: str | None,
    projection: bool,
    supervised: bool,
) -> None:
    folder, weights = saved
    for variable in model_variables(classifier).values():
        variable.assign(tf.fill(variable.shape, 7.0))
    report = load_weights(classifier, folder, schema)
    assert report.encoder_fits() and not report.missing and not report.mismatched
    loaded = {path.split("/")[0] for path in report.loaded}
    assert ("_projection_head" in loaded, "supervised_head" in loaded) == (projection, supervised)
    for path, value in values(classifier).items():
        expected = weights[path] if path in report.loaded else np.full_like(value, 7.0)
        np.testing.assert_array_equal(value, expected)
    assert set(report.loaded) | set(report.filtered) == set(weights)


def test_another_number_of_classes(saved: tuple[str, dict[str, np.ndarray]]) -> None:
    report = load_weights(pretrained(num_classes=5), saved[0])
    assert list(report.mismatched) == [
        "supervised_head/linear_layer/dense/kernel",
        "supervised_head/linear_layer/dense/bias",
    ]
    assert report.encoder_fits() and "(64, 3) there, (64, 5) here" in report.describe()


def test_another_architecture(saved: tuple[str, dict[str, np.ndarray]]) -> None:
    wider = pretrained(width=0.25)
    before = values(wider)
    report = load_weights(wider, saved[0])
    assert not report.encoder_fits() and report.mismatched
    with pytest.raises(UserError, match="Expected a checkpoint of this model"):
        CheckpointStore(wider, wider.optimizer, saved[0]).restore()
    stem = "resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel"
    np.testing.assert_array_equal(values(wider)[stem], before[stem])


def test_another_optimizer(saved: tuple[str, dict[str, np.ndarray]]) -> None:
    model = pretrained()
    model.compile(optimizer=keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(UserError, match="optimizer"):
        CheckpointStore(model, model.optimizer, saved[0]).restore()


def test_nothing_there(whole: SimCLR, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected a checkpoint in .*; received: none"):
        CheckpointStore(whole, whole.optimizer, str(tmp_path)).restore()
    for path in (tmp_path, tmp_path / "none", tmp_path / "ckpt-1"):
        with pytest.raises(UserError, match="Expected a checkpoint"):
            find_checkpoint(str(path))


def test_damaged_file(whole: SimCLR, tmp_path: Path) -> None:
    (tmp_path / "ckpt-1.index").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="damaged"):
        load_weights(whole, str(tmp_path / "ckpt-1"))


def test_other_encoders_are_saved_by_place(tmp_path: Path) -> None:
    """Automatic layer names count up in a process; paths must not."""

    def model() -> SimCLR:
        made = SimCLR(make_encoder("mlp:16", image_size=8), ProjectionHead(out_dim=4))
        made.compile(optimizer=LARS(0.1))
        made.optimizer.build(made.trainable_variables)
        return made

    first, second = model(), model()
    assert list(model_variables(first)) == list(model_variables(second))
    assert sum(v.shape.num_elements() for v in model_variables(first).values()) == sum(
        w.shape.num_elements() for w in [*first.encoder.weights, *first.projection_head.weights]
    )
    CheckpointStore(first, first.optimizer, str(tmp_path)).save(0)
    assert load_weights(second, str(tmp_path)).encoder_fits()
    for path, value in values(first).items():
        np.testing.assert_array_equal(values(second)[path], value)


def test_schema_names() -> None:
    assert schema_name("_projection_head/linear_layers/0/dense/kernel").startswith(
        "head_contrastive/"
    )
    assert schema_name("supervised_head/linear_layer/dense/bias").startswith("head_supervised/")
    assert schema_name("resnet_model/block_groups/0/x") == "resnet_model/block_groups/0/x"
