"""SavedModels: the release's call, endpoints and gradients, in a process without this package."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny_models
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.datasets import open_source
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.errors import UserError
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.optim.lars import LARS
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import atomic, check_images, export_saved_model
from tf_hub_export.input_contract import InputContract
from tf_hub_export.signatures import make_signatures

pytestmark = pytest.mark.usefixtures("half_as_deep")
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
def exported(tmp_path_factory: pytest.TempPathFactory, half_as_deep: None) -> tuple[SimCLR, str]:
    model = small_model()
    return model, export_saved_model(model, str(tmp_path_factory.mktemp("export") / "module"))


@pytest.fixture(scope="module")
def loaded(exported: tuple[SimCLR, str]) -> Any:
    return tf.saved_model.load(exported[1])


@pytest.fixture
def module(loaded: Any) -> Iterator[Any]:
    """Loaded once: each test finds the variables that were exported."""
    kept = [variable.numpy() for variable in loaded.variables]
    yield loaded
    for variable, value in zip(loaded.variables, kept, strict=True):
        variable.assign(value)


@pytest.fixture(scope="module")
def smallest() -> SimCLR:
    """For what is done with the folder."""
    return SimCLR(make_encoder("mlp:4", image_size=4), ProjectionHead("none"))


def features_of(model: SimCLR, batch: np.ndarray) -> np.ndarray:
    return np.asarray(model.encoder(batch, training=False))


def images(count: int = 4, size: int = 16) -> np.ndarray:
    return np.random.RandomState(0).rand(count, size, size, 3).astype("float32")


def test_endpoints_equal_the_model(exported: tuple[SimCLR, str], module: Any) -> None:
    model, _ = exported
    for size in (16, 24):  # any batch, any size
        outputs = module(images(3, size), trainable=False)
        assert set(outputs) == ENDPOINTS
        features = features_of(model, images(3, size))
        np.testing.assert_allclose(outputs["final_avg_pool"], features, rtol=1e-4, atol=1e-5)
        assert outputs["proj_head_output"].shape == (3, 8)
        assert outputs["logits_sup"].shape == (3, 3)
    again = module(images(3), training=False)  # as Keras and TF-Hub call it
    first = module(images(3))
    np.testing.assert_array_equal(again["block_group2"], first["block_group2"])


def test_moving_statistics_move_in_training_only(module: Any) -> None:
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
    safe = "-P" if sys.version_info >= (3, 11) else "-E"
    done = processes.run(safe, tmp_path / "script.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    features = np.load(tmp_path / "out.npz")["final_avg_pool"]
    expected = features_of(exported[0], images())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_signatures_compute_what_the_call_does(module: Any) -> None:
    assert set(module.signatures) == {
        "serving_default", "features", "features_training", "serving_bytes",
    }  # fmt: skip
    expected = module(images(3, 24))
    served = module.signatures["serving_default"](images=tf.constant(images(3, 24)))
    assert set(served) == ENDPOINTS
    for name in ENDPOINTS:
        np.testing.assert_allclose(served[name], expected[name], rtol=1e-4, atol=1e-5)
    moving = module.model["resnet_model"]["initial_conv_relu_max_pool"]["2"]["bn"]["moving_mean"]
    before = moving.numpy()
    vector = module.signatures["features"](images=tf.constant(images(3, 24)))["features"]
    np.testing.assert_allclose(vector, expected["final_avg_pool"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moving.numpy(), before)
    trained = module.signatures["features_training"](images=tf.constant(images(3, 24)))["features"]
    assert not np.allclose(trained, vector, rtol=1e-2)
    assert not np.array_equal(moving.numpy(), before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 255, "Divide them by 255"),
        (lambda x: x * 2 - 1, "below 0: standardised"),
        (lambda x: x * np.float32("nan"), "Expected images in \\[0, 1\\]"),
    ],
)
def test_signatures_and_helper_check_the_range(module: Any, change: Any, words: str) -> None:
    wrong = tf.constant(change(images()))
    for name in ("serving_default", "features", "features_training"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            module.signatures[name](images=wrong)
    with pytest.raises(UserError, match=words):
        check_images(wrong)
    module(wrong)  # the call checks nothing


def test_helper_checks_type_shape_and_size() -> None:
    right = images(2, 16)
    np.testing.assert_array_equal(check_images(right, 16), right)
    np.testing.assert_array_equal(check_images(right.astype("float64")[:0]), right[:0])
    for wrong, size, words in (
        ((right * 255).astype("uint8"), None, "received: uint8"),
        (right[0], None, "Pass a batch, channels last"),
        (right[..., :1], None, "shape \\(N, height, width, 3\\)"),
        (right, (16, 20), "of 16 x 20 pixels; received: 16 x 16"),
    ):
        with pytest.raises(UserError, match=words):
            check_images(wrong, size)


def test_the_call_is_free_of_checks(module: Any) -> None:
    def operations(function: Any) -> set[str]:
        graph = function.graph.as_graph_def()
        inner = [node for f in graph.library.function for node in f.node_def]
        return {node.op for node in [*graph.node, *inner]}

    assert "Assert" in operations(module.signatures["features"])
    for function in module.__call__.concrete_functions:
        assert "Conv2D" in operations(function) and "Assert" not in operations(function)


@pytest.mark.parametrize("size", [16, 40])  # without and with crop
def test_encoded_images_are_seen_as_in_evaluation(tmp_path: Path, size: int) -> None:
    """Against the evaluation of a folder of the same files, pixel by pixel."""
    from PIL import Image

    contract = InputContract((None, None, None, 3), (size, size))
    signatures = make_signatures(lambda x, training: {"final_avg_pool": x}, contract)
    encoded, expected = [], []
    for index, (height, width) in enumerate([(50, 70), (size, size), (33, 20)]):
        picture = np.random.RandomState(index).randint(0, 256, (height, width, 3)).astype("uint8")
        file = tmp_path / str(index) / "picture.png"
        file.parent.mkdir()
        Image.fromarray(picture).save(file)
        source = open_source(str(file.parent), "all")
        (seen,) = next(iter(evaluation_dataset(source, batch_size=1, image_size=size)))
        encoded.append(file.read_bytes())
        expected.append(seen[0])
    pixels = signatures["serving_bytes"](tf.constant(encoded))["features"]
    assert pixels.shape == (3, size, size, 3)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_encoded_images_reach_the_network(module: Any) -> None:
    pictures = (images(2, 16) * 255).astype("uint8")
    encoded = [tf.io.encode_png(pictures[0]), tf.io.encode_jpeg(pictures[1], quality=95)]
    served = module.signatures["serving_bytes"](image_bytes=tf.stack(encoded))["features"]
    seen = np.stack([tf.io.decode_image(e).numpy() for e in encoded]) / np.float32(255)
    np.testing.assert_allclose(served, module(seen)["final_avg_pool"], rtol=1e-4, atol=1e-5)


def test_overwriting_keeps_the_old_until_the_new_is_complete(
    exported: tuple[SimCLR, str],
    smallest: SimCLR,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "module"
    shutil.copytree(exported[1], path)
    (path / "old").touch()
    export = Path(exported[1])

    def write(module: Any, partial: str, **options: Any) -> None:
        assert (path / "old").exists()
        shutil.copytree(export, partial, dirs_exist_ok=True)

    monkeypatch.setattr(tf.saved_model, "save", write)

    def fail(partial: str, path: str) -> None:
        raise OSError("disk gone")

    with monkeypatch.context() as broken:
        broken.setattr(atomic, "put_folder", fail)
        with pytest.raises(OSError, match="disk gone"):
            export_saved_model(smallest, str(path), overwrite=True)
    assert (path / "old").exists() and [p.name for p in tmp_path.iterdir()] == ["module"]
    export_saved_model(smallest, str(path), overwrite=True)
    assert not (path / "old").exists() and (path / "README.md").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["module"]


def test_only_exports_are_overwritten(smallest: SimCLR, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").touch()
    with pytest.raises(UserError, match="Expected an export to overwrite"):
        export_saved_model(smallest, str(tmp_path / "home"), overwrite=True)
    assert (tmp_path / "home" / "thesis").exists()


def test_an_existing_folder_is_kept(
    exported: tuple[SimCLR, str], smallest: SimCLR, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="does not exist"):
        export_saved_model(smallest, exported[1])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="can be written"):
        export_saved_model(smallest, str(tmp_path / "file" / "module"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_nothing(
    smallest: SimCLR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: Any, path: str, **options: Any) -> None:
        (Path(path) / "half").write_text("written")
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(smallest, str(tmp_path / "module"))
    assert list(tmp_path.iterdir()) == []


def test_classifier_and_other_encoders(tmp_path: Path) -> None:
    encoder = make_encoder("mlp:16", image_size=8)
    classifier = Classifier(encoder, num_classes=5)
    module = tf.saved_model.load(export_saved_model(classifier, str(tmp_path / "m")))
    outputs = module(images(2, 8), trainable=False)
    assert {"final_avg_pool", "proj_head_input", "proj_head_output", "logits_sup"} <= set(outputs)
    expected = classifier(images(2, 8))
    np.testing.assert_allclose(outputs["logits_sup"], expected, rtol=1e-4, atol=1e-5)


def test_each_mode_is_traced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the call, which is saved in four ways, for three signatures and for the card."""
    model = SimCLR(make_encoder("mlp:4", image_size=4), ProjectionHead("none"))
    traced: list[bool] = []
    hidden_layers = model.projection_head.hidden_layers

    def counted(features: tf.Tensor, training: bool) -> list[tf.Tensor]:
        traced.append(training)
        return hidden_layers(features, training=training)

    monkeypatch.setattr(model.projection_head, "hidden_layers", counted)
    export_saved_model(model, str(tmp_path / "module"))
    assert sorted(traced) == [False, True]


def test_an_encoder_with_dropout(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
    model = SimCLR(keras.Model(inputs, keras.layers.Dense(4)(hidden)), ProjectionHead("none"))
    module = tf.saved_model.load(export_saved_model(model, str(tmp_path / "m")))
    call = module(images(2, 8))["final_avg_pool"]
    np.testing.assert_allclose(call, model(images(2, 8)), rtol=1e-4, atol=1e-5)
    draws = [module(images(2, 8), trainable=True)["final_avg_pool"].numpy() for _ in range(2)]
    assert not np.allclose(draws[0], draws[1])
    assert len(module.variables) == 2


def test_exported_under_two_replicas(strategy: Any, tmp_path: Path) -> None:
    with strategy.scope():
        model = tiny_models.small_model()
    module = tf.saved_model.load(export_saved_model(model, str(tmp_path / "m")))
    features = features_of(model, images())
    outputs = module(images(), trainable=False)
    np.testing.assert_allclose(outputs["final_avg_pool"], features, rtol=1e-4, atol=1e-5)
