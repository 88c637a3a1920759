"""SavedModels: the release's call, endpoints and gradients, in a process without this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.augment import SimCLRAugment
from simclr_tf.encoders import make_encoder
from simclr_tf.errors import UserError
from simclr_tf.finetune import Classifier
from simclr_tf.heads import ProjectionHead
from simclr_tf.model import SimCLR
from simclr_tf.optimizers import LARS
from simclr_tf.resnet import ResNet
from tf_hub_export import export_saved_model

ENDPOINTS = {"initial_conv", "initial_max_pool", "block_group1", "block_group2", "block_group3",
             "block_group4", "final_avg_pool", "proj_head_input", "proj_head_output",
             "logits_sup"}  # fmt: skip

FINE_TUNE = """
import sys
import numpy as np, tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
assert "simclr_tf" not in sys.modules
images = tf.constant(np.load(sys.argv[2]))
outputs = module(images, trainable=False)
np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
assert len(module.trainable_variables_list) == len(module.trainable_variables) > 0
head = tf.Variable(tf.zeros([outputs["final_avg_pool"].shape[-1], 2]))
labels = tf.constant([0, 1] * (len(images) // 2))
variables = [v for v in module.trainable_variables if v.shape.rank == 4] + [head]
losses = []
for _ in range(8):
    with tf.GradientTape() as tape:
        features = module(images, trainable=True)["final_avg_pool"]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=labels, logits=features @ head))
    gradients = tape.gradient(loss, variables)
    assert all(g is not None for g in gradients)
    for variable, gradient in zip(variables, gradients):
        variable.assign_sub(0.05 * gradient)
    losses.append(float(loss))
assert losses[-1] < 0.9 * losses[0], losses
"""


def small_model() -> SimCLR:
    model = SimCLR(
        ResNet(18, 0.125, cifar_stem=True),
        ProjectionHead(out_dim=8, num_layers=2),
        augment=SimCLRAugment(16),
        num_classes=3,
    )
    model.compile(optimizer=LARS(0.1))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimCLR, str]:
    model = small_model()
    return model, export_saved_model(model, str(tmp_path_factory.mktemp("export") / "module"))


def images(count: int = 4, size: int = 16) -> np.ndarray:
    return np.random.RandomState(0).rand(count, size, size, 3).astype("float32")


def test_endpoints_equal_the_model(exported: tuple[SimCLR, str]) -> None:
    model, path = exported
    module = tf.saved_model.load(path)
    for size in (16, 24):  # any batch, any size
        outputs = module(images(3, size), trainable=False)
        assert set(outputs) == ENDPOINTS
        features = model.predict(images(3, size), verbose=0)
        np.testing.assert_allclose(outputs["final_avg_pool"], features, rtol=1e-4, atol=1e-5)
        assert outputs["proj_head_output"].shape == (3, 8)
        assert outputs["logits_sup"].shape == (3, 3)
    again = module(images(3), training=False)  # as Keras and TF-Hub call it
    first = module(images(3))
    np.testing.assert_array_equal(again["block_group2"], first["block_group2"])


def test_moving_statistics_move_in_training_only(exported: tuple[SimCLR, str]) -> None:
    module = tf.saved_model.load(exported[1])
    moving = module.model["resnet_model"]["initial_conv_relu_max_pool"]["2"]["bn"]["moving_mean"]
    before = moving.numpy()
    module(images(), trainable=False)
    np.testing.assert_array_equal(moving.numpy(), before)
    module(images(), trainable=True)
    assert not np.array_equal(moving.numpy(), before)


def test_fine_tuned_by_a_process_that_has_no_simclr_tf(
    exported: tuple[SimCLR, str], tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images())
    (tmp_path / "script.py").write_text(FINE_TUNE)
    arguments = [exported[1], str(tmp_path / "images.npy"), str(tmp_path / "out.npz")]
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-E",
         str(tmp_path / "script.py"), *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    features = np.load(tmp_path / "out.npz")["final_avg_pool"]
    expected = exported[0].predict(images(), verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_an_existing_folder_is_kept(exported: tuple[SimCLR, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        export_saved_model(exported[0], exported[1])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="can be written"):
        export_saved_model(exported[0], str(tmp_path / "file" / "module"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_nothing(
    exported: tuple[SimCLR, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: Any, path: str, **options: Any) -> None:
        (Path(path) / "half").write_text("written")
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(exported[0], str(tmp_path / "module"))
    assert list(tmp_path.iterdir()) == []


def test_classifier_and_other_encoders(tmp_path: Path) -> None:
    encoder = make_encoder("mlp:16", image_size=8)
    classifier = Classifier(encoder, num_classes=5)
    module = tf.saved_model.load(export_saved_model(classifier, str(tmp_path / "m")))
    outputs = module(images(2, 8), trainable=False)
    assert {"final_avg_pool", "proj_head_input", "proj_head_output", "logits_sup"} <= set(outputs)
    expected = classifier(images(2, 8))
    np.testing.assert_allclose(outputs["logits_sup"], expected, rtol=1e-4, atol=1e-5)


def test_exported_under_two_replicas(strategy: Any, tmp_path: Path) -> None:
    with strategy.scope():
        model = small_model()
    module = tf.saved_model.load(export_saved_model(model, str(tmp_path / "m")))
    features = model.predict(images(), verbose=0)
    outputs = module(images(), trainable=False)
    np.testing.assert_allclose(outputs["final_avg_pool"], features, rtol=1e-4, atol=1e-5)
