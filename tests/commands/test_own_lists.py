"""Tables and lists of images through the commands: train, resume, fine-tune, embed, evaluate."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from tiny_runs import Command, command, working_folder, write_folder

from simclr_tf import embed, evaluate
from simclr_tf.datasets import open_source
from simclr_tf.errors import UserError
from simclr_tf.features.extractor import feature_batches, load_extractor
from tf_hub_export.extractors import open_checkpoint

pytestmark = pytest.mark.one_lane  # data and plans; what Keras makes of them is asked elsewhere

__all__ = ["command", "refused", "working_folder"]  # fixtures


def write_table(folder: Path) -> str:
    """Writes 40 images and a table of them, whose columns have names of their own."""
    write_folder(folder / "photos", {"": 40})
    lines = ["shot,kind", *(f"photos/{i}.png,{'ab'[i % 2]}" for i in range(40))]
    (folder / "shots.csv").write_text("\n".join(lines))
    return "shots.csv"


@pytest.mark.one_lane
@pytest.mark.slow
def test_a_table_from_pretraining_to_features(
    command: Command, working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(working_folder)
    data = [f"--dataset={table}", "--image_column=shot", "--label_column=kind",
            "--train_split=train", "--eval_split=test", "--train_steps=1"]  # fmt: skip
    said = command(*data, "--model_dir=run")
    assert "36 images" in said and "2 classes" in said
    command(*data, "--train_mode=finetune", "--checkpoint=run", "--model_dir=tuned",
            "--label_fraction=0.5", "--train_batch_size=8")  # fmt: skip
    with open("tuned/labelled_images.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 18 and all(row["file"].startswith("photos/") for row in listed)
    columns = "--image_column=shot --label_column=kind"
    given = f"embed --checkpoint=run --dataset={table} {columns} --output=features.npz"
    assert embed.main(given.split()) == 0
    with np.load("features.npz") as features:
        kinds = features["class_names"][features["label"]]
        shots = [int(Path(name).stem) for name in features["file"]]
    assert len(shots) == 40 and all(k == "ab"[i % 2] for k, i in zip(kinds, shots, strict=True))
    capsys.readouterr()
    given = "evaluate run --protocols=knn --baselines=off --output=scores.json"
    assert evaluate.main(given.split()) == 0
    assert json.loads(Path("scores.json").read_text())["data"]["class_names"] == ["a", "b"]


@pytest.mark.one_lane
@pytest.mark.slow
def test_five_channels_of_16_bits(
    command: Command, working_folder: Path, refused: Callable[..., str]
) -> None:
    tifffile = pytest.importorskip("tifffile")
    random = np.random.RandomState(0)
    for name in ("a", "b"):
        (working_folder / "plants" / name).mkdir(parents=True)
        for index in range(20):
            values = random.randint(0, 4096, (12, 12, 5)).astype(np.uint16)
            tifffile.imwrite(f"plants/{name}/{index}.tif", values)
    data = ["--dataset=plants", "--train_split=train", "--eval_split=test", "--white_level=4095"]
    assert "Pass --channels=5" in refused(*data)
    command(*data, "--channels=5", "--mode=train_then_eval", "--model_dir=run", "--train_steps=1")
    given = "embed --saved_model=run --dataset=plants --output=saved.npz --projector_dir=projector"
    assert embed.main(given.split()) == 0
    assert len(np.load("saved.npz")["features"]) == 40
    images = random.rand(3, 8, 8, 5).astype(np.float32)
    saved = load_extractor("run", "final_avg_pool")
    checkpoint = open_checkpoint("run").extract
    np.testing.assert_allclose(saved(images), checkpoint(images), rtol=1e-4, atol=1e-5)
    assert saved.white_level == checkpoint.white_level == 4095
    given = "evaluate run --protocols=knn --output=scores.json"
    assert evaluate.main(given.split()) == 0
    assert "raw pixels" in json.loads(Path("scores.json").read_text())["results"]
    with pytest.raises(UserError, match="of 5 channels, as the model takes; received: 3"):
        next(feature_batches(open_source("mnist_5k", "test"), saved, 8))


def test_the_table_is_not_overwritten(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shots.tsv").write_text("path\n0.png\n")
    given = "embed --saved_model=x --dataset=shots.tsv --output=shots.tsv --overwrite"
    assert embed.main(given.split()) == 2
    assert "--output and --dataset to lie apart" in capsys.readouterr().err
    assert Path("shots.tsv").read_text() == "path\n0.png\n"


def test_runs_stay_out_of_every_listed_folder(
    refused: Callable[..., str], working_folder: Path
) -> None:
    for name in ("a", "b"):
        write_folder(working_folder / name, {"": 10})
    (working_folder / "images.txt").write_text("a\nb\n")
    for dataset in ("a,b", "images.txt"):
        line = refused(f"--dataset={dataset}", "--model_dir=b")
        assert "the folder of images itself" in line


def test_wrong_tables_and_lists(refused: Callable[..., str], working_folder: Path) -> None:
    table = write_table(working_folder)
    assert "Pass --image_column" in refused(f"--dataset={table}")
    line = refused(f"--dataset={table}", "--image_column=shot", "--label_column=art")
    assert "(shot, kind); received: 'art'" in line
    assert "can't be read" in refused("--dataset=nowhere.parquet")
    assert "does not exist" in refused("--dataset=photos,nowhere")
    assert "Leave it out" in refused("--dataset=photos", "--label_column=kind")
