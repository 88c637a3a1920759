"""`python -m tf_hub_export`: every source, every format, mistakes in one line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import tensorflow as tf
from fresh_python import run_code
from quick_networks import drawn_once
from release_files import write_release_file
from tensorflow import keras
from tiny_tokens import token_model

from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.run import main as train
from simclr_tf.runs.folder import FLAGS_FILE
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import load_model
from tf_hub_export.__main__ import main

__all__ = ["drawn_once"]  # a fixture

TINY = [
    "--dataset=mnist_5k", "--train_split=train[:64]", "--eval_split=test[:32]", "--image_size=8",
    "--encoder=mlp:16", "--proj_out_dim=8", "--num_proj_layers=2", "--augmentations=crop",
    "--train_batch_size=16", "--eval_batch_size=16", "--train_steps=2", "--warmup_epochs=0",
    "--eval_baselines=never", "--mode=train_then_eval",
]  # fmt: skip


def images(count: int = 4, size: int = 8) -> np.ndarray:
    return np.random.RandomState(0).rand(count, size, size, 3).astype("float32")


LOSS = ["--temperature=0.5", "--nohidden_norm", "--weight_decay=0.125", "--seed=3",
        "--lineareval_loss_weight=0.25"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(["simclr-tf", *TINY, *LOSS, f"--model_dir={folder}"]) == 0
    return folder


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Exports a source into a new folder of the test's; returns the folder."""

    def run(source: Path | str, name: str, *arguments: str) -> Path:
        folder = tmp_path / name
        capsys.readouterr()
        code = main(["x", f"--checkpoint={source}", f"--export_dir={folder}", *arguments])
        said = capsys.readouterr()
        assert code == 0, said.err
        assert said.out.startswith(f"Wrote {folder} (")
        return folder

    return run


def test_a_runs_export_carries_its_settings_and_results(trained: Path) -> None:
    card = json.loads((trained / "saved_model" / "2" / "model.json").read_text())
    result = json.loads((trained / "result.json").read_text())
    accuracy = "eval/label_top_1_accuracy"
    assert card["results"][accuracy] == pytest.approx(result[accuracy])
    assert card["data_set"] == "mnist_5k (train[:64], 64 images)" and card["step"] == 2
    flags = json.loads((trained / FLAGS_FILE).read_text())
    assert card["settings"]["encoder"] == "mlp:16"
    assert card["settings"].items() <= flags.items() and "model_dir" not in card["settings"]


def test_a_run_through_every_format(trained: Path, export: Any) -> None:
    """From model_dir to weights to .keras to SavedModel: the same outputs as the run's own."""
    own = tf.saved_model.load(str(trained / "saved_model" / "2"))(images())
    weights = export(trained, "weights", "--format=weights")
    assert (weights / "ckpt-2.index").is_file() and (weights / "README.md").is_file()
    keras_file = export(weights, "keras", "--format=keras")
    # The bare file, and the folder with what it says of itself.
    for source in (keras_file / "model.keras", keras_file):
        module = export(source, "module", "--overwrite")
        outputs = tf.saved_model.load(str(module))(images())
        assert set(outputs) == set(own)
        for name, value in own.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-5)
        card = json.loads((module / "model.json").read_text())
        assert card["input"]["image_size"] == [8, 8]
        if source.is_dir():
            assert card["settings"]["encoder"] == "mlp:16" and card["results"]
    one, details = load_model(str(trained / "ckpt-2"))
    assert details["settings"]["image_size"] == 8
    np.testing.assert_allclose(
        one.projection_head(one(images())), own["proj_head_output"], rtol=1e-4, atol=1e-5
    )
    again, details = load_model(str(module))  # an export is a source
    assert details["step"] == 2 and details["results"]
    np.testing.assert_allclose(again(images()), own["final_avg_pool"], rtol=1e-4, atol=1e-5)


def test_a_keras_file_keeps_the_loss_of_its_run(trained: Path, export: Any) -> None:
    model = keras.models.load_model(export(trained, "keras", "--format=keras") / "model.keras")
    config = model.get_config()
    wanted = {"temperature": 0.5, "hidden_norm": False, "weight_decay": 0.125, "seed": 3,
              "supervised_loss_weight": 0.25}  # fmt: skip
    assert {name: config[name] for name in wanted} == wanted


@pytest.mark.one_lane  # a recipe's value; both lanes load a run above
def test_a_fine_tuned_run_keeps_its_selector(trained: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    arguments = ["--train_mode=finetune", f"--checkpoint={trained}", "--ft_proj_selector=1",
                 "--fine_tune_after_block=0", f"--model_dir={tuned}"]  # fmt: skip
    assert train(["simclr-tf", *TINY, *arguments]) == 0
    model, details = load_model(str(tuned))
    assert isinstance(model, Classifier) and model.projection_selector == 1
    module = tf.saved_model.load(str(tuned / "saved_model" / "2"))
    np.testing.assert_allclose(
        model(images()), module(images())["logits_sup"], rtol=1e-4, atol=1e-5
    )
    assert len(model.trainable_variables) == len(module.trainable_variables)
    assert details["data_set"] == "mnist_5k (train[:64])" and details["results"]


@pytest.mark.one_lane  # its code loads the module and no Keras model
def test_the_documentations_page(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command and its code, as they are printed."""
    page = Path(__file__).parents[2] / "docs" / "exports.md"
    section = page.read_text(encoding="utf-8")
    (line,) = re.findall("```sh\n(.*?)```", section, re.DOTALL)
    (code,) = re.findall("```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "run").symlink_to(trained)
    (tmp_path / "script.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    assert words[:3] == ["python", "-m", "tf_hub_export"] and main(words[2:]) == 0
    done = processes.run("script.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "(8, 16) (8, 16)"


def test_any_encoder_in_a_keras_file(tmp_path: Path, export: Any) -> None:
    encoder = make_encoder("mlp:4", image_size=8)
    encoder.save(tmp_path / "encoder.keras")
    module = tf.saved_model.load(str(export(tmp_path / "encoder.keras", "module")))
    np.testing.assert_allclose(
        module(images())["final_avg_pool"], encoder(images()), rtol=1e-4, atol=1e-5
    )


def test_a_model_of_other_inputs_is_refused(tmp_path: Path, capsys: Any) -> None:
    token_model(augment=None).save(tmp_path / "tokens.keras")
    arguments = [f"--checkpoint={tmp_path / 'tokens.keras'}", f"--export_dir={tmp_path / 'm'}"]
    assert main(["tf_hub_export", *arguments]) == 2
    said = capsys.readouterr().err
    assert "a SimCLR with input_kind='any'" in said and said.count("\n") == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.second_lane
@pytest.mark.parametrize("kind", [SimCLR, Classifier, Distiller])
def test_a_fresh_process_knows_the_class_in_a_keras_file(kind: type, tmp_path: Path) -> None:
    """Keras 3 finds a class only if something has imported it; Keras 2 imports its module."""
    kind(make_encoder("mlp:4", image_size=8), num_classes=3).save(tmp_path / "model.keras")
    code = "import tf_hub_export as t; print(type(t.load_model('model.keras')[0]).__name__)"
    done = processes.run("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == kind.__name__, done.stderr[-3000:]


@pytest.mark.one_lane  # on both lanes tests/checkpoints exports one of them
@pytest.mark.slow
@pytest.mark.usefixtures("drawn_once")
def test_the_releases_files(golden: Any, tmp_path: Path, export: Any) -> None:
    archive = write_release_file("tf1_checkpoint", tmp_path / "r", golden("release_files"))
    folder = export(archive, "module")
    recorded = golden("tf1_checkpoint_outputs")
    outputs = tf.saved_model.load(str(folder))(recorded["images"], trainable=False)
    expected = recorded["final_avg_pool"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs["final_avg_pool"] / scale, expected / scale, atol=1e-4)
    card = json.loads((folder / "model.json").read_text())
    assert card["source"] == "r (tf1_checkpoint)" and card["settings"]["resnet_depth"] == 18


def test_formats_hold_every_variable(trained: Path) -> None:
    """The rebuilt model has the variables of one that is made by hand, and no more."""
    encoder = make_encoder("mlp:16", image_size=8)
    made = SimCLR(encoder, ProjectionHead(out_dim=8, num_layers=2), num_classes=10)
    loaded, _ = load_model(str(trained))
    shapes = [{k: tuple(v.shape) for k, v in model_variables(m).items()} for m in (made, loaded)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "The following arguments are required: --checkpoint, --export_dir"),
        (["--checkpoint=", "--export_dir=m"], "received: nothing after the ="),
        (["--checkpoint=a", "--export_dir=m", "--format=tar"], "--format: invalid choice"),
        (["--checkpoint=nothing/there", "--export_dir=m"], "found nothing there"),
        (["--checkpoint=no.keras", "--export_dir=m"], "Expected a file of Keras at no.keras"),
        (["--checkpoint=bad.keras", "--export_dir=m"], "Expected a model of Keras in bad.keras"),
        (["--checkpoint=a", "--export_dir=mine"], "a path that does not exist"),
        (["--checkpoint=a", "--export_dir=mine", "--overwrite"], "something else"),
        (["--checkpoint=run", "--export_dir=m"], "none for 'image_size'"),
    ],
    ids=str,
)
def test_wrong_commands(
    tmp_path: Path, monkeypatch: Any, capsys: Any, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work").touch()
    (tmp_path / "bad.keras").write_text("no model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FLAGS_FILE).write_text('{"encoder": "resnet"}')
    tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / "run" / "ckpt-1"))
    before = sorted(tmp_path.rglob("*"))
    assert main(["tf_hub_export", *arguments]) == 2
    said = capsys.readouterr().err
    assert words.lower() in said.lower() and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_answers_without_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys; from tf_hub_export.__main__ import main\n"
        "codes = []\n"
        "for line in ([], ['--help'], ['--version'], ['--checkpoint=a', '--export_dir=.']):\n"
        "    try:\n        codes.append(main(['x', *line]))\n"
        "    except SystemExit as stop:\n        codes.append(stop.code)\n"
        "assert codes == [2, 0, 0, 2], codes\n"
        "assert not {'tensorflow', 'numpy'} & set(sys.modules)"
    )
    done = run_code(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--export_dir" in done.stdout and "--overwrite" in done.stdout
