"""Compressed classifiers: what the command says of its files, against the models and the bytes."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fresh_python import run_module_without_tensorflow
from tensorflow import keras
from tiny_runs import write_folder

from simclr_tf.datasets import open_source
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.examples.compress import main
from simclr_tf.examples.compression import time_in_turn
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.pruning import without_smallest
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_model

SPLIT = "test[:50]"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, the same with nine tenths of its largest kernel pruned, and an encoder."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    encoder = make_encoder("mlp:64", image_size=8)
    classifier = Classifier(encoder, 10)
    random = np.random.RandomState(0)
    classifier.supervised_head.kernel.assign(random.normal(size=(64, 10)))
    classifier.save(folder / "dense.keras")
    kernel = next(w for w in encoder.weights if len(w.shape) == 2)
    kernel.assign(without_smallest(np.array(kernel), round(0.9 * np.size(kernel))))
    classifier.save(folder / "pruned.keras")
    SimCLR(encoder, ProjectionHead("none")).save(folder / "encoder.keras")
    return folder


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Runs the command in a folder of its own, expects an exit code; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0, named: tuple[str, ...] = ("dense.keras",)) -> str:
        paths = [str(models / name) for name in named]
        defaults = ["--dataset=mnist_5k", f"--split={SPLIT}", "--rounds=2"]
        capsys.readouterr()
        assert main(["compress", "--saved_model", *paths, *defaults, *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert not code or err.startswith("simclr_tf.examples.compress: error: Expected")
        assert not code or err.count("\n") == 1
        return err if code else out

    return run


def test_each_file_is_what_the_table_says(
    command: Callable[..., str], models: Path, tmp_path: Path
) -> None:
    arguments = ["--precisions=float32,int8", "--output=table.csv"]
    said = command(*arguments, named=("dense.keras", "pruned.keras"))
    with open("table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["model"]).stem, row["precision"]) for row in rows] == [
        (model, precision) for model in ("dense", "pruned") for precision in ("float32", "int8")
    ]
    found = {(Path(row["model"]).stem, row["precision"]): row for row in rows}
    shown = evaluation_dataset(open_source("mnist_5k", SPLIT), batch_size=50, image_size=8)
    images, labels = next(iter(shown))
    for name in ("dense", "pruned"):
        model = keras.models.load_model(models / f"{name}.keras")
        hits = (model.predict(images, verbose=0).argmax(-1) == labels.numpy()).mean()
        kernels = np.concatenate([np.ravel(w) for w in model.weights if len(w.shape) == 2])
        for precision, tolerance in (("float32", 0.0), ("int8", 0.1)):
            row = found[name, precision]
            assert float(row["accuracy"]) == pytest.approx(hits, abs=tolerance + 1e-9)
            assert int(row["parameters"]) == sum(np.size(w) for w in model.weights)
            assert float(row["zeros"]) == pytest.approx((kernels == 0).mean())
            assert row["images"] == "50"
            times = [float(row[f"milliseconds{which}"]) for which in ("_low", "", "_high")]
            assert times[0] > 0 and times == sorted(times)
            assert f"{int(row['bytes']):,} |" in said and f"{float(row['zeros']):.3f}" in said
    assert float(found["dense", "int8"]["zeros"]) == 0
    export_model(model, str(tmp_path / "export"), "tflite", precision="int8")
    content = (tmp_path / "export" / "model.tflite").read_bytes()
    assert int(found["pruned", "int8"]["bytes"]) == len(content)
    assert int(found["pruned", "int8"]["gzip_bytes"]) == pytest.approx(
        len(gzip.compress(content)), abs=32
    )
    # Zeros take their place in the file, and none once it is compressed.
    for precision in ("float32", "int8"):
        dense, pruned = found["dense", precision], found["pruned", precision]
        assert int(pruned["bytes"]) == int(dense["bytes"])
        assert int(pruned["gzip_bytes"]) < 0.6 * int(dense["gzip_bytes"])


def test_the_table_as_json(command: Callable[..., str]) -> None:
    arguments = ["--precisions=float16", "--output=table.json", "--max_images=20"]
    command(*arguments)
    (row,) = json.loads(Path("table.json").read_text())["files"]
    assert row["precision"] == "float16" and row["images"] == 20
    assert "Choose another one, or pass --overwrite" in command(*arguments, code=2)


@pytest.mark.one_lane
def test_functions_are_timed_in_turn_in_any_order() -> None:
    called: list[int] = []
    found = time_in_turn([lambda i=i: called.append(i) for i in range(3)], rounds=6, seed=0)
    assert found.shape == (3, 3) and (np.diff(found) >= 0).all()
    rounds = np.reshape(called, (6, 3, 11))  # of each, ten calls that count after one
    assert (rounds == rounds[:, :, :1]).all()
    orders = [tuple(order) for order in rounds[:, :, 0]]
    assert all(sorted(order) == [0, 1, 2] for order in orders) and len(set(orders)) > 1


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--output=table.txt"], "to end with .csv or .json; received: 'table.txt'"),
        (["--precisions=int4"], "names from float32, float16, int8, each once"),
        (["--precisions=int8,int8"], "names from float32, float16, int8, each once"),
        (["--rounds=0"], "--rounds of at least 1; received: 0"),
        (["--seed=-1"], "--seed in [0, 2**31)"),
        (["--dataset=./unlabelled", "--split=train"], "Expected labelled images, for the accuracy"),
        (["--dataset=./two", "--split=train"], "the 10 classes of "),
        (["--split=nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_refused(
    command: Callable[..., str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    write_folder(tmp_path / "unlabelled", {"": 12})
    write_folder(tmp_path / "two", {"a": 12, "b": 12})
    assert expected in command(*arguments, code=2)


@pytest.mark.one_lane
def test_what_is_no_classifier_is_refused(command: Callable[..., str]) -> None:
    assert "without a linear head. Fine-tune it first" in command(code=2, named=("encoder.keras",))
    twice = ("dense.keras", "dense.keras")
    assert "Expected each --saved_model once" in command(code=2, named=twice)
    assert "found none" in command(code=2, named=("nothing.keras",))


@pytest.mark.one_lane
def test_wrong_arguments_need_no_tensorflow(tmp_path: Path) -> None:
    wrong = ["simclr_tf.examples.compress", "--saved_model=a", "--dataset=b", "--rounds=0"]
    found = run_module_without_tensorflow(tmp_path, *wrong)
    assert found.returncode == 2 and "--rounds of at least 1" in found.stderr
