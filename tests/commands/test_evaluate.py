"""`python -m simclr_tf.evaluate`: every kind of model, every protocol, wrong input."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from tensorflow import keras
from tiny_runs import TINY, leave_out_exports

from simclr_tf import embed
from simclr_tf.datasets import open_source
from simclr_tf.evaluate import main
from simclr_tf.evaluation.protocols import PROTOCOLS
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.reports import image_features, sgd
from simclr_tf.reports.request import EvaluationRequest
from simclr_tf.run import main as train
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_model
from tf_hub_export.extractors import open_encoder

Evaluate = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("half_as_deep")
FAST = ["--max_images=80", "--protocols=knn,health"]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on 8-pixel digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    arguments = [
        *TINY,
        "--mode=train_then_eval",
        "--train_steps=2",
        f"--model_dir={folder}",
        "--augmentations=crop,flip",
    ]
    assert train(["simclr-tf", *arguments]) == 0
    return folder


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Evaluate:
    """Runs the command in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["evaluate", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def read(path: str = "evaluation.json") -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def embedded(model: Path, split: str, name: str) -> dict[str, np.ndarray]:
    arguments = [f"--saved_model={model}", "--dataset=mnist_5k", f"--split={split}"]
    assert embed.main(["embed", *arguments, f"--output={name}"]) == 0
    with np.load(name) as file:
        return dict(file)


def test_a_run_by_every_protocol(a_run: Path, evaluate: Evaluate) -> None:
    names = "logistic_regression,ridge,knn,few_labels,verification,retrieval,health,sgd_probe"
    code, out, err = evaluate(
        a_run, "--output=e.json", f"--protocols={names}", "--sgd_epochs=2", "--sgd_batch_size=16"
    )
    assert code == 0, err
    assert os.listdir() == ["e.json"]
    found = read("e.json")
    assert found["model"]["step"] == 2 and found["model"]["encoder_unchanged"] is True
    assert found["data"]["train_split"] == "train[:64]" and found["data"]["train_images"] == 64
    assert found["data"]["test_images"] == 32 and len(found["data"]["class_names"]) == 10
    assert set(found["protocols"]) == set(names.split(",")) and found["seed"] == 0
    assert {"simclr-tf", "scikit-learn", "python"} <= set(found["versions"])
    assert set(found["results"]) == {"this model", "same encoder, untrained", "raw pixels"}
    ours = found["results"]["this model"]
    assert set(ours) == set(names.split(","))
    assert found["results"]["raw pixels"].keys() == ours.keys() - {"sgd_probe"}
    rows = ours["knn"]["rows"]
    assert [(row["k"], row["T"]) for row in rows] == [
        (k, t) for k in (1, 5, 20) for t in (0.07, 0.1)
    ]
    assert "200: too few images" in ours["knn"]["left_out"]
    assert "knn without k of 200" in out
    assert len(ours["sgd_probe"]["heads"]) == 5
    chosen = ours["sgd_probe"]["settings"]["learning_rate"]
    by_rate = {head["learning_rate"]: head for head in ours["sgd_probe"]["heads"]}
    assert by_rate[chosen]["top_1"] == pytest.approx(ours["sgd_probe"]["top_1"])
    best = max(head["validation_accuracy"] for head in by_rate.values())
    assert by_rate[chosen]["validation_accuracy"] == best
    # The table says what the file says.
    for protocol, measure, value in (
        ("ridge", "top-1", ours["ridge"]["top_1"]),
        ("logistic regression", "top-1", ours["logistic_regression"]["top_1"]),
    ):
        line = next(line for line in out.splitlines() if line.startswith(f"{protocol} "))
        assert measure.replace("-", " ") in line.replace("-", " ") and f"{value:.3f}" in line
    assert "this model: " in out and "ollapsed" in out


def test_exports_and_files_of_features_say_the_same(a_run: Path, evaluate: Evaluate) -> None:
    arguments = ["--protocols=ridge,knn", "--baselines=off"]
    assert evaluate(a_run, "--output=run.json", *arguments)[0] == 0
    export = next((a_run / "saved_model").iterdir())
    splits = ["--dataset=mnist_5k", "--train_split=train[:64]", "--test_split=test[:32]"]
    assert evaluate(export, "--output=export.json", *arguments, *splits)[0] == 0
    train_features = embedded(a_run, "train[:64]", "train.npz")
    test_features = embedded(a_run, "test[:32]", "test.npz")
    files = ["train.npz", "--test_features=test.npz", "--output=files.json"]
    assert evaluate(*files, "--protocols=ridge,knn")[0] == 0
    results = [read(f"{name}.json")["results"]["this model"] for name in ("run", "export", "files")]
    for other in results[1:]:
        assert other["ridge"]["confusion"] == results[0]["ridge"]["confusion"]
        assert other["knn"] == results[0]["knn"]
    # k = 1 is a plain nearest neighbour.
    plain = KNeighborsClassifier(1, metric="cosine")
    plain.fit(train_features["features"], train_features["label"])
    expected = plain.score(test_features["features"], test_features["label"])
    assert results[0]["knn"]["rows"][0]["top_1"] == pytest.approx(expected)


@pytest.mark.one_lane
@pytest.mark.parametrize("kind", [".npz", ".tsv", ".parquet"])
def test_files_of_every_kind(kind: str, a_run: Path, evaluate: Evaluate) -> None:
    arguments = [f"--saved_model={a_run}", "--dataset=mnist_5k", "--split=test[:60]"]
    assert embed.main(["embed", *arguments, f"--output=f{kind}"]) == 0
    code, out, err = evaluate(f"f{kind}", "--protocols=ridge")
    assert code == 0, err
    assert "a fifth of the images is held out" in out
    found = read()
    held = found["data"]["test_images"]
    assert 6 <= held <= 12 and found["data"]["train_images"] == 60 - held
    assert len(found["data"]["class_names"]) == 10


@pytest.mark.one_lane
def test_a_hub_handle(a_run: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_hub

    export = next((a_run / "saved_model").iterdir())
    handles = {"https://tfhub.dev/nobody/simclr/1": str(export)}
    monkeypatch.setattr(tensorflow_hub, "resolve", lambda handle: handles[handle])
    splits = ["--dataset=mnist_5k", "--train_split=train[:64]", "--test_split=test[:32]"]
    assert evaluate("https://tfhub.dev/nobody/simclr/1", *splits, *FAST)[0] == 0
    assert read()["model"]["kind"] == "SavedModel"
    code, _, err = evaluate("https://tfhub.dev/nobody/none/1", *splits, "--output=other.json")
    assert code == 2 and "Expected a SavedModel behind https://tfhub.dev/nobody/none/1" in err


@pytest.mark.one_lane
def test_other_images_than_the_runs_own(a_run: Path, evaluate: Evaluate) -> None:
    """A folder without labels: no accuracy, and no traceback."""
    random = np.random.RandomState(0)
    os.mkdir("photos")
    for number in range(12):
        pixels = random.randint(0, 256, (9, 12, 3)).astype("uint8")
        Image.fromarray(pixels).save(f"photos/{number}.png")
    code, out, err = evaluate(a_run, "--dataset=photos", "--test_split=all")
    assert code == 0, err
    found = read(str(a_run / "evaluation.json"))["results"]
    (a_run / "evaluation.json").unlink()
    assert found["this model"]["knn"] == {"skipped": "no test image has a label"}
    assert found["this model"]["health"]["images"] == 12
    assert "this model: no knn: no test image has a label." in out


@pytest.mark.one_lane
def test_seeds_draw(a_run: Path, evaluate: Evaluate) -> None:
    arguments = ["--max_images=20", "--protocols=few_labels,verification", "--baselines=off"]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert evaluate(a_run, *arguments, f"--seed={seed}", f"--output={name}")[0] == 0
    a, b, c = (read(name) for name in "abc")
    assert a["results"] == b["results"] != c["results"]
    assert a["data"]["train_images"] == 20 and "20 drawn" in a["data"]["train_split"]


@pytest.mark.one_lane
@pytest.mark.parametrize("arguments, message", [
    (["--protocols=knn,magic"], "Expected protocols among logistic_regression"),
    (["--protocols="], "received: none"),
    (["--max_images=-1"], "Expected --max_images of at least 0"),
    (["--sgd_epochs=0"], "Expected --sgd_epochs of at least 1"),
    (["--seed=-2"], "Expected --seed of at least 0"),
    (["--endpoint=nothing", *FAST], "Expected --endpoint to be one of"),
    (["--dataset=nowhere/at/all", *FAST], "nowhere/at/all"),
    (["--train_split=validation", *FAST], "validation"),
    (["--test_features=f.npz"], "Expected a file of features beside --test_features"),
    (["--baselines=maybe"], "invalid choice"),
])  # fmt: skip
def test_wrong_arguments(
    arguments: list[str], message: str, a_run: Path, evaluate: Evaluate
) -> None:
    code, _, err = evaluate(a_run, *arguments)
    line = err.strip().splitlines()[-1]
    assert code == 2 and message in line and line.startswith("simclr_tf.evaluate: error: ")
    assert not (a_run / "evaluation.json").exists() and not os.listdir()


@pytest.mark.one_lane
def test_an_evaluation_is_not_overwritten_unasked(a_run: Path, evaluate: Evaluate) -> None:
    Path("evaluation.json").write_text("mine")
    for arguments in (["--output=evaluation.json"], ["--output=."], ["--output=no/../"]):
        code, _, err = evaluate(a_run, *arguments, *FAST)
        assert code == 2 and "Expected --output" in err
    assert Path("evaluation.json").read_text() == "mine"
    assert evaluate(a_run, "--output=evaluation.json", "--overwrite", *FAST)[0] == 0
    assert read()["data"]["train_images"] == 64


def write(name: str, features: Any, labels: Any = None) -> str:
    columns = {} if labels is None else {"label": np.asarray(labels)}
    np.savez(name, features=np.asarray(features, np.float32), **columns)
    return name


@pytest.mark.one_lane
def test_features_that_are_hard(evaluate: Evaluate) -> None:
    """Not numbers, one class, few images, labels missing in part, many classes."""
    random = np.random.RandomState(0)
    features = random.randn(40, 6)
    labels = np.arange(40) % 4
    broken = features.copy()
    broken[7, 2] = np.nan
    code, _, err = evaluate(write("nan.npz", broken, labels), "--test_features=nan.npz")
    assert code == 2 and "NaN or infinity in 1 of 40 training images, first in number 7" in err
    code, _, err = evaluate("nan.npz", "--test_features=missing.npz")
    assert code == 2 and "missing.npz" in err
    write("f.npz", features, labels)
    code, _, err = evaluate("f.npz", f"--test_features={write('w.npz', features[:, :5], labels)}")
    assert code == 2 and "of one width; received: 6 and 5" in err
    code, _, err = evaluate(write("maps.npz", np.zeros((4, 2, 2, 3)), [0, 1, 0, 1]))
    assert code == 2 and "Expected features (N, d)" in err
    Path("text.npz").write_text("no archive")
    code, _, err = evaluate("text.npz")
    assert code == 2 and "it can't be read" in err
    np.savez("empty.npz")
    Path("bare.npz").write_bytes(b"")
    for name in ("empty.npz", "bare.npz"):
        code, _, err = evaluate(name)
        assert code == 2 and f"at {name}" in err
    code, _, err = evaluate(write("ids.npz", features, labels * 10**8))
    assert code == 2 and "labels 0 to 300000000 are no class ids below 1000000" in err
    code, _, err = evaluate("f.npz", f"--seed={2**31}")
    assert code == 2 and "Expected --seed below" in err
    code, _, err = evaluate("f.npz", "--protocols=sgd_probe")
    assert code == 2 and "Expected a model for sgd_probe" in err

    def results(name: str, test: str | None = None, *more: str) -> dict[str, Any]:
        given = [] if test is None else [f"--test_features={test}"]
        code, _, err = evaluate(name, *given, "--overwrite", *more)
        assert code == 0, err
        return read()["results"]["this model"]

    one = results(write("one.npz", features, np.zeros(40, int)))
    assert one["knn"] == {"skipped": "the training images are of one class"}
    assert one["verification"] == {"skipped": "the test images are of one class"}
    assert "precision_at_1" in one["retrieval"]
    three = results(write("three.npz", features[:3], [0, 1, 1]), "f.npz")
    assert [row["k"] for row in three["knn"]["rows"]] == [1, 1]
    part = results(write("part.npz", features, np.where(np.arange(40) % 2, labels, -1)), "f.npz")
    only = write("only.npz", features[1::2], labels[1::2])
    assert part["knn"] == results(only, "f.npz")["knn"]
    none = results(write("none.npz", features))
    assert none["ridge"] == {"skipped": "no test image has a label"}
    assert none["health"]["collapsed"] is False
    code, out, _ = evaluate("f.npz", "--test_features=f.npz", "--protocols=knn", "--overwrite")
    assert code == 0 and "40 of 40 test images have the features of a training image" in out
    rare = np.where(np.arange(40) == 3, 1, 0)
    assert results(write("rare.npz", features, rare), "f.npz")["ridge"]["top_1"] >= 0
    many = write("many.npz", random.randn(3000, 4), np.arange(3000) % 1500)
    many = results(many, None, "--protocols=ridge,retrieval")
    assert many["ridge"]["confusion"] is None and len(many["ridge"]["per_class"]["f1"]) == 1500
    constant = results(write("constant.npz", np.ones((40, 6)), labels))
    assert constant["health"]["collapsed"] is True


@pytest.mark.one_lane
def test_maps_and_heads(a_run: Path, evaluate: Evaluate) -> None:
    """Endpoints that are maps are averaged; those of heads have no untrained twin."""
    names = ["--protocols=ridge,sgd_probe,health", "--sgd_epochs=1", "--sgd_batch_size=16"]
    code, out, err = evaluate(a_run, "--endpoint=proj_head_output", *names, "--output=head.json")
    assert code == 0 and "No untrained encoder" in out, err
    assert set(read("head.json")["results"]) == {"this model", "raw pixels"}
    model = SimCLR(ResNet(18, 0.0625, cifar_stem=True), ProjectionHead("none"))
    export_model(model, "module", details={"settings": {"image_size": 8}})
    data = ["--dataset=mnist_5k", "--train_split=train[:64]", "--test_split=test[:32]"]
    code, out, err = evaluate("module", "--endpoint=block_group1", *data, *names)
    assert code == 0, err
    assert read()["results"]["this model"]["sgd_probe"]["settings"]["epochs"] == 1


@pytest.mark.one_lane
def test_an_export_says_itself_how_it_was_trained(a_run: Path, evaluate: Evaluate) -> None:
    """Without a Keras model that can be read: data, splits and transparency are in its card."""
    shutil.copytree(next((a_run / "saved_model").iterdir()), "export")
    Path("export/model.keras").write_bytes(b"of another Keras")
    card = read("export/model.json")
    card["input"]["transparent"] = "black"
    Path("export/model.json").write_text(json.dumps(card))
    code, out, err = evaluate("export", *FAST, "--output=e.json")
    assert code == 0 and "No untrained encoder" in out, err
    found = read("e.json")
    assert found["data"]["test_split"] == "test[:32]" and found["data"]["train_images"] == 64
    assert found["model"]["transparent"] == "black" and found["model"]["step"] == 2
    assert evaluate("export", *FAST, "--transparent=mean", "--output=m.json")[0] == 0
    assert read("m.json")["model"]["transparent"] == "mean"


@pytest.mark.one_lane
def test_a_network_of_pictures_that_are_no_squares(evaluate: Evaluate) -> None:
    images = keras.Input((6, 10, 3))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save("wide.keras")
    data = ["--dataset=mnist_5k", "--train_split=train[:64]", "--test_split=test[:32]"]
    names = ["--protocols=health,sgd_probe", "--sgd_epochs=1", "--sgd_batch_size=16"]
    code, _, err = evaluate("wide.keras", *data, *names, "--baselines=off")
    assert code == 0, err
    assert read()["model"]["image_size"] == [6, 10]
    assert read()["results"]["this model"]["health"]["alignment"] is not None


@pytest.mark.one_lane
def test_a_class_that_one_file_lacks(evaluate: Evaluate) -> None:
    def table(name: str, classes: list[int]) -> str:
        names = ["ant", "bird", "cat"]
        lines = [f"{i}\t{c}\t{names[c]}\t{i / 9}\t{c}" for i, c in enumerate(classes)]
        Path(name).write_text("\n".join(["index\tlabel\tclass\tf0\tf1", *lines, ""]))
        return name

    train, test = table("a.tsv", [0, 1, 2, 0, 1, 2]), table("b.tsv", [0, 2, 2, 0])
    code, _, err = evaluate(train, f"--test_features={test}", "--protocols=ridge")
    assert code == 0, err
    Path(test).write_text(Path(test).read_text().replace("cat", "dog"))
    code, _, err = evaluate(train, f"--test_features={test}", "--output=other.json")
    assert code == 2 and "class 2 is 'cat' and 'dog'" in err


@pytest.mark.one_lane
def test_the_sgd_probe_leaves_unknown_labels_out(a_run: Path) -> None:
    source = open_source("mnist_5k", "train[:48]")
    hidden = source.hide_labels(np.arange(32))
    assert set(hidden.read_labels()[32:]) == {-1}
    opened = open_encoder(str(a_run))
    test = image_features.embed(open_source("mnist_5k", "test[:32]"), opened.extract, 32, "test")
    request = EvaluationRequest(str(a_run), sgd_epochs=2, sgd_batch_size=8)
    part = sgd.probe_images(opened, hidden, test, request)
    known = sgd.probe_images(opened, source.subset(np.arange(32)), test, request)
    assert part == known
    nothing = sgd.probe_images(opened, source.hide_labels(np.zeros(0, int)), test, request)
    assert nothing == {"skipped": "the training images are not of two classes"}


@pytest.mark.one_lane
def test_beside_a_supervised_run(
    a_run: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its encoder is opened from its checkpoint: the export, which takes longest, is left out.
    leave_out_exports(monkeypatch, "simclr_tf.reports.supervised.export_saved_model")
    arguments = [a_run, "--supervised_dir=supervised", *FAST, "--baselines=off"]
    code, out, err = evaluate(*arguments, "--output=e.json")
    assert code == 0, err
    found = read("e.json")
    assert list(found["results"]) == ["this model", "supervised, same length"]
    settings, ours = (read(f"{run}/flags.json") for run in ("supervised", a_run))
    assert settings["train_mode"] == "finetune" and settings["checkpoint"] is None
    for name in ("train_steps", "train_batch_size", "dataset", "encoder", "train_split"):
        assert settings[name] == ours[name], name
    own = read("supervised/result.json")["eval/label_top_1_accuracy"]
    assert found["supervised_run"] == {"path": "supervised", "top_1": own}
    assert evaluate(*arguments, "--output=again.json")[0] == 0  # trained already
    assert read("again.json")["results"] == found["results"]
    arguments[0] = next((a_run / "saved_model").iterdir())
    assert evaluate(*arguments, "--output=export.json")[0] == 0
    embedded(a_run, "test[:32]", "f.npz")
    code, _, err = evaluate("f.npz", "--supervised_dir=x", "--output=x.json")
    assert code == 2 and "Expected a model for --supervised_dir" in err


@pytest.mark.one_lane
def test_the_documentations_command(a_run: Path, evaluate: Evaluate) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (line,) = [
        line for line in page.splitlines() if line.startswith("python -m simclr_tf.evaluate")
    ]
    shutil.copytree(a_run, "run")
    assert evaluate(*shlex.split(line)[3:])[0] == 0
    assert set(read("run/evaluation.json")["protocols"]) == set(PROTOCOLS) - {"sgd_probe"}
    for name in PROTOCOLS:
        assert f"| `{name}` |" in page


@pytest.mark.one_lane
@pytest.mark.parametrize("shape", [(12,), (4, 6, 6, 3)])
def test_a_model_of_other_things_than_images(shape: tuple[int, ...], evaluate: Evaluate) -> None:
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, *shape])])
        def __call__(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"final_avg_pool": tf.reshape(inputs, [tf.shape(inputs)[0], -1])}

    tf.saved_model.save(Module(), "module")
    code, _, err = evaluate("module", "--dataset=mnist_5k")
    assert code == 2 and "Expected a model of images; received: module" in err
    code = embed.main(["embed", "--saved_model=module", "--dataset=mnist_5k", "--output=f.npz"])
    assert code == 2
