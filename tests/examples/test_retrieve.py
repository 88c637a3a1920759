"""Retrieval: neighbours and score against loops, the command as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fresh_python import run_module_without_tensorflow
from tiny_runs import write_folder

from simclr_tf.examples.retrieval import nearest, precision_at_k
from simclr_tf.examples.retrieve import main
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_saved_model

pytestmark = pytest.mark.usefixtures("half_as_deep")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: its neighbours are images that look alike."""
    encoder = make_encoder("resnet", image_size=16, resnet_depth=18, width_multiplier=0.125)
    path = tmp_path_factory.mktemp("export") / "module"
    model = SimCLR(encoder, ProjectionHead(mode="none"))
    export_saved_model(model, str(path), image_size=16)
    return path


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    export: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Runs the command in a folder of its own, expects an exit code; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        defaults = [f"--saved_model={export}", "--dataset=mnist_5k", "--split=test[:60]",
                    "--output=found.png"]  # fmt: skip
        capsys.readouterr()
        assert main(["retrieve", *defaults, *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert not code or err.startswith("simclr_tf.examples.retrieve: error: Expected")
        assert not code or err.count("\n") == 1
        return err if code else out

    return run


@pytest.mark.one_lane
def test_neighbours_and_score_equal_loops() -> None:
    random = np.random.RandomState(0)
    features = random.standard_normal((12, 5)) * random.uniform(0.1, 10, (12, 1))
    labels = random.randint(0, 3, 12)
    wanted, hits = [], 0
    for i in range(12):
        cosines = []
        for j in range(12):
            if i != j:
                norms = np.sqrt(features[i] @ features[i]) * np.sqrt(features[j] @ features[j])
                cosines.append((-(features[i] @ features[j]) / norms, j))
        best = [j for _, j in sorted(cosines)[:4]]
        wanted.append(best)
        hits += sum(labels[i] == labels[j] for j in best)
    found = nearest(features, 4)
    assert found.tolist() == wanted
    assert precision_at_k(found, labels) == pytest.approx(hits / 48)


def test_images_that_look_alike_are_found(command: Callable[..., str], tmp_path: Path) -> None:
    """Vertical and horizontal stripes: every neighbour is of the query's kind."""
    from PIL import Image

    random = np.random.RandomState(0)
    stripes = 200 * (np.arange(24) // 3 % 2)
    for kind, image in (("upright", stripes[None, :]), ("level", stripes[:, None])):
        (tmp_path / "photos/train" / kind).mkdir(parents=True)
        for index in range(8):
            pixels = image[..., None] + random.randint(0, 50, (24, 24, 3))
            path = tmp_path / "photos/train" / kind / f"{index}.png"
            Image.fromarray(pixels.astype("uint8")).save(path)
    said = command("--dataset=./photos", "--split=train", "--neighbours=3", "--queries=4")
    assert "precision@3 over" in said and ": 1.000 (raw pixels: " in said
    assert "4 queries" in said


def test_picture_shows_queries_and_neighbours(command: Callable[..., str], tmp_path: Path) -> None:
    from PIL import Image

    command("--queries=3", "--neighbours=2")
    with Image.open(tmp_path / "found.png") as picture:
        width, height = picture.size
        pixels = np.asarray(picture.convert("RGB"))
    assert width < height and len(np.unique(pixels)) > 20
    command("--queries=1", "--neighbours=4", "--output=wide.png")
    with Image.open(tmp_path / "wide.png") as picture:
        assert picture.width > 3 * picture.height
    first = (tmp_path / "found.png").read_bytes()
    command("--queries=3", "--neighbours=2", "--output=again.png")
    assert (tmp_path / "again.png").read_bytes() == first
    command("--queries=3", "--neighbours=2", "--output=other.png", "--seed=1")
    assert (tmp_path / "other.png").read_bytes() != first


def test_images_without_labels_have_no_score(command: Callable[..., str], tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", {"": 12})
    said = command("--dataset=./photos", "--split=train", "--neighbours=2")
    assert "precision" not in said and (tmp_path / "found.png").exists()


def test_other_endpoints_and_a_limit(command: Callable[..., str]) -> None:
    said = command("--endpoint=block_group1", "--max_images=20", "--batch_size=8")
    assert "over 20 images" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--saved_model=nowhere"], "'nowhere', which is neither"),
        (["--dataset=./nowhere"], "nowhere"),
        (["--split=tarin"], "tarin"),
        (["--endpoint=block_group9"], "one of block_group1, "),
        (["--neighbours=60"], "fewer neighbours than the 60 images"),
        (["--neighbours=0"], "--neighbours of at least 1"),
        (["--queries=0"], "--queries of at least 1"),
        (["--seed=-1"], "--seed of at least 0"),
        (["--output=found.jpg"], "to end in .png"),
        (["--output=mine.png"], "does not exist; received: 'mine.png'"),
        (["--output=mine.png/found.png"], "that can be written"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_arguments(
    command: Callable[..., str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "mine.png").write_text("mine")
    assert expected in command(*arguments, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_overwriting_is_asked_for(command: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "found.png").write_text("mine")
    command("--overwrite", "--queries=1")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [(["--help"], 0, "--saved_model"), (["--saved_model=x"], 2, "--dataset")],
)
def test_help_and_missing_arguments_import_no_tensorflow(
    tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    module = "simclr_tf.examples.retrieve"
    done = run_module_without_tensorflow(tmp_path, module, *arguments)
    assert done.returncode == code and expected in done.stdout + done.stderr
    assert "imported" not in done.stderr
