"""Tables of paths and labels: what they give, and what is refused in one line."""

from __future__ import annotations

import os

import pytest
from image_files import decode_all, make_classes, save

from simclr_tf.datasets import open_source
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane


def images(root, count):
    for i in range(count):
        save(root / f"{i}.png", size=(6 + i % 3, 8))


def table(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def labels_by_file(source):
    names = [source.class_names[int(example["label"])] for example in decode_all(source)]
    return dict(zip(source.file_names(), names, strict=True))


@pytest.mark.parametrize("column", ["path", "image", "file", "filename", "FilePath", "file_name"])
@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_paths_and_labels_by_their_usual_names(tmp_path, column, name, mark):
    images(tmp_path, 3)
    rows = [("", column, "Label"), ("0", "0.png", "dog"), ("1", "1.png", "cat, old"),
            ("2", str(tmp_path / "2.png"), "dog")]  # fmt: skip
    quoted = (mark.join(f'"{c}"' if "," in c else c for c in cells) for cells in rows)
    source = open_source(table(tmp_path / name, *quoted), "all")
    assert source.class_names == ["cat, old", "dog"]
    assert labels_by_file(source) == {"0.png": "dog", "1.png": "cat, old", "2.png": "dog"}


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    images(tmp_path, 12)
    lines = [f"{i}.png,{i}" for i in range(12)]
    source = open_source(table(tmp_path / "a.csv", "path,class", *lines), "all", eval_fraction=0.1)
    assert source.class_names == [str(i) for i in range(12)]
    assert {f"{label}.png" for label in source.read_labels()} == set(source.file_names())
    as_pandas = [f"{i}.png,{i % 2}.0" for i in range(12)]  # as of a column with gaps
    source = open_source(table(tmp_path / "a.csv", "path,class", *as_pandas), "all")
    assert source.class_names == ["0", "1"]


def test_parquet_gives_what_csv_gives(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images(tmp_path, 4)
    files = [f"{i}.png" for i in range(4)]
    given = {"other": [[1], [2], [3], [4]], "file": files, "target": [3, 10, 3, 10]}
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table(given), path)
    source = open_source(path, "all")
    assert source.class_names == ["3", "10"]
    assert labels_by_file(source) == dict(zip(files, ["3", "10", "3", "10"], strict=True))
    given["target"] = [[1, 2], [1], [2], [1]]
    parquet.write_table(pyarrow.table(given), path)
    with pytest.raises(
        UserError, match=r"a word or a whole number in every row .* \[1, 2\] in row 1"
    ):
        open_source(path, "all")
    for held, shown in (
        (b"\x89PNG\0\0" * 5000, "an image or other bytes"),
        ({"bytes": b"\x89PNG\0" * 5000, "path": "a.png"}, "a structure"),
    ):
        parquet.write_table(pyarrow.table({"image": [held], "label": [1]}), path)
        with pytest.raises(
            UserError, match=f"Expected a path .* received: {shown} in row"
        ) as error:
            open_source(path, "all")
        assert len(str(error.value)) < 400
    (tmp_path / "a.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(UserError, match="can't be read") as error:
        open_source(path, "all")
    assert "\n" not in str(error.value)


def test_a_column_of_splits(tmp_path):
    images(tmp_path, 9)
    words = ["train", "Training", "train", "dev", "valid", "test", "test", "test", "extra"]
    rows = [f"{i}.png,{'ab'[i % 2]},{word}" for i, word in enumerate(words)]
    path = table(tmp_path / "a.csv", "path,label,split", *rows)
    counts = {
        s: open_source(path, s).num_examples for s in ("train", "val", "test", "extra", "all")
    }
    assert counts == {"train": 3, "val": 2, "test": 3, "extra": 1, "all": 9}
    with pytest.raises(UserError, match="Expected a split of"):
        open_source(path, "trian")
    only_train = table(tmp_path / "b.csv", "path,split", *(f"{i}.png,train" for i in range(9)))
    counts = [open_source(only_train, s, eval_fraction=0.3).num_examples for s in ("train", "test")]
    assert counts == [6, 3]


def test_a_table_holds_out_what_its_folder_does(tmp_path):
    make_classes(tmp_path, {"cat": 8, "dog": 8})
    lines = [f"{name}/{i}.png,{name}" for name in ("dog", "cat") for i in range(8)]
    path = table(tmp_path / "a.csv", "path,label", *lines)
    for split in ("train", "test"):
        ours = open_source(path, split, eval_fraction=0.25)
        folder = open_source(str(tmp_path), split, eval_fraction=0.25)
        assert ours.file_names() == folder.file_names()
        assert ours.read_labels().tolist() == folder.read_labels().tolist()


def test_relative_paths_lie_below_data_dir(tmp_path, monkeypatch):
    images(tmp_path / "photos", 3)
    path = table(tmp_path / "lists" / "a.csv", "path", *(f"{i}.png" for i in range(3)))
    with pytest.raises(UserError, match=r"none readable.*[Nn]o such file.*--data_dir"):
        open_source(path, "all")
    source = open_source(path, "all", data_dir=str(tmp_path / "photos"))
    assert sorted(source.file_names()) == ["0.png", "1.png", "2.png"] and not source.labelled
    monkeypatch.chdir(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    os.replace(path, "b.csv")
    assert open_source("b.csv", "all").num_examples == 3
    assert open_source("~/photos/b.csv", "all").num_examples == 3


def test_missing_files_are_skipped_or_stop(tmp_path):
    images(tmp_path, 3)
    path = table(tmp_path / "a.csv", "path,label", "0.png,a", "9.png,a", "1.png,b", "2.png,b")
    source = open_source(path, "all")
    assert [os.path.basename(bad) for bad, _ in source.bad_images] == ["9.png"]
    assert source.num_examples == 3
    with pytest.raises(UserError, match=r"9.png' \([Nn]o such file"):
        open_source(path, "all", on_bad_image="fail")


def test_columns_by_name_and_no_labels(tmp_path):
    images(tmp_path, 4)
    lines = ["id,shot,path,label,kind"]
    lines += [f"{i},{i}.png,x,{i},{'ab'[i % 2]}" for i in range(4)]
    path = table(tmp_path / "a.csv", *lines)
    chosen = {"image_column": "shot", "label_column": "kind"}
    assert open_source(path, "all", **chosen).class_names == ["a", "b"]
    chosen["label_column"] = "none"
    assert not open_source(path, "all", **chosen).labelled
    with pytest.raises(UserError, match="id, shot, path, label, kind.*received: 'art'"):
        open_source(path, "all", label_column="art")


def test_a_file_named_again_counts_once(tmp_path):
    images(tmp_path, 3)
    lines = ["path,label", "0.png,a", "1.png,b", "./0.png,a", "2.png,b"]
    source = open_source(table(tmp_path / "a.csv", *lines), "all")
    assert sorted(source.file_names()) == ["0.png", "1.png", "2.png"]
    path = table(tmp_path / "a.csv", *lines, "2.png,a")
    with pytest.raises(UserError, match="one label of '2.png' .* 'b' in row 5 and 'a' in row 6"):
        open_source(path, "all")


def test_a_split_without_labels(tmp_path):
    images(tmp_path, 6)
    words = ["a,train", "b,train", "a,train", "b,train", ",test", ",test"]
    path = table(
        tmp_path / "a.csv", "path,label,split", *(f"{i}.png,{w}" for i, w in enumerate(words))
    )
    assert open_source(path, "train").class_names == ["a", "b"]
    assert not open_source(path, "test").labelled
    with pytest.raises(UserError, match="all have labels, or none"):
        open_source(path, "train+test")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a.png,cat", "b.png,dog"], "received: a.png, cat. Pass --image_column, or add the line"),
        (["path,label,label", "0.png,a,b"], "once; received: label twice"),
        (["path,file,label", "0.png,0.png,a"], "can be --image_column; received: path, file"),
        (["path,label,class", "0.png,0,a"], "can be --label_column; received: label, class"),
        (["path,label", "0.png,a", "1.png,"], "1 of 2 rows without, the first being row 3"),
        (["path,label", "0.png,a", ",b"], "Expected a path in every row .* row 3"),
        (["path,label", "0.png,0.5", "1.png,1.5"], "numbers with fractions, such as"),
        (["path,label", "0.png,1.e999", "1.png,1"], "numbers with fractions, such as"),
        (["path,label", "0.png,a,b"], "line 2 has 3 cells, the first 2"),
        (["path,label,split", "0.png,a,"], "a split in every row .* none in row 2"),
        (["path,label,split", "0.png,a,train", "1.png,b,test"], "received: b, which the latter"),
        (["path,label"], "Expected rows below the names"),
        ([""], "it is empty"),
        (["path,label", '"0.png,a'], "line 2 has 1 cells"),
        (["path,label", "0.png," + "a" * 200_000], "no table of text"),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path, lines, words):
    images(tmp_path, 2)
    with pytest.raises(UserError, match=words) as error:
        open_source(table(tmp_path / "a.csv", *lines), "all")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_tables_that_are_none(tmp_path):
    with pytest.raises(UserError, match="a.csv, which can't be read: [Nn]o such file"):
        open_source(str(tmp_path / "a.csv"), "all")
    table(tmp_path / "a.csv", "path,label", "0.png,a", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16; save it as UTF-8"):
        open_source(str(tmp_path / "a.csv"), "all")
    table(tmp_path / "a.csv", "path,label", "0.png,caf\xe9", encoding="latin-1")
    with pytest.raises(UserError, match="row 2 is not UTF-8"):
        open_source(str(tmp_path / "a.csv"), "all")
    with pytest.raises(UserError, match="table or TFRecord files for --label_column; received"):
        open_source(str(tmp_path), "all", label_column="x")
    with pytest.raises(UserError, match="files for --image_column and --label_column"):
        open_source("mnist_5k", "train", image_column="x")
