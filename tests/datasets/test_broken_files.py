"""Image files that can't be read: found, named, skipped or refused, when listed or when decoded."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from image_files import decode_all, make_classes, noise, truncate

from simclr_tf.datasets import open_source
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane


def broken_folder(root):
    """Ten readable images and six broken ones; returns the names of the broken ones."""
    for i in range(10):
        noise(root / f"good{i}.{['png', 'jpg', 'webp', 'bmp', 'gif'][i % 5]}", seed=i)
    for suffix in ("png", "jpg", "webp", "bmp"):
        noise(root / f"cut.{suffix}")
        truncate(root / f"cut.{suffix}")
    (root / "zero.png").write_bytes(b"")
    (root / "text.jpg").write_text("this is no image")
    return {"cut.png", "cut.jpg", "cut.webp", "cut.bmp", "zero.png", "text.jpg"}


def test_broken_files_are_found_named_counted_and_skipped(tmp_path):
    broken = broken_folder(tmp_path)
    source = open_source(str(tmp_path), "all", eval_fraction=0.1)
    assert {os.path.basename(path) for path, _ in source.bad_images} == broken
    reasons = {os.path.basename(path): reason for path, reason in source.bad_images}
    assert "empty" in reasons["zero.png"] and "no JPEG" in reasons["text.jpg"]
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert source.num_examples == 10 and all(e["ok"] for e in decode_all(source))
    assert source.image_shape == (18, 24, 3)


def test_fail_on_a_broken_file(tmp_path):
    noise(tmp_path / "good.png")
    (tmp_path / "zero.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"zero.png' \(the file is empty"):
        open_source(str(tmp_path), "all", on_bad_image="fail", eval_fraction=0.5)


def test_only_broken_files(tmp_path):
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match="2 files, none readable"):
        open_source(str(tmp_path), "all")


def test_class_with_only_broken_files(tmp_path):
    make_classes(tmp_path, {"a": 3, "b": 0})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.png").write_text("text")
    with pytest.raises(UserError, match="only unreadable files in b"):
        open_source(str(tmp_path), "all")


def late_broken_folder(root):
    """Four readable images and one whose damage only decoding shows."""
    for i in range(4):
        noise(root / f"good{i}.png", seed=i)
    noise(root / "late.png", seed=9)
    data = bytearray((root / "late.png").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    (root / "late.png").write_bytes(data)


def test_damage_that_only_decoding_shows(tmp_path):
    late_broken_folder(tmp_path)
    source = open_source(str(tmp_path), "all", eval_fraction=0.2)
    assert source.num_examples == 5 and source.bad_images == []
    examples = decode_all(source)
    assert sum(bool(e["ok"]) for e in examples) == 4
    decode_all(source)
    assert [os.path.basename(path) for path, _ in source.bad_images] == ["late.png"]  # once
    images, labels = source.as_numpy()
    assert images.shape == (4, 18, 24, 3) and labels is None


def test_in_training_the_next_image_takes_the_place_of_a_damaged_one(tmp_path):
    late_broken_folder(tmp_path)
    source = open_source(str(tmp_path), "all", eval_fraction=0.2)
    bad = [os.path.basename(p) for p in source.paths].index("late.png")
    plain = decode_all(source)
    filled = source.decode(np.int64(bad), replace_bad=True)
    assert bool(filled["ok"])
    np.testing.assert_array_equal(filled["image"], plain[(bad + 1) % 5]["image"])


def test_late_damage_with_fail_becomes_a_user_error(tmp_path):
    late_broken_folder(tmp_path)
    source = open_source(str(tmp_path), "all", eval_fraction=0.2, on_bad_image="fail")
    source.raise_if_bad()  # nothing yet
    with pytest.raises(UserError, match="late.png"), source.user_errors():
        decode_all(source)
    with pytest.raises(UserError, match="late.png"):
        source.raise_if_bad()


def test_a_deleted_file_is_a_bad_image(tmp_path):
    for i in range(3):
        noise(tmp_path / f"{i}.png", seed=i)
    source = open_source(str(tmp_path), "all", eval_fraction=0.4)
    os.remove(source.paths[1])
    assert [bool(e["ok"]) for e in decode_all(source)] == [True, False, True]
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="all 3 files failed"), source.user_errors():
        source.decode(np.int64(0), replace_bad=True)
