"""`python -m simclr_tf.embed`: features of any data set, in files of every kind."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import tensorflow as tf
from embedding import Run, embed, exports, photos
from fresh_python import run_code
from PIL import Image

from simclr_tf.datasets import open_source
from simclr_tf.datasets.pipeline import evaluation_dataset
from simclr_tf.embed import main

__all__ = ["embed", "exports", "photos"]  # fixtures


def expected_features(exports: Path, dataset: str, split: str = "all") -> np.ndarray:
    module = tf.saved_model.load(str(exports / "module"))
    data = evaluation_dataset(open_source(dataset, split), batch_size=7, image_size=8)
    return np.concatenate([module(x[0])["final_avg_pool"].numpy() for x in data])


def test_a_folder_with_classes(exports: Path, photos: Path, embed: Run) -> None:
    code, out, err = embed(f"--dataset={photos}", "--output=f.npz", "--batch_size=4")
    assert code == 0, err
    assert "Wrote f.npz: 23 x 16 final_avg_pool" in out and "images/s" in out
    assert "Features: 100%" in err
    with np.load("f.npz") as file:
        got = dict(file)
    assert set(got) == {"features", "index", "label", "class_names", "file"}
    expected = expected_features(exports, str(photos))
    np.testing.assert_allclose(got["features"], expected, rtol=1e-5, atol=1e-6)
    assert got["features"].dtype == np.float32 and got["index"].tolist() == list(range(23))
    assert got["class_names"].tolist() == ["hünd", "katze"]
    assert len(set(got["file"])) == 23
    for file, label in zip(got["file"], got["label"], strict=True):
        assert (photos / file).is_file() and file.split("/")[0] == got["class_names"][label]
    assert os.listdir() == ["f.npz"]
    # Of one file alone: what stands in its row.
    row = int(np.flatnonzero(got["file"] == "hünd/03.png")[0])
    pixels = np.asarray(Image.open(photos / "hünd" / "03.png"))
    view = tf.image.resize(pixels / np.float32(255), (8, 8), "bicubic", antialias=True)
    module = tf.saved_model.load(str(exports / "module"))
    alone = module(tf.clip_by_value(view, 0, 1)[None])["final_avg_pool"][0]
    np.testing.assert_allclose(got["features"][row], alone, rtol=1e-4, atol=1e-5)


def test_files_of_every_kind_say_the_same(photos: Path, embed: Run) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    for name in ("f.npz", "f.tsv", "f.parquet"):
        assert embed(f"--dataset={photos}", f"--output={name}")[0] == 0
    with np.load("f.npz") as file:
        wanted = dict(file)
    table = pyarrow.read_table("f.parquet").to_pydict()
    assert list(table) == ["index", "file", "label", "class", "features"]
    lines = [line.split("\t") for line in Path("f.tsv").read_text("utf-8").splitlines()]
    assert lines[0] == ["index", "file", "label", "class", *(f"f{i}" for i in range(16))]
    text = [list(column) for column in zip(*lines[1:], strict=True)]
    for number, name in enumerate(("index", "file", "label")):
        assert table[name] == wanted[name].tolist()
        assert text[number] == [str(value) for value in wanted[name]]
    classes = [wanted["class_names"][label] for label in wanted["label"]]
    assert table["class"] == classes == text[3]
    np.testing.assert_array_equal(np.float32(table["features"]), wanted["features"])
    np.testing.assert_array_equal(np.float32(text[4:]).T, wanted["features"])


def test_without_labels_or_files(exports: Path, photos: Path, embed: Run) -> None:
    assert embed(f"--dataset={photos / 'katze'}", "--output=a.npz", "--split=train[:5]")[0] == 0
    with np.load("a.npz") as file:
        assert set(file) == {"features", "index", "file"} and len(file["file"]) == 5
        assert all("/" not in name for name in file["file"])
    assert embed("--dataset=mnist_5k", "--split=test[10:30]", "--output=b.npz")[0] == 0
    with np.load("b.npz") as file:
        assert set(file) == {"features", "index", "label", "class_names"}
        _, labels = open_source("mnist_5k", "test[10:30]").as_numpy()
        np.testing.assert_array_equal(file["label"], labels)
        expected = expected_features(exports, "mnist_5k", "test[10:30]")
        np.testing.assert_allclose(file["features"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("endpoint", ["final_avg_pool", "proj_head_output", "logits_sup"])
def test_a_checkpoint_gives_what_its_export_gives(exports: Path, embed: Run, endpoint: str) -> None:
    common = ["--dataset=mnist_5k", "--split=test[:9]", f"--endpoint={endpoint}"]
    assert embed(*common, "--output=a.npz")[0] == 0
    assert embed(*common, "--output=b.npz", f"--checkpoint={exports / 'keras'}")[0] == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert a["features"].shape == (9, {"final": 16, "proj_": 4, "logit": 3}[endpoint[:5]])
        np.testing.assert_allclose(a["features"], b["features"], rtol=1e-5, atol=1e-6)


def test_foreign_modules(tmp_path: Path, embed: Run) -> None:
    """A map as output, no model.json; a module that returns a tensor."""

    class Maps(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([], tf.bool)]
        )
        def __call__(self, x: tf.Tensor, trainable: bool = False) -> Any:  # noqa: N805
            return {"map": x[:, ::2, ::2], "mean": tf.reduce_mean(x, [1, 2])}

    class Bare(tf.Module):
        def __init__(self) -> None:
            self.call = tf.function(lambda x, trainable: tf.reduce_mean(x, [1, 2]))
            self.call.get_concrete_function(tf.TensorSpec([None, 6, 6, 3]), trainable=False)
            self.__call__ = self.call

    tf.saved_model.save(Maps(), "maps")
    common = ["--dataset=mnist_5k", "--split=test[:3]", "--saved_model=maps"]
    code, _, err = embed(*common, "--output=f.npz", "--endpoint=map")
    assert code == 2 and "Expected --image_size" in err
    common.append("--image_size=6")
    assert embed(*common, "--output=f.npz", "--endpoint=map")[0] == 0
    with np.load("f.npz") as file:
        assert file["features"].shape == (3, 3, 3, 3)
    for output in ("--output=f.tsv", "--output=f.parquet", "--projector_dir=p"):
        code, _, err = embed(*common, output, "--endpoint=map")
        assert code == 2 and "an endpoint of vectors" in err and err.count("\n") == 1
    code, _, err = embed(*common, "--output=g.npz")
    assert code == 2 and "one of map, mean; received: 'final_avg_pool'" in err
    tf.saved_model.save(Bare(), "bare")
    common[2] = "--saved_model=bare"
    assert embed(*common, "--output=g.npz", "--endpoint=output")[0] == 0
    common[3] = "--image_size=7"
    code, _, err = embed(*common, "--output=h.npz", "--endpoint=output")
    assert code == 2 and "7 x 7" in err and err.count("\n") == 1
    assert sorted(os.listdir()) == ["bare", "f.npz", "g.npz", "maps"]


def test_the_documentations_page(
    exports: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command and its code, as they are printed."""
    page = Path(__file__).parents[2] / "docs" / "features.md"
    section = page.read_text(encoding="utf-8")
    (line,) = re.findall("```sh\n(.*?)```", section, re.DOTALL)
    (code,) = re.findall("```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("module").symlink_to(exports / "module")
    Path("photos").symlink_to(photos)
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "simclr_tf.embed"] and main(words[2:]) == 0
    Path("script.py").write_text(code)
    done = processes.run("script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".png") == 5


def test_projector_files(photos: Path, embed: Run) -> None:
    projector = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    from google.protobuf import text_format

    assert embed(f"--dataset={photos}", "--projector_dir=p", "--output=f.npz")[0] == 0
    config = text_format.Parse(
        Path("p/projector_config.pbtxt").read_text(), projector.ProjectorConfig()
    )
    (shown,) = config.embeddings
    assert {*os.listdir("p")} == {
        "projector_config.pbtxt", shown.tensor_path, shown.metadata_path, shown.sprite.image_path,
    }  # fmt: skip
    with np.load("f.npz") as file:
        wanted = dict(file)
    tensors = np.loadtxt(f"p/{shown.tensor_path}", np.float32, delimiter="\t")
    np.testing.assert_array_equal(tensors, wanted["features"])
    lines = [x.split("\t") for x in Path("p", shown.metadata_path).read_text("utf-8").splitlines()]
    assert lines[0] == ["index", "file", "label", "class"] and len(lines) == 24
    assert [line[1] for line in lines[1:]] == wanted["file"].tolist()
    side = shown.sprite.single_image_dim[0]
    sheet = np.asarray(Image.open(f"p/{shown.sprite.image_path}"))
    assert side == 8 and sheet.shape == (5 * side, 5 * side, 3)
    (view,) = next(iter(evaluation_dataset(
        open_source(str(photos), "all"), batch_size=23, image_size=8
    ).map(lambda image, label: (image,))))  # fmt: skip
    for place, image in enumerate(np.round(view.numpy() * 255).astype("uint8")):
        top, left = place // 5 * side, place % 5 * side
        np.testing.assert_array_equal(sheet[top : top + side, left : left + side], image)
    assert not sheet[-side:, 3 * side :].any()


@pytest.mark.one_lane
def test_tensorboard_reads_the_projector_files(photos: Path, embed: Run) -> None:
    plugin = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    from tensorboard.plugins import base_plugin
    from werkzeug.test import Client

    assert embed("--dataset=mnist_5k", "--split=test[:7]", "--projector_dir=p")[0] == 0
    assert os.listdir() == ["p"]
    served = plugin.ProjectorPlugin(base_plugin.TBContext(logdir=os.path.abspath("p")))
    pages = served.get_plugin_apps()
    info = Client(pages["/info"]).get("/info?run=.").json["embeddings"][0]
    assert info["tensorShape"] == [7, 16]
    query = f"?run=.&name={info['tensorName']}"
    tensor = Client(pages["/tensor"]).get(f"/tensor{query}&num_rows=7").data
    first = np.frombuffer(tensor, np.float32)[:16]
    expected = np.loadtxt("p/tensors.tsv", np.float32, delimiter="\t")[0]
    np.testing.assert_array_equal(first, expected)
    assert Client(pages["/metadata"]).get(f"/metadata{query}").data.count(b"\n") == 8
    assert Client(pages["/sprite_image"]).get(f"/sprite_image{query}").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "The following arguments are required: --dataset"),
        (["--dataset=mnist_5k"], "Expected --output or --projector_dir; received: neither"),
        (
            ["--dataset=mnist_5k", "--output=f.csv"],
            "end in .npz, .parquet, .tsv; received: 'f.csv'",
        ),
        (["--dataset=mnist_5k", "--output=f.npz", "--batch_size=0"], "--batch_size of at least 1"),
        (["--dataset=mnist_5k", "--output=f.npz", "--checkpoint=a", "--saved_model=b"], "both"),
        (["--dataset=mnist_5k", "--output=f.npz", "--saved_model="], "received: neither"),
        (["--dataset=mnist_5k", "--output=f.npz", "--saved_model=no"], "which is neither"),
        (["--dataset=mnist_5k", "--output=f.npz", "--split=x"], "Expected a split of 'mnist_5k'"),
        (
            ["--dataset=mnist_5k", "--output=f.npz", "--endpoint=x"],
            "one of final_avg_pool, logits_sup, pr",
        ),
        (["--dataset=./nothing", "--output=f.npz"], "which does not exist"),
        (["--dataset=mnist_5k", "--output=mine/f.npz/"], "which names a folder"),
        (["--dataset=mnist_5k", "--output=thesis/a.npz"], "Not a directory"),
        (["--dataset=mnist_5k", "--output=mine.npz", "--overwrite"], "which is a folder"),
        (["--dataset=mnist_5k", "--projector_dir=mine.npz", "--overwrite"], "something else"),
        (["--dataset=mnist_5k", "--output=g.npz", "--overwrite"], "a folder of something else"),
    ],
    ids=str,
)
def test_wrong_commands(embed: Run, tmp_path: Path, arguments: list[str], words: str) -> None:
    for name in ("mine.npz", "g.npz.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "work").touch()
    (tmp_path / "thesis").touch()
    before = sorted(tmp_path.rglob("*"))
    code, _, err = embed(*arguments)
    assert code == 2 and words in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.one_lane
def test_a_bad_image_stops_where_asked(tmp_path: Path, photos: Path, embed: Run) -> None:
    code, _, err = embed(f"--dataset={photos}", "--output=f.npz", "--on_bad_image=fail")
    assert code == 2 and "broken.jpg" in err and err.count("\n") == 1
    assert os.listdir() == []


@pytest.mark.one_lane
def test_every_image_left_out_is_counted(photos: Path, embed: Run) -> None:
    """Also those that the source never listed."""
    code, out, err = embed(f"--dataset={photos}", "--output=f.npz")
    assert code == 0 and "23 x 16 final_avg_pool, 1 unreadable left out" in out, err


@pytest.mark.one_lane
def test_folders_of_both_outputs_are_made(photos: Path, embed: Run) -> None:
    code, _, err = embed(f"--dataset={photos}", "--output=a/f.npz", "--projector_dir=b/c/proj")
    assert code == 0, err
    assert os.path.isfile("a/f.npz") and os.path.isfile("b/c/proj/tensors.tsv")


@pytest.mark.one_lane
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("kind", ["tsv", "parquet", "npz"])
def test_names_that_are_not_utf8(embed: Run, kind: str) -> None:
    os.mkdir("in")
    for name in (b"x\xff.png", b"y.png"):
        with open(os.path.join(b"in", name), "wb") as file:
            Image.new("RGB", (8, 8)).save(file, format="PNG")
    code, _, err = embed("--dataset=in", f"--output=f.{kind}", "--projector_dir=proj")
    assert code == 0, err
    if kind == "tsv":
        with open("f.tsv", "rb") as file:
            assert b"x\xff.png" in file.read()
    with open("proj/metadata.tsv", encoding="utf-8") as file:
        assert "x\\udcff.png" in file.read()


@pytest.mark.one_lane
def test_images_that_break_later_are_left_out(
    tmp_path: Path, embed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their header is sound, so that the source lists them."""
    from simclr_tf.datasets import decoding

    (tmp_path / "in").mkdir()
    for index in range(7):
        Image.new("RGB", (8, 8), (30 * index, 0, 0)).save(tmp_path / "in" / f"{index}.png")
    real = decoding.decode_file

    def decode(path: str, *given: Any) -> Any:
        if path.endswith("4.png"):
            raise decoding.BadImageError("torn")
        return real(path, *given)

    monkeypatch.setattr(decoding, "decode_file", decode)
    code, out, err = embed("--dataset=in", "--output=f.npz", "--batch_size=2")
    assert code == 0 and "6 x 16 final_avg_pool, 1 unreadable left out" in out, err
    with np.load("f.npz") as file:
        assert len(file["features"]) == 6 and "4.png" not in file["file"]
        assert sorted(file["file"])[0] == "0.png"
        names = [f"{n}" for n in file["file"]]
    monkeypatch.setattr(decoding, "decode_file", real)
    assert embed("--dataset=in", "--output=g.npz")[0] == 0
    with np.load("g.npz") as whole, np.load("f.npz") as file:
        rows = {name: row for name, row in zip(whole["file"], whole["features"], strict=True)}
        np.testing.assert_allclose(file["features"], [rows[n] for n in names], atol=1e-6)


def test_answers_without_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from simclr_tf.embed import main\n"
        "sys.modules['pyarrow'] = None\n"
        "codes = []\n"
        "for line in ([], ['--help'], ['--saved_model=a', '--dataset=b', '--output=c.parquet'],\n"
        "             ['--saved_model=a', '--dataset=b', '--output=taken.npz']):\n"
        "    try:\n        codes.append(main(['x', *line]))\n"
        "    except SystemExit as stop:\n        codes.append(stop.code)\n"
        "assert codes == [2, 0, 2, 2], codes\n"
        "assert 'tensorflow' not in sys.modules"
    )
    (tmp_path / "taken.npz").touch()
    done = run_code(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--projector_dir" in done.stdout and "train[:80%]" in done.stdout
    assert "pip install 'simclr-tf[parquet]'" in done.stderr
