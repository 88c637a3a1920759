"""Verification as a user types it: scores, the picture, two pictures compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fresh_python import run_module_without_tensorflow
from PIL import Image
from sklearn.metrics import roc_auc_score
from tensorflow import keras
from tiny_runs import write_folder

from simclr_tf.datasets import open_source
from simclr_tf.examples.verify import main
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_saved_model

Run = Callable[..., str]


@pytest.fixture(scope="module")
def model() -> SimCLR:
    """An untrained network: its cosines are large where images look alike."""
    keras.utils.set_random_seed(0)
    encoder = make_encoder("mlp:64", image_size=16)
    return SimCLR(encoder, ProjectionHead(mode="none"))


@pytest.fixture(scope="module")
def saved(model: SimCLR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vertical and horizontal stripes, a class each."""
    folder = tmp_path_factory.mktemp("stripes")
    random = np.random.RandomState(0)
    bright = 200 * (np.arange(24) // 3 % 2)
    for kind, image in (("upright", bright[None, :]), ("level", bright[:, None])):
        (folder / "test" / kind).mkdir(parents=True)
        for index in range(8):
            pixels = image[..., None] + random.randint(0, 50, (24, 24, 3))
            Image.fromarray(pixels.astype("uint8")).save(folder / "test" / kind / f"{index}.png")
    return folder


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs the command in a folder of its own, expects an exit code; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        defaults = [f"--saved_model={saved}", "--image_size=16", "--dataset=mnist_5k",
                    "--split=test[:80]"]  # fmt: skip
        capsys.readouterr()
        assert main(["verify", *defaults, *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert not code or err.splitlines()[-1].startswith("simclr_tf.examples.verify: error: ")
        return err if code else out

    return run


def table(said: str) -> dict[str, dict[str, float]]:
    """Returns row -> column -> figure."""
    lines = said.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.split()[:1] == ["AUC"]]
    columns = lines[start].split()
    rows = [re.split(r"  +", line.strip()) for line in lines[start + 1 :]]
    width = 1 + len(columns)
    return {
        row[0]: dict(zip(columns, map(float, row[1:]), strict=True))
        for row in rows
        if len(row) == width
    }


def test_what_looks_alike_is_the_same(command: Run, stripes: Path, tmp_path: Path) -> None:
    upright, level = (stripes / "test" / kind for kind in ("upright", "level"))
    data = [f"--dataset={stripes}", "--split=test"]
    with Image.open(upright / "0.png") as image:
        Image.fromarray(np.asarray(image) // 2 * 2).save(tmp_path / "near.png")
    said = command(*data, f"--left={upright}/0.png", "--right=near.png", "--output=roc.png")
    assert "112 pairs of 16 images" in said  # 2 x 28 of a class each, and as many of two
    found = table(said)
    assert list(found) == ["this encoder", "the same, untrained", "raw pixels"]
    for row in ("this encoder", "raw pixels"):
        assert found[row]["AUC"] == found[row]["TAR@1%"] == 1
        assert found[row]["EER"] == 0 and found[row]["accuracy"] > 0.9
    threshold = found["this encoder"]["threshold"]
    alike = re.search(r"near\.png: cosine (\d\.\d+), the same \(threshold (\d\.\d+)\)", said)
    assert alike and float(alike[1]) > float(alike[2]) == threshold
    with Image.open(tmp_path / "roc.png") as picture:
        assert picture.width > picture.height and len(np.unique(np.asarray(picture))) > 20
    other = command(*data, f"--left={upright}/0.png", f"--right={level}/0.png")
    assert ", different (threshold" in other and table(other) == found
    itself = command(*data, f"--left={level}/3.png", f"--right={level}/3.png")
    assert "cosine 1.000, the same" in itself


@pytest.mark.one_lane
def test_raw_pixels_are_scored_as_over_all_pairs(command: Run) -> None:
    images, labels = open_source("mnist_5k", "test[:80]").as_numpy(image_size=16)
    vectors = images.reshape(80, -1) / np.linalg.norm(images.reshape(80, -1), axis=1)[:, None]
    first, second = np.triu_indices(80, 1)
    cosine = np.sum(vectors[first] * vectors[second], axis=1)
    wanted = roc_auc_score(labels[first] == labels[second], cosine)
    assert wanted > 0.7
    found = table(command())
    assert found["raw pixels"]["AUC"] == pytest.approx(wanted, abs=0.04)
    fewer = command("--seed=1", "--pairs=100")
    assert "100 pairs" in fewer and table(fewer)["raw pixels"] != found["raw pixels"]


@pytest.mark.one_lane
def test_an_export_that_is_no_keras_model_has_no_untrained_twin(
    command: Run, model: SimCLR, tmp_path: Path
) -> None:
    export_saved_model(model, str(tmp_path / "module"), image_size=16)
    found = table(command("--saved_model=module", "--max_images=40"))
    assert list(found) == ["this encoder", "raw pixels"]
    assert found["this encoder"] == table(command("--max_images=40"))["this encoder"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--saved_model=nowhere"], "nowhere"),
        (["--split=tset"], "tset"),
        (["--split=test[:3]"], "two images of a class, and two classes"),
        (["--dataset=plain", "--split=all"], "images with labels; received: 'plain'"),
        (["--endpoint=block_group9"], "block_group9"),
        (["--pairs=3"], "--pairs of at least 4"),
        (["--seed=-1"], "--seed of at least 0"),
        (["--left=mine.png"], "received: no --right"),
        (["--left=mine.png", "--right=nowhere.png"], "'nowhere.png', no file"),
        (["--left=mine.png", "--right=mine.png"], "mine.png"),
        (["--output=roc.jpg"], "to end in .png"),
        (["--output=mine.png"], "does not exist; received: 'mine.png'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_arguments(command: Run, tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "mine.png").write_text("mine")
    write_folder(tmp_path / "plain", {"": 2})
    assert expected in command(*arguments, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.png", "plain"]
    assert (tmp_path / "mine.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [(["--help"], 0, "--left"), (["--saved_model=x"], 2, "--dataset")],
)
def test_help_and_missing_arguments_import_no_tensorflow(
    tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    done = run_module_without_tensorflow(tmp_path, "simclr_tf.examples.verify", *arguments)
    assert done.returncode == code and expected in done.stdout + done.stderr
    assert "imported" not in done.stderr
