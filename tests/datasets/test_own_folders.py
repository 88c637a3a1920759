"""What runs, exports and features were written to is no data, and is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_tf import embed
from simclr_tf.config import Config
from simclr_tf.datasets import open_source
from simclr_tf.datasets.apart import check_file_apart, check_folder_apart
from simclr_tf.datasets.folder_layout import read_layout
from simclr_tf.errors import UserError
from simclr_tf.runs import folder as run_folder


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(len(str(path))).randint(0, 256, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def classes(root: Path, names: tuple[str, ...] = ("cats", "dogs")) -> Path:
    for name in names:
        for index in range(10):
            picture(root / name / f"{index}.png")
    return root


def run(folder: Path, **changed: object) -> Path:
    """A run's folder as training leaves it."""
    picture(folder / "views.png")
    (folder / "flags.json").write_text(json.dumps({**Config().to_dict(), **changed}))
    export(folder / "saved_model" / "3")
    return folder


def export(folder: Path) -> Path:
    picture(folder / "assets" / "logo.png")
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "model.json").write_text('{"simclr_tf": "1", "architecture": {}}')
    return folder


def features(folder: Path) -> Path:
    picture(folder / "projector" / "sprite.png")
    held = {"model": 1, "data": 1, "endpoint": "a", "outputs": [], "columns": {}}
    (folder / "job.json").write_text(json.dumps(held))
    return folder


def projector(folder: Path) -> Path:
    picture(folder / "sprite.png")
    (folder / "projector_config.pbtxt").write_text("embeddings {}")
    return folder


def held(root: Path) -> tuple[list[str], list[str]]:
    layout = read_layout(str(root), 0.2, 0)
    return tuple(sorted(layout.splits[split].paths) for split in ("train", "test"))


PLACES = ["runs/pretrain-x", "first", "cats/first", "cats/deep/er/first", "runs/a/b/c", ".hidden/x"]


@pytest.mark.parametrize("make", [run, export, features, projector])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_we_wrote_is_left_out_wherever_it_lies(tmp_path, make, labelled, monkeypatch):
    if labelled:
        root = classes(tmp_path)
    else:
        root = tmp_path
        for index in range(10):
            picture(root / f"{index}.png")
    before = held(root)
    monkeypatch.chdir(root)
    for place in PLACES if labelled else ["runs/pretrain-x", "first", ".hidden/x"]:
        make(root / place)
        assert held(root) == before, place
    source = open_source(".", "train", eval_fraction=0.2)
    assert source.class_names == (["cats", "dogs"] if labelled else None)
    visible = {name.split(" (")[0] for name in source.left_out}
    assert visible == {p for p in (PLACES if labelled else PLACES[:2]) if not p.startswith(".")}


def test_content_decides_and_not_the_name(tmp_path):
    root = classes(tmp_path, ("runs", "flags"))
    (root / "runs" / "flags.json").write_text('{"countries": []}')
    (root / "flags" / "flags.json").write_text("no JSON")
    (root / "flags" / "model.json").write_text('{"modelTopology": {}}')
    (root / "runs" / "job.json").mkdir()
    before = held(root)
    assert len(before[0]) + len(before[1]) == 20
    run(root / "runs" / "pretrain-x")  # in a class that is really called so
    assert held(root) == before
    (root / "runs" / "pretrain-x" / "flags.json").write_text('{"cut off')
    (root / "runs" / "pretrain-x" / "checkpoint").touch()
    assert held(root) == before


def test_a_run_of_an_earlier_version_and_one_behind_a_link(tmp_path):
    root = classes(tmp_path / "images")
    before = held(root)
    old = run(tmp_path / "elsewhere")
    settings = json.loads((old / "flags.json").read_text())
    kept = {name: settings[name] for name in list(settings)[:30] if name != "transparent"}
    (old / "flags.json").write_text(json.dumps(kept))
    os.symlink(old, root / "linked")
    assert held(root) == before


def test_images_that_go_with_a_run_are_told(tmp_path):
    root = classes(tmp_path, ("cats", "dogs", "owls"))
    run(root / "owls")
    (told,) = read_layout(str(root), 0.2, 0).left_out
    assert told == "owls (a run, and 10 images beside it)"
    with pytest.raises(UserError, match="received: none beside first"):
        run(tmp_path / "empty" / "first")
        read_layout(str(tmp_path / "empty"), 0.2, 0)


def test_a_settings_file_that_cannot_be_read(tmp_path, monkeypatch):
    run(classes(tmp_path) / "first")
    real = open

    def refuse(path, *args, **options):
        if str(path).endswith("flags.json"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="flags.json, which tells .* permission denied"):
        open_source(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (".", "the folder of images itself"), ("link", "the folder of images itself"),
        ("images/cats", "which holds 0.png"), ("cats", "which holds 0.png"),
        ("images/animals", "which holds owls/0.png"), ("behind", "which holds 0.png"),
    ],
)  # fmt: skip
def test_a_model_dir_that_would_change_the_data_is_refused(tmp_path, monkeypatch, target, words):
    root = classes(tmp_path / "images", ("cats", "dogs", "animals/owls"))
    os.symlink(root, tmp_path / "link")
    os.symlink(root / "cats", tmp_path / "cats")
    classes(tmp_path, ("behind",))
    os.symlink(tmp_path / "behind", root / "birds")
    monkeypatch.chdir(root if target == "." else tmp_path)
    dataset = "." if target == "." else "images"
    with pytest.raises(UserError, match=words) as error:
        check_folder_apart(dataset, target, "--model_dir")
    assert "\n" not in str(error.value)


def test_places_that_change_nothing(tmp_path, monkeypatch):
    root = classes(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    classes(tmp_path / "other")
    for target in (".", "other", "runs/x", "other/cats", "~/nowhere"):
        assert check_folder_apart("images", target, "--model_dir") is None
    for target in ("images/runs/x", "images/cats/x"):
        line = check_folder_apart("images", target, "--model_dir")
        assert line == f"{target} lies in the folder of images images: it is left out of the data."
    run(root / "runs" / "x")  # and again, when it resumes
    assert check_folder_apart("images", "images/runs/x", "--model_dir")
    with pytest.raises(UserError, match="where old exports are deleted"):
        check_folder_apart("images/saved_model", "images", "--model_dir")


def test_files_beside_the_images(tmp_path, monkeypatch):
    root = classes(tmp_path / "images")
    run(root / "first")
    monkeypatch.chdir(tmp_path)
    for target in ("images/a.png", "images/cats/a.PNG", "images/new/deep/a.png"):
        with pytest.raises(UserError, match="outside the folder of images"):
            check_file_apart("images", target, "--output")
    for target in ("images/a.npz", "images/first/a.png", "images/.new/a.png", "images/cats/.a.png"):
        assert "no part of the data" in check_file_apart("images", target, "--output")
    assert check_file_apart("images", "a.png", "--output") is None


def test_commands_refuse_before_the_work_and_leave_nothing(tmp_path, monkeypatch, capsys):
    from simclr_tf import run as command
    from simclr_tf.examples import retrieve

    root = classes(tmp_path / "images")
    monkeypatch.chdir(root)
    before = sorted(str(path) for path in root.rglob("*"))
    for target in (".", "cats", "../images"):
        code = command.main(["simclr-tf", "--dataset=.", f"--model_dir={target}"])
        assert code == 2, target
    assert retrieve.main(["", "--saved_model=x", "--dataset=.", "--output=cats/a.png"]) == 2
    given = ["", "--saved_model=x", "--dataset=..", "--projector_dir=../images/cats", "--overwrite"]
    (root / "cats" / "projector_config.pbtxt").touch()
    assert embed.main(given) == 2
    (root / "cats" / "projector_config.pbtxt").unlink()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5 and all("error: Expected" in line for line in said)
    assert sorted(str(path) for path in root.rglob("*")) == before


def test_only_exports_are_pruned(tmp_path):
    for step in (1, 2, 3):
        export(tmp_path / str(step))
    picture(tmp_path / "0" / "digit.png")
    run_folder.prune_exports(str(tmp_path), 1)
    assert sorted(os.listdir(tmp_path)) == ["0", "3"]


def test_a_second_run_and_a_resumed_one_see_the_same_data(tmp_path, monkeypatch, capsys):
    """The story of the fault, with runs that end before their first step."""
    from simclr_tf.runs.data import open_data
    from simclr_tf.runs.settling import settle

    classes(tmp_path)
    monkeypatch.chdir(tmp_path)
    seen = []
    for target in ("runs/first", "runs/second", "runs/first"):
        config = Config(
            dataset=".", eval_split="test", mode="train_then_eval", model_dir=target,
            image_size=8, train_batch_size=2, train_steps=1,
        )  # fmt: skip
        config, settled = settle(config)
        data, left_out = open_data(config, replicas=1)
        seen.append((data.train.paths, data.test.paths))
        assert data.train.class_names == ["cats", "dogs"]
        assert any("lies in the folder of images" in line for line in settled)
        assert len(left_out) == (len(seen) > 1)
        assert all(line.startswith("Left out of '.'") for line in left_out)
        run_folder.write_settings(config)
        picture(Path(target) / "views.png")
    assert seen[0] == seen[1] == seen[2]
