"""Exports in other formats: what a runtime computes from the file is what the model computes."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import tensorflow as tf
from conftest import deviation
from tensorflow import keras

from simclr_tf.checkpoints.release import load_release_weights
from simclr_tf.compat import KERAS_3, register
from simclr_tf.errors import UserError
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import PRECISIONS, export_model
from tf_hub_export.__main__ import main
from tf_hub_export.comparison import LIMITS, deviations, require_close, sample_images
from tf_hub_export.half_size import half_size
from tf_hub_export.input_contract import InputContract

SIZE, CLASSES = 12, 3
VECTORS = ["final_avg_pool", "proj_head_output", "logits_sup"]
CONVERTED = [("tflite", "float32"), ("tflite", "float16"), ("tflite", "int8"),
             ("onnx", "float32"), ("saved_model", "float16")]  # fmt: skip


def small_model(passes: int = 3) -> SimCLR:
    """A strided convolution, batch norm with statistics of its own, pooling, all the heads."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(64, 3, 2, padding="same")(inputs)
    x = keras.layers.ReLU()(BatchNorm()(x))
    x = keras.layers.Conv2D(64, 3, padding="same")(x)
    encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="small")
    model = SimCLR(encoder, ProjectionHead(out_dim=32, num_layers=2), num_classes=CLASSES)
    for seed in range(passes):
        model.encoder(images(8, seed), training=True)
    return model


def images(count: int = 5, seed: int = 1, size: int = SIZE) -> np.ndarray:
    return np.random.RandomState(seed).rand(count, size, size, 3).astype("float32")


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, np.ndarray], Path, SimCLR]:
    """What the module of a model gives for `images()`, a folder to export from, and the model."""
    folder = tmp_path_factory.mktemp("source")
    model = small_model()
    details = {"settings": {"image_size": SIZE}, "step": 7}
    export_model(model, str(folder / "keras"), "keras", details=details)
    export_model(model, str(folder / "module"), details=details)
    outputs = tf.saved_model.load(str(folder / "module"))(images(), trainable=False)
    return {name: value.numpy() for name, value in outputs.items()}, folder / "keras", model


@pytest.fixture(scope="module")
def converted(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`converted('tflite', 'int8')` is the command's folder, made once, and what it printed."""

    @functools.lru_cache
    def convert(format: str, precision: str) -> tuple[Path, str]:
        parent = tmp_path_factory.mktemp("converted")
        where = [f"--checkpoint={source[1]}", f"--export_dir={parent / 'out'}"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["x", *where, f"--format={format}", f"--precision={precision}"])
        assert code == 0, err.getvalue()
        assert "Warning" not in err.getvalue()
        assert [p.name for p in parent.iterdir()] == ["out"]
        return parent / "out", out.getvalue()

    return convert


@pytest.fixture
def command(tmp_path: Path, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    def run(checkpoint: Path, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        given = [f"--checkpoint={checkpoint}", f"--export_dir={tmp_path / 'out'}", *arguments]
        code = main(["tf_hub_export", *given])
        return (code, *capsys.readouterr())

    return run


def run_file(folder: Path, format: str, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Computes with the file as its users do, not through the exporter."""
    if format == "saved_model":
        outputs = tf.saved_model.load(str(folder))(batch, trainable=False)
        return {name: value.numpy() for name, value in outputs.items()}
    if format == "tflite":
        runner = tf.lite.Interpreter(str(folder / "model.tflite")).get_signature_runner()
        return dict(runner(images=batch))
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": batch}), strict=True))


@pytest.mark.parametrize(("format", "precision"), CONVERTED)
def test_files_compute_what_the_model_does(
    source: Any, converted: Any, format: str, precision: str
) -> None:
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    expected = source[0]
    folder, out = converted(format, precision)
    assert "Largest deviation from the model: final_avg_pool " in out
    outputs = run_file(folder, format, images())  # a batch of another size than the exporter's
    assert set(outputs) == set(expected if format == "saved_model" else VECTORS)
    worst = max(deviation(outputs[name], expected[name]) for name in outputs)
    assert worst < LIMITS[precision]
    if precision != "float32":  # it is not the float32 file under another name
        assert worst > LIMITS["float32"]
    card = json.loads((folder / "model.json").read_text())
    assert (card["format"], card["precision"]) == (format, precision)
    assert list(card["endpoints"]) == list(card["deviation"])
    assert set(card["deviation"]) == set(outputs) and card["step"] == 7
    assert 0 < max(card["deviation"].values()) <= card["deviation_limit"] == LIMITS[precision]
    text = (folder / "README.md").read_text()
    assert f"- `final_avg_pool`: {card['deviation']['final_avg_pool']:.1e}" in text
    assert f"final_avg_pool {card['deviation']['final_avg_pool']:.1e}" in out


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_the_card_says_which_images_are_taken(source: Any, converted: Any, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    folder, _ = converted(format, "float32")
    card = json.loads((folder / "model.json").read_text())
    text = (folder / "README.md").read_text()
    assert "any number of images" in text
    for count in (1, 3):
        assert len(run_file(folder, format, images(count))["final_avg_pool"]) == count
    if format == "tflite":
        assert card["input"]["shape"] == [None, SIZE, SIZE, 3]
        assert "other sizes are not taken" in text
        interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
        assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [-1, 12, 12, 3]
    else:
        assert card["input"]["shape"] == [None, None, None, 3]
        assert "other sizes are taken" in text
        other = images(2, size=SIZE + 4)
        features = run_file(folder, format, other)["final_avg_pool"]
        assert deviation(features, source[2].encoder(other, training=False)) < LIMITS["float32"]


def test_sizes_fall_with_the_precision(converted: Any) -> None:
    size = {}
    for precision in ("float32", "float16", "int8"):
        folder, _ = converted("tflite", precision)
        size[precision] = os.path.getsize(folder / "model.tflite")
        assert json.loads((folder / "model.json").read_text())["bytes"] == size[precision]
    assert size["float16"] < 0.6 * size["float32"] and size["int8"] < 0.4 * size["float32"]


def test_a_half_module_is_trained_and_read_again(source: Any, converted: Any) -> None:
    folder, _ = converted("saved_model", "float16")
    module = tf.saved_model.load(str(folder))
    kinds = {v.dtype for v in module.variables if len(v.shape) > 1}
    assert kinds == {tf.float16}
    data = "variables/variables.data-00000-of-00001"
    whole = os.path.getsize(source[1].with_name("module") / data)
    assert os.path.getsize(folder / data) < 0.6 * whole
    # Batch norm stays whole: its statistics exceed float16's range, or move by less than its steps.
    trained = {id(v) for v in module.trainable_variables}
    moving = [v for v in module.variables if id(v) not in trained]
    assert {v.dtype for v in module.variables if len(v.shape) == 1} == {tf.float32}
    assert len(moving) == 6 and all(len(v.shape) == 1 for v in moving)
    still = [v.numpy() for v in moving]
    module(images(), trainable=False)
    assert all(np.array_equal(a, v) for a, v in zip(still, moving, strict=True))
    with tf.GradientTape() as tape:
        outputs = module(images(), trainable=True)
        loss = tf.reduce_sum(outputs["proj_head_output"] ** 2) + tf.reduce_sum(
            outputs["logits_sup"] ** 2
        )
    gradients = tape.gradient(loss, module.trainable_variables)
    assert all(g is not None and np.isfinite(g).all() for g in gradients)
    assert all(not np.array_equal(a, v) for a, v in zip(still, moving, strict=True))
    for name in ("serving_default", "features", "features_training", "serving_bytes"):
        assert name in module.signatures
    # Its weights load as those of any SavedModel do, into float32.
    again = load_release_weights(small_model(), str(folder))
    features = again.encoder(images(), training=False)
    assert deviation(features, source[0]["final_avg_pool"]) < LIMITS["float16"]


def test_variables_that_are_not_plainly_read_stay_whole() -> None:
    kernel, table = tf.Variable(tf.random.normal([12, 4])), tf.Variable(tf.random.normal([9, 4]))

    @tf.function(autograph=False)
    def forward(x: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        return {"y": tf.matmul(x, kernel) + tf.gather(table, [2])}

    half, halves = half_size(forward, InputContract((None, 12), None))
    assert list(halves) == [id(kernel.handle)]
    x = tf.random.normal([3, 12])
    assert 0 < deviation(half(x, False)["y"], forward(x, False)["y"]) < 1e-3


def test_too_large_a_deviation_leaves_nothing(command: Any, tmp_path: Path) -> None:
    """Kernels beyond float16's range; one format on each lane."""
    model = small_model(passes=0)
    kernel = model.encoder.layers[1].kernel
    kernel.assign(kernel * 1e6)
    (tmp_path / "in").mkdir()
    model.save(tmp_path / "in" / "model.keras")
    format = "tflite" if KERAS_3 else "saved_model"
    code, out, err = command(tmp_path / "in", f"--format={format}", "--precision=float16")
    assert code == 2 and not out
    assert err.count("\n") == 1 and "within 0.02" in err and "Nothing was written" in err
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@register
class Strange(keras.layers.Layer):
    """An operation that neither TFLite nor ONNX has."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.math.betainc(inputs + 1.0, inputs + 1.0, tf.clip_by_value(inputs, 0.1, 0.9))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_what_a_format_cannot_express(command: Any, tmp_path: Path, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    inputs = keras.Input((4, 4, 3))
    outputs = keras.layers.Dense(4)(Strange()(keras.layers.Flatten()(inputs)))
    keras.Model(inputs, outputs).save(tmp_path / "in.keras")
    code, _, err = command(tmp_path / "in.keras", f"--format={format}")
    assert code == 2
    said = [line for line in err.splitlines() if line.startswith("tf_hub_export: error:")]
    assert len(said) == 1 and "Betainc" in said[0] and "Export it as saved_model" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["in.keras"]


def test_mixed_precision_is_not_converted(tmp_path: Path) -> None:
    inputs = keras.Input((4, 4, 3))
    half = keras.layers.Dense(4, dtype="mixed_bfloat16")(keras.layers.Flatten()(inputs))
    model = SimCLR(keras.Model(inputs, half), ProjectionHead("none"))
    for format in ("tflite", "onnx"):
        with pytest.raises(UserError, match="computes in float32.*bfloat16.*Export the run"):
            export_model(model, str(tmp_path / "out"), format)
    export_model(model, str(tmp_path / "out"), precision="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_half_module_of_a_replicated_model(strategy: Any, tmp_path: Path) -> None:
    with strategy.scope():
        model = small_model(passes=0)
    export_model(model, str(tmp_path / "out"), precision="float16")
    module = tf.saved_model.load(str(tmp_path / "out"))
    assert {v.dtype for v in module.variables if len(v.shape) > 1} == {tf.float16}
    features = module(images(), trainable=False)["final_avg_pool"]
    assert deviation(features, model.encoder(images(), training=False)) < LIMITS["float16"]


def test_without_tf2onnx(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tf2onnx" else find(name, *a)
    )
    code, _, err = command(tmp_path / "nothing", "--format=onnx")
    assert code == 2 and err.count("\n") == 1
    assert "tf2onnx" in err and "pip install 'simclr-tf[onnx]'" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format=onnx", "--precision=int8"], "among float32 for the format onnx"),
        (["--format=keras", "--precision=float16"], "among float32 for the format keras"),
        (["--precision=int8"], "among float32, float16 for the format saved_model"),
        (["--format=tflite", "--precision=int4"], "--precision: invalid choice"),
    ],
)
def test_wrong_precisions(command: Any, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, _, err = command(tmp_path / "nothing", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_deviations_by_hand() -> None:
    reference = {"a": np.float32([[1, -4]]), "b": np.float32([2])}
    found = deviations({"a": np.float32([[1, -3.5]]), "b": np.float32([2])}, reference)
    assert found == {"a": 0.125, "b": 0.0}
    assert require_close(found, "int8", "x")["deviation"] == found
    for wrong in (0.21, float("nan")):
        with pytest.raises(UserError, match="received: .* at b"):
            require_close({"a": 0.01, "b": wrong}, "int8", "x")
    for outputs in ({"a": np.zeros([2, 2])}, {"c": np.zeros(1)}):
        with pytest.raises(UserError, match="from the converted model"):
            deviations(outputs, reference)
    sample = sample_images(InputContract((None, None, None, 3), (8, 10)))
    assert sample.shape == (4, 8, 10, 3) and sample.min() >= 0 and sample.max() <= 1
    assert len({image.tobytes() for image in sample}) == 4
    assert sample_images(InputContract((None, 7, 2), None)).shape == (4, 7, 2)


SNIPPETS = """
import os, re, runpy, sys
for folder in sys.argv[2:]:
    os.chdir(folder)
    codes = re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)
    print("folder", len(codes), flush=True)
    for code in codes:
        open(sys.argv[1], "w").write(code)
        runpy.run_path(sys.argv[1], run_name="__main__")
    print("simclr_tf" if any(n.split(".")[0] == "simclr_tf" for n in sys.modules) else "alone")
"""


def cards(alone: bool) -> list[tuple[str, str]]:
    """Formats and precisions whose code takes nothing of this package, or the others."""
    every = [
        (f, p) for f in PRECISIONS for p in PRECISIONS[f] if (f, p) != ("saved_model", "float32")
    ]
    return [(f, p) for f, p in every if (f not in ("keras", "weights")) == alone]


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with simclr_tf"])
def test_code_of_each_card_runs_as_it_is_printed(
    converted: Any, command: Any, tmp_path: Path, alone: bool
) -> None:
    folders = {}
    for format, precision in cards(alone):
        if format == "onnx" and not importlib.util.find_spec("tf2onnx"):
            continue
        if format == "weights":  # of a network that is recognised by them
            SimCLR(ResNet(18, 0.125, cifar_stem=True)).save(tmp_path / "in.keras")
            assert command(tmp_path / "in.keras", "--format=weights")[0] == 0
            folders[format, precision] = tmp_path / "out"
        else:
            folders[format, precision] = converted(format, precision)[0]
    (tmp_path / "all.py").write_text(SNIPPETS)
    arguments = [tmp_path / "all.py", tmp_path / "snippet.py", *folders.values()]
    done = processes.run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, (done.stdout, done.stderr[-3000:])
    said = done.stdout.split("folder ")[1:]
    for (format, precision), text in zip(folders, said, strict=True):
        count, shape, *losses, packages = text.strip().splitlines()
        assert int(count) == (3 if format == "saved_model" else 1), (format, precision)
        assert shape == "(8, 64)", (format, precision)
        assert len(losses) == int(count) - 1, (format, precision)
        for line in losses:
            first, last = map(float, line.split("->"))
            assert last < first, (format, precision)
        assert packages == "alone" or not alone, (format, precision)
