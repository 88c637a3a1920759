"""Folders of images: layouts and splits, what is skipped, wrong input."""

from __future__ import annotations

import os

import pytest
from image_files import decode_all, make_classes, save

from simclr_tf.datasets import folder_layout, open_source
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane


# ------------------------------------------------------------------------------------------ layouts


def test_class_folders_give_sorted_labels_and_nested_files_belong_to_their_class(tmp_path):
    make_classes(tmp_path, {"dog": 3, "cat/persian/white": 2, "cat": 1, "Zebra": 4})
    source = open_source(str(tmp_path), "all")
    assert source.class_names == ["Zebra", "cat", "dog"] and source.num_classes == 3
    assert source.num_examples == 10 and source.image_shape == (None, None, 3)
    for path, example in zip(source.paths, decode_all(source), strict=True):
        top = os.path.relpath(path, tmp_path).split(os.sep)[0]
        assert source.class_names[int(example["label"])] == top


def test_folder_without_sub_folders_has_no_labels(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.jpg")
    source = open_source(str(tmp_path), "train", eval_fraction=0.2)
    assert source.num_classes is None and source.class_names is None and not source.labelled
    assert source.num_examples == 4 and source.image_shape == (10, 12, 3)
    assert set(source.ordered_keys().map(source.decode).element_spec) == {"image", "size", "ok"}


def test_held_out_share_is_stratified_seeded_and_disjoint(tmp_path):
    make_classes(tmp_path, {"a": 20, "b": 10, "c": 2, "d": 1})

    def files(split, seed=0, fraction=0.2):
        return open_source(str(tmp_path), split, eval_fraction=fraction, seed=seed).paths

    train, test = files("train"), files("test")
    assert not set(train) & set(test) and len(train) + len(test) == 33
    count = {c: sum(os.path.basename(os.path.dirname(p)) == c for p in test) for c in "abcd"}
    assert count == {"a": 4, "b": 2, "c": 1, "d": 0}
    assert files("validation") == files("val") == test == files("test")
    assert set(files("test", seed=1)) != set(test)
    assert len(files("test", fraction=0.5)) == 10 + 5 + 1
    save(tmp_path / "d" / "new.png")  # does not move files of other classes
    assert {p for p in files("test") if f"{os.sep}d{os.sep}" not in p} == set(test)


@pytest.mark.parametrize("folder", ["test", "val", "validation"])
def test_split_folders_and_their_aliases(tmp_path, folder):
    make_classes(tmp_path / "train", {"a": 3, "b": 3})
    make_classes(tmp_path / folder, {"b": 2})
    assert open_source(str(tmp_path), "train").num_examples == 6
    for name in ("test", "val", "validation"):
        source = open_source(str(tmp_path), name)
        assert source.num_examples == 2 and source.class_names == ["a", "b"]
        assert {int(e["label"]) for e in decode_all(source)} == {1}  # train's ids


def test_val_and_test_folders_are_both_there(tmp_path):
    for name, count in (("train", 4), ("val", 3), ("test", 2)):
        make_classes(tmp_path / name, {"a": count})
    sizes = [open_source(str(tmp_path), s).num_examples for s in ("val", "validation", "test")]
    assert sizes == [3, 3, 2]
    assert open_source(str(tmp_path), "all").num_examples == 9


def test_train_folder_alone_gives_a_held_out_share(tmp_path):
    make_classes(tmp_path / "train", {"a": 10, "b": 10})
    assert open_source(str(tmp_path), "train").num_examples == 18
    assert open_source(str(tmp_path), "validation").num_examples == 2


def test_split_folders_without_labels(tmp_path):
    save(tmp_path / "train" / "x.png")
    save(tmp_path / "train" / "y.png")
    save(tmp_path / "test" / "z.png")
    assert open_source(str(tmp_path), "train").num_classes is None
    assert open_source(str(tmp_path), "test").num_examples == 1


def test_a_class_may_be_called_train(tmp_path):
    make_classes(tmp_path, {"train": 3, "bus": 2})
    assert open_source(str(tmp_path), "all").class_names == ["bus", "train"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_names_of_train_and_test_must_match(tmp_path, split):
    make_classes(tmp_path / "train", {"cat": 2, "dog": 2})
    make_classes(tmp_path / "test", {"cats": 2, "dog": 2})
    with pytest.raises(UserError, match="received: cats, which the latter lacks"):
        open_source(str(tmp_path), split)


def test_images_beside_class_folders(tmp_path):
    make_classes(tmp_path, {"cat": 2})
    save(tmp_path / "stray.png")
    with pytest.raises(UserError, match=r"both \(1 images such as 'stray.png' beside cat\)"):
        open_source(str(tmp_path), "train")


def test_split_expressions_on_folders_are_stratified_and_disjoint(tmp_path):
    make_classes(tmp_path / "train", {"a": 10, "b": 10})
    make_classes(tmp_path / "test", {"a": 2, "b": 2})
    first = open_source(str(tmp_path), "train[:80%]")
    rest = open_source(str(tmp_path), "train[80%:]")
    assert (first.num_examples, rest.num_examples) == (16, 4)
    assert not set(first.paths) & set(rest.paths)
    assert sorted(int(e["label"]) for e in decode_all(rest)) == [0, 0, 1, 1]
    assert open_source(str(tmp_path), "train[:5]+test").num_examples == 9


def test_hidden_foreign_and_other_files_are_ignored_and_reported(tmp_path, caplog):
    make_classes(tmp_path, {"a": 2, "empty": 0})
    (tmp_path / "empty").mkdir()
    save(tmp_path / "a" / "._x.png")
    save(tmp_path / ".cache" / "x.png")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    (tmp_path / "a" / "scan.heic").write_bytes(b"II")
    reports = []
    folder_layout.report_skipped, original = (
        lambda _, skipped: reports.append(dict(skipped)),
        (folder_layout.report_skipped),
    )
    try:
        source = open_source(str(tmp_path), "all")
    finally:
        folder_layout.report_skipped = original
    assert source.num_examples == 2 and source.class_names == ["a"]
    assert reports == [{"hidden": 1, ".heic": 1}]


def test_links_are_followed_and_loops_end(tmp_path):
    make_classes(tmp_path / "real", {"a": 2, "b": 1})
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "real" / "a", tmp_path / "root" / "a")
    os.symlink(tmp_path / "real" / "b", tmp_path / "root" / "b")
    os.symlink(tmp_path / "real", tmp_path / "real" / "b" / "loop")
    source = open_source(str(tmp_path / "root"), "all")
    assert source.class_names == ["a", "b"]
    assert source.num_examples == 2 + 1 + 2  # b/loop/a is below b; b/loop/b is the loop


def test_home_and_relative_paths(tmp_path, monkeypatch):
    save(tmp_path / "pics" / "a.png")
    save(tmp_path / "pics" / "b.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for dataset in ("~/pics", "./pics", "pics", "pics/"):
        assert open_source(dataset, "all").num_examples == 2


# ------------------------------------------------------------------------------------ wrong input


def test_missing_folder(tmp_path):
    for dataset in (f"{tmp_path}/nowhere", "./nowhere", "~/nowhere", "no/where", "a/b/c"):
        with pytest.raises(UserError, match="does not exist"):
            open_source(dataset, "train")


def test_file_instead_of_folder(tmp_path):
    with pytest.raises(UserError, match="which is a file"):
        open_source(str(save(tmp_path / "a.png")), "train")


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="received: none"):
        open_source(str(tmp_path), "train")
    (tmp_path / "only.txt").write_text("no image")
    with pytest.raises(UserError, match="received: none"):
        open_source(str(tmp_path), "train")


def test_folder_without_permission(tmp_path, monkeypatch):
    save(tmp_path / "a" / "x.png")
    locked = str(tmp_path / "a")
    scandir = os.scandir

    def refuse(path):  # root may read everything, so a mode of 000 would prove nothing
        if str(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="can be read; received: .*permission denied"):
        open_source(str(tmp_path), "train")


def test_unknown_split_lists_the_splits(tmp_path):
    make_classes(tmp_path, {"a": 4})
    with pytest.raises(UserError, match=r"\(train, test\); received: 'training'"):
        open_source(str(tmp_path), "training")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 3])
def test_wrong_share(tmp_path, fraction):
    make_classes(tmp_path, {"a": 4})
    with pytest.raises(UserError, match="eval_fraction between 0 and 1"):
        open_source(str(tmp_path), "train", eval_fraction=fraction)


def test_share_that_leaves_nothing(tmp_path):
    save(tmp_path / "single.png")
    with pytest.raises(UserError, match="which selects none"):
        open_source(str(tmp_path), "test")


def test_wrong_on_bad_image(tmp_path):
    make_classes(tmp_path, {"a": 4})
    with pytest.raises(UserError, match="skip, fail; received: 'ignore'"):
        open_source(str(tmp_path), "train", on_bad_image="ignore")
