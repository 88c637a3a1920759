"""Lists of folders and files, in a text file or separated by commas."""

from __future__ import annotations

import os

import pytest
from image_files import make_classes, save

from simclr_tf.datasets import folders_of, open_source
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane


def write_list(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# what is listed\n\n" + "\n".join(lines) + "\n")
    return str(path)


def held(dataset, split, **options):
    source = open_source(dataset, split, eval_fraction=0.25, **options)
    return {os.path.abspath(path) for path in source.paths}


def test_a_list_of_folders_and_files(tmp_path):
    for i in range(4):
        save(tmp_path / "a" / f"{i}.png")
        save(tmp_path / "deep" / "b" / f"#{i}.png")
    save(tmp_path / "extra" / "lone.dat", format="PNG")
    path = write_list(
        tmp_path / "lists" / "images.txt",
        "../a", str(tmp_path / "deep"), "../extra/lone.dat", " ../a/1.png",
    )  # fmt: skip
    source = open_source(path, "all")
    assert source.num_examples == 9 and not source.labelled
    assert "../extra/lone.dat" in source.file_names()
    assert open_source(path, "train", eval_fraction=0.25).num_examples == 7
    moved = write_list(tmp_path / "x" / "images.txt", "a", "extra/lone.dat")
    assert open_source(moved, "all", data_dir=str(tmp_path)).num_examples == 5


def test_what_is_held_out_is_that_of_each_folder_alone(tmp_path, monkeypatch):
    make_classes(tmp_path / "2023", {"beach": 8, "city": 4})
    make_classes(tmp_path / "2024", {"beach": 4, "city": 12})
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        both = held("2023,2024", split)
        assert both == held("2023", split) | held("2024", split)
        assert both == held(write_list(tmp_path / "l" / "all.txt", "../2023", "../2024"), split)
    source = open_source("2023, ./2024", "train", eval_fraction=0.25)
    assert source.class_names == ["beach", "city"]
    for name, label in zip(source.file_names(), source.read_labels(), strict=True):
        assert name.split(os.sep)[1] == source.class_names[label]
    assert folders_of("2023,2024") == ["2023", "2024"]


def test_class_folders_of_other_names_give_no_labels(tmp_path, monkeypatch):
    make_classes(tmp_path / "a", {"cat": 4, "dog": 4})
    make_classes(tmp_path / "b", {"cat": 4, "cow": 4})
    save(tmp_path / "c.png")
    monkeypatch.chdir(tmp_path)
    warned = []
    monkeypatch.setattr(
        "simclr_tf.datasets.path_list.logging.warning",
        lambda text, *args: warned.append(text % args),
    )
    assert not open_source("a,b", "train").labelled
    assert "'cat, cow', 'cat, dog'" in warned[0] and len(warned) == 1
    assert not open_source("a,c.png", "train").labelled
    with pytest.raises(UserError, match="has none"):
        open_source("a,b", "train").read_labels()


def test_split_folders_of_those_that_have_them(tmp_path, monkeypatch):
    for split, count in (("train", 6), ("val", 2)):
        make_classes(tmp_path / "a" / split, {"x": count, "y": count})
    make_classes(tmp_path / "b", {"x": 8, "y": 4})
    monkeypatch.chdir(tmp_path)
    train, test = held("a,b", "train"), held("a,b", "validation")
    assert len(train) == 12 + 9 and len(test) == 4 + 3 and not train & test
    assert open_source("a,b", "train").class_names == ["x", "y"]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("a,nowhere", "received: 'nowhere', which does not exist"),
        ("a,a/x", "'a/x', which lies in 'a'"),
        ("a,./a", "lies in 'a' or is the same|lies in './a' or is the same"),
        ("a,images.txt", "Name a list, a table or TFRecord files alone"),
        ("nowhere.txt", "nowhere.txt, which can't be read .[Nn]o such file"),
        ("empty.txt", "a path in each line of empty.txt; received: none"),
        ("picture.txt", "picture.txt, which is none"),
        ("lost.txt", "2 files, none readable"),
    ],
)
def test_wrong_lists(tmp_path, monkeypatch, dataset, words):
    make_classes(tmp_path / "a", {"x": 2, "y": 2})
    write_list(tmp_path / "images.txt", "a")
    write_list(tmp_path / "empty.txt")
    write_list(tmp_path / "lost.txt", "b/1.png", "b/2.png")
    save(tmp_path / "a.png").rename(tmp_path / "picture.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        open_source(dataset, "all")
    assert "\n" not in str(error.value)


def test_missing_files_of_a_list_are_skipped_or_stop(tmp_path):
    save(tmp_path / "a.png")
    path = write_list(tmp_path / "images.txt", "a.png", "b.png")
    assert len(open_source(path, "all").bad_images) == 1
    with pytest.raises(UserError, match="b.png' .[Nn]o such file"):
        open_source(path, "all", on_bad_image="fail")


def test_a_folder_whose_name_has_a_comma(tmp_path, monkeypatch):
    make_classes(tmp_path / "cats, dogs", {"x": 2})
    monkeypatch.chdir(tmp_path)
    assert open_source("cats, dogs", "all").num_examples == 2
