"""Folders of images: every format and mode, layouts and splits, broken files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from simclr_tf.datasets import decoding, folder_layout, open_source
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane

RED, GREY = (200, 30, 60), (90, 90, 90)


def save(path, size=(12, 10), color=RED, mode="RGB", **options):
    """Writes a small image of one colour; `size` is (width, height) as in Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    (image if mode == "RGB" else image.convert(mode)).save(path, **options)
    return path


def noise(path, seed=0, size=(24, 18), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def truncate(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def decode_all(source):
    """Decodes every example of a source: list of numpy dicts."""
    return list(source.ordered_keys().map(lambda key: source.decode(key)).as_numpy_iterator())


# ------------------------------------------------------------------------------ formats and modes


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPEG", "a.png", "a.PNG", "a.webp", "a.bmp", "a.gif", "a.jfif"]
)
def test_formats_give_the_same_colours(tmp_path, name):
    formats = {".jfif": {"format": "JPEG"}}
    save(tmp_path / name, **formats.get(os.path.splitext(name)[1], {}))
    (example,) = decode_all(open_source(str(tmp_path), "all", eval_fraction=0.5))
    assert example["image"].shape == (10, 12, 3) and example["image"].dtype == np.uint8
    assert example["size"].tolist() == [10, 12] and example["ok"] and "label" not in example
    np.testing.assert_allclose(example["image"].mean((0, 1)), RED, atol=4)


@pytest.mark.parametrize(
    ("mode", "name", "color"),
    [
        ("L", "a.png", GREY), ("L", "a.jpg", GREY), ("LA", "a.png", GREY), ("P", "a.png", RED),
        ("P", "a.gif", RED), ("RGBA", "a.png", RED), ("RGBA", "a.webp", RED),
        ("CMYK", "a.jpg", RED), ("1", "a.png", (255, 255, 255)), ("1", "a.bmp", (0, 0, 0)),
    ],
)  # fmt: skip
def test_modes_become_rgb(tmp_path, mode, name, color):
    save(tmp_path / name, mode=mode, color=color)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode or name.endswith((".gif", ".webp"))  # the case is what it says
    image, size = decoding.decode_file(str(tmp_path / name))
    assert image.shape == (10, 12, 3) and image.dtype == np.uint8 and size == (10, 12)
    np.testing.assert_allclose(image.mean((0, 1)), color, atol=8)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 257], [32768, 65278, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image, _ = decoding.decode_file(str(tmp_path / "deep.png"))
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, -1))


def test_16_bit_colour_png(tmp_path):
    # Pillow does not write 16-bit colour: a PNG by hand, one row of two pixels.
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\0" + struct.pack(">6H", 65535, 32768, 0, 514, 771, 1028)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    image, _ = decoding.decode_file(str(tmp_path / "a.png"))
    np.testing.assert_allclose(image[0].astype(int), [[255, 128, 0], [2, 3, 4]], atol=1)


def test_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), color) for color in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, _ = decoding.decode_file(str(tmp_path / "a.gif"))
    np.testing.assert_allclose(image.mean((0, 1)), RED, atol=8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation(tmp_path, suffix, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # the upper left quarter is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **options)
    # Orientation 6: turn the stored picture clockwise to see it upright; 8: the other way.
    expected = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}
    image, size = decoding.decode_file(str(path))
    np.testing.assert_allclose(image, expected[orientation], atol=6)
    assert size == image.shape[:2] == decoding.read_header(str(path))


def test_extension_does_not_matter_for_decoding(tmp_path):
    save(tmp_path / "really_a_png.jpg", format="PNG")
    assert open_source(str(tmp_path), "all", eval_fraction=0.5).num_examples == 1


def test_webp_is_read_in_a_fresh_process(tmp_path):
    # Pillow loads its WebP reader late, and other tests here have loaded it already.
    path = save(tmp_path / "a.webp")
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['decode_file'](sys.argv[2])[1])"
    command = [sys.executable, "-c", code, decoding.__file__, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "(10, 12)", result.stderr


@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_keeps_the_original_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "big.jpg", size=(640, 400), exif=exif)
    original = (400, 640) if orientation == 1 else (640, 400)
    full, _ = decoding.decode_file(str(tmp_path / "big.jpg"))
    small, size = decoding.decode_file(str(tmp_path / "big.jpg"), min_side=100)
    assert full.shape[:2] == size == original
    assert small.shape[:2] == (original[0] // 4, original[1] // 4)
    same, _ = decoding.decode_file(str(tmp_path / "big.jpg"), min_side=500)
    assert same.shape == full.shape


# ---------------------------------------------------------------------------------------- layouts


def make_classes(root, counts):
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i}.png", size=(8 + i % 3, 8))


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
    (tmp_path / "a" / "scan.tiff").write_bytes(b"II")
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
    assert reports == [{"hidden": 1, ".tiff": 1}]


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


# ----------------------------------------------------------------------------------- broken files


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
