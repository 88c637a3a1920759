"""Features that were begun and stopped: resumed to the byte, never mixed, finished ones kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from embedding import Run, embed, exports, interrupt_after, photos
from PIL import Image
from tiny_tfds import prepare

from simclr_tf.datasets import open_source
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.features.store import FeatureStore

__all__ = ["embed", "exports", "photos"]  # fixtures


def test_a_tfds_set_goes_on(
    exports: Path, tmp_path: Path, embed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "data", "tiny_set")
    common = ["--dataset=tiny_set", "--data_dir=data", "--output=f.npz", "--batch_size=4"]
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        assert embed(*common)[0] == 130
    code, out, err = embed(*common)
    assert code == 0 and "Going on from image 4" in out, err
    source = open_source("tiny_set", "all", data_dir="data")
    data = evaluation_dataset(source, batch_size=4, image_size=8)
    views, labels = zip(*data, strict=True)
    module = tf.saved_model.load(str(exports / "module"))
    expected = np.concatenate([module(view)["final_avg_pool"].numpy() for view in views])
    with np.load("f.npz") as file:
        assert set(file) == {"features", "index", "label", "class_names"}
        np.testing.assert_array_equal(file["label"], np.concatenate(labels))
        np.testing.assert_allclose(file["features"], expected, rtol=1e-5, atol=1e-6)
        assert file["class_names"].tolist() == ["x", "y", "z"]


@pytest.mark.parametrize("damage", ["none", "too much", "too little"])
def test_an_interrupted_run_goes_on(
    photos: Path, embed: Run, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    common = [f"--dataset={photos}", "--batch_size=5"]
    assert embed(*common, "--output=whole.npz")[0] == 0
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        code, _, err = embed(*common, "--output=f.npz")
    assert code == 130
    assert "10 of 23 images are kept in f.npz.partial; the same command goes on" in err
    assert sorted(os.listdir()) == ["f.npz.partial", "whole.npz"]
    if damage == "too much":  # a batch that was half written
        with open("f.npz.partial/features.bin", "ab") as file:
            file.write(b"half a row")
    if damage == "too little":  # a power cut: the count reached the disk, the rows did not
        os.truncate("f.npz.partial/label.bin", 7 * 8 + 3)
    begun: list[int] = []
    real = FeatureStore.append

    def append(self: FeatureStore, *batch: Any) -> None:
        begun.append(self.rows)
        real(self, *batch)

    monkeypatch.setattr(FeatureStore, "append", append)
    code, out, err = embed(*common, "--output=f.npz")
    assert code == 0, err
    first = 7 if damage == "too little" else 10
    assert begun[0] == first and f"Going on from image {first} of 23" in out
    if damage == "too little":  # other batches: equal within rounding
        with np.load("f.npz") as a, np.load("whole.npz") as b:
            np.testing.assert_allclose(a["features"], b["features"], rtol=1e-5, atol=1e-6)
            for name in set(b) - {"features"}:
                np.testing.assert_equal(a[name], b[name])
    else:
        assert Path("f.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert sorted(os.listdir()) == ["f.npz", "whole.npz"]


def test_begun_work_is_not_mixed(
    exports: Path, photos: Path, embed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        assert embed(f"--dataset={photos}", "--output=f.npz", "--batch_size=5")[0] == 130
    before = {p.name: p.read_bytes() for p in Path("f.npz.partial").iterdir()}
    for other, word in (
        (["--endpoint=proj_head_output"], "endpoint (final_avg_pool there, proj_head_output now)"),
        (["--split=train"], "data ("),
        ([f"--checkpoint={exports / 'keras'}"], "model ("),
        (["--projector_dir=p"], "outputs ("),
    ):
        code, _, err = embed(f"--dataset={photos}", "--output=f.npz", *other)
        assert code == 2 and word in err and "--overwrite" in err and err.count("\n") < 3
    held = FeatureStore("f.npz.partial", json.loads(before["job.json"]), {"index": ("int64", ())})
    code, _, err = embed(f"--dataset={photos}", "--output=f.npz")
    held.close()
    assert code == 2 and "another process writes there" in err
    assert {p.name: p.read_bytes() for p in Path("f.npz.partial").iterdir()} == before
    changed = ["--split=train[:6]", "--output=f.npz", "--overwrite"]
    assert embed(f"--dataset={photos}", *changed)[0] == 0
    with np.load("f.npz") as file:
        assert len(file["features"]) == 6
    assert os.listdir() == ["f.npz"]


def test_changed_images_are_noticed(
    tmp_path: Path, embed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(6):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "in" / f"{index}.png")
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        assert embed("--dataset=in", "--output=f.npz", "--batch_size=2")[0] == 130
    os.utime(tmp_path / "in" / "3.png", ns=(1, 1))
    code, _, err = embed("--dataset=in", "--output=f.npz", "--batch_size=2")
    assert code == 2 and "received: other data (" in err


def test_what_is_finished_stays(photos: Path, embed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    common = [f"--dataset={photos}", "--output=f.npz", "--projector_dir=p"]
    assert embed(*common)[0] == 0
    before = Path("f.npz").read_bytes(), Path("p/tensors.tsv").read_bytes()
    code, _, err = embed(*common)
    assert code == 2 and "--output to be a path that does not exist; received: 'f.npz'" in err
    again = [*common, "--endpoint=proj_head_output", "--overwrite", "--batch_size=5"]
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert embed(*again)[0] == 130
    assert (Path("f.npz").read_bytes(), Path("p/tensors.tsv").read_bytes()) == before
    code, out, err = embed(*again)
    assert code == 0 and "Going on from image 10" in out, err
    with np.load("f.npz") as file:
        assert file["features"].shape == (23, 4)
    assert sorted(os.listdir()) == ["f.npz", "p"]
    assert Path("p/tensors.tsv").read_bytes() != before[1]
