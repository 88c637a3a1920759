"""Exports in the hands of those who have no simclr_tf: each test a fresh process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import processes
import pytest

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import KERAS_3
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_saved_model

pytestmark = pytest.mark.usefixtures("half_as_deep")

START = """
import sys
import numpy as np, tensorflow as tf
images = np.random.RandomState(0).rand(8, 16, 16, 3).astype("float32")
labels = np.array([0, 1] * 4)

def end():
    assert not any(name.split(".")[0] in ("simclr_tf", "tf_hub_export") for name in sys.modules)

def fit(keras, inputs, features, batch_norm):
    # Fine-tuned: the loss falls, the encoder's kernels and batch norm's statistics move.
    model = keras.Model(inputs, keras.layers.Dense(2)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    kernels = [w for w in model.trainable_variables if len(w.shape) == 4]
    assert len(kernels) == 13, len(kernels)  # of half a ResNet-18: 9, and 4 of shortcuts
    before = [np.array(w) for w in kernels], np.array(batch_norm)
    untouched = model.predict(images, verbose=0)
    assert np.array_equal(before[1], np.array(batch_norm)), "moved by inference"
    losses = model.fit(images, labels, batch_size=8, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0], losses
    assert all(not np.array_equal(a, np.array(b)) for a, b in zip(before[0], kernels))
    assert not np.array_equal(before[1], np.array(batch_norm)), "not moved by training"
    assert not np.allclose(model.predict(images, verbose=0), untouched)
"""

HUB_LOAD = """
import tensorflow_hub as hub
module = hub.load(sys.argv[1])
outputs = module(images, trainable=False)
assert outputs["final_avg_pool"].shape == (8, 64) and outputs["logits_sup"].shape == (8, 3)
np.savez(sys.argv[2], features=outputs["final_avg_pool"], logits=outputs["logits_sup"])
# As the release's notebook does it: a new linear head on the frozen features.
head = tf.keras.layers.Dense(2)
head(outputs["final_avg_pool"])
end()
"""

KERAS_LAYER = """
import tensorflow_hub as hub
keras = tf.keras
if hasattr(keras, "ops"):
    import tf_keras as keras  # what TF-Hub's layers are made of there
inputs = keras.Input([16, 16, 3])
layer = hub.KerasLayer(sys.argv[1], trainable=True)
features = layer(inputs)["final_avg_pool"]
moving = next(w for w in layer.non_trainable_weights if "moving_mean" in w.name)
fit(keras, inputs, features, moving)
end()
"""

TFSM_LAYER = """
keras = tf.keras
still = keras.layers.TFSMLayer(sys.argv[1], call_endpoint="serving_default", trainable=False)
assert not still.trainable_weights
extractor = keras.Sequential([keras.Input([16, 16, 3]), still])
outputs = extractor.predict(images, verbose=0)
np.savez(sys.argv[2], features=outputs["final_avg_pool"], logits=outputs["logits_sup"])
inputs = keras.Input([16, 16, 3])
layer = keras.layers.TFSMLayer(
    sys.argv[1], call_endpoint="features", call_training_endpoint="features_training")
features = layer(inputs)["features"]
moving = next(w for w in layer.non_trainable_weights if "moving_mean" in w.name)
fit(keras, inputs, features, moving)
end()
"""

SNIPPETS = """
import contextlib, io, re, runpy
said = []
for index, code in enumerate(re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)):
    open(sys.argv[1] + f"/{index}.py", "w").write(code)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(sys.argv[1] + f"/{index}.py", run_name="__main__")
    said.append(out.getvalue().strip())
assert said[0] == "(8, 64)" and len(said) == 3, said
for text in said[1:]:
    first, last = map(float, text.split("->"))
    assert last < first, said
end()
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, half_as_deep: None) -> tuple[SimCLR, Path]:
    model = SimCLR(
        ResNet(18, 0.125, cifar_stem=True),
        ProjectionHead(out_dim=8, num_layers=2),
        augment=SimCLRAugment(16),
        num_classes=3,
    )
    path = tmp_path_factory.mktemp("use") / "module"
    details = {
        "data_set": "pets (train, 64 images)",
        "settings": {"image_size": 16, "dataset": "/home/me/pets", "model_dir": "/home/me/run"},
        "step": 7,
        "results": {"eval/label_top_1_accuracy": 0.5},
    }
    export_saved_model(model, str(path), details=details)
    return model, path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.RandomState(0).rand(8, 16, 16, 3).astype("float32")


def run(program: str, *arguments: str, folder: Path) -> None:
    """Runs a program in a process of its own, which finds no module in its folder."""
    script = folder / "script.py"
    script.write_text(START + program)
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    done = processes.run(*safe, script, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.one_lane  # on both lanes TF-Hub's layer loads it so
@pytest.mark.slow
def test_hub_load_as_in_the_releases_notebook(
    export: tuple[SimCLR, Path], images: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow_hub")
    run(HUB_LOAD, str(export[1]), str(tmp_path / "out.npz"), folder=tmp_path)
    expected = export[0].encoder(images, training=False)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_hub_keras_layer_is_fine_tuned(export: tuple[SimCLR, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_hub")
    if KERAS_3:
        pytest.importorskip("tf_keras", reason="hub.KerasLayer is no layer of Keras 3")
    run(KERAS_LAYER, str(export[1]), folder=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not KERAS_3, reason="TFSMLayer is Keras 3's")
def test_tfsm_layer_extracts_and_is_fine_tuned(
    export: tuple[SimCLR, Path], images: np.ndarray, tmp_path: Path
) -> None:
    run(TFSM_LAYER, str(export[1]), str(tmp_path / "out.npz"), folder=tmp_path)
    expected = export[0].encoder(images, training=False)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_code_of_the_card_runs_as_it_is_printed(
    export: tuple[SimCLR, Path], tmp_path: Path
) -> None:
    program = f"import os; os.chdir({str(export[1])!r})\n{SNIPPETS}"
    run(program, str(tmp_path), folder=tmp_path)


@pytest.mark.one_lane  # it knows no Keras; tests of both lanes call the signatures
@pytest.mark.slow
def test_saved_model_cli(export: tuple[SimCLR, Path], images: np.ndarray, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        done = processes.run(
            "-m", "tensorflow.python.tools.saved_model_cli", *arguments, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    where = ["--dir", str(export[1]), "--tag_set", "serve", "--signature_def"]
    shown = command("show", *where, "serving_bytes")
    assert "inputs['image_bytes']" in shown and "DT_STRING" in shown
    assert "outputs['features']" in shown and "(-1, 64)" in shown
    np.save(tmp_path / "images.npy", images)
    command("run", *where, "features", "--inputs", "images=images.npy", "--outdir", "out")
    features = np.load(tmp_path / "out" / "features.npy")
    expected = export[0].encoder(images, training=False)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_card_says_what_the_model_is(export: tuple[SimCLR, Path]) -> None:
    model, path = export
    card = json.loads((path / "model.json").read_text())
    assert card["architecture"]["encoder_parameters"] == model.encoder.count_params()
    assert card["architecture"]["features"] == 64 and card["architecture"]["classes"] == 3
    assert card["input"]["image_size"] == [16, 16] and card["input"]["range"] == [0, 1]
    assert card["endpoints"]["block_group4"] == [None, 2, 2, 64]
    assert card["endpoints"]["proj_head_output"] == [None, 8]
    assert card["settings"] == {"image_size": 16, "dataset": "pets"}  # and no word of whose
    text = (path / "README.md").read_text()
    assert "/home" not in text and "pets (train, 64 images)" in text
    assert "float32, RGB, values in [0, 1], shape (any, any, any, 3)" in text
    assert "eval/label_top_1_accuracy: 0.5" in text and "step: 7" in text
    for name in (*card["endpoints"], *card["signatures"]):
        assert f"`{name}`" in text
    assert len(re.findall("```python", text)) == 3
