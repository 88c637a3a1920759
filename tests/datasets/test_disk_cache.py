"""Images decoded into a file: the batches of a cache in memory, and one file for all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cached_photos import assert_same, kept, photos, taken
from hypothesis import given
from hypothesis import strategies as st
from image_files import noise
from mutated import cases
from numbered_images import numbered, stream
from peak_memory import last_number
from tiny_tfds import prepare

from simclr_tf.datasets import ImageSource, open_source
from simclr_tf.datasets.decoded_file import DecodedImages, DecodedWriter
from simclr_tf.datasets.disk_cache import OnDisk, on_disk
from simclr_tf.errors import UserError


def shapes(image: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Views that tell the original: its size and its sum."""
    del seed
    return tf.shape(image), tf.reduce_sum(tf.cast(image, tf.int64))


# ------------------------------------------------------------------------------- the same batches


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ({}, 0), ({}, 14), ({"ending": "jpg"}, 14), ({"classes": False}, 0), ({"same": True}, 14),
        ({"same": True, "classes": False}, 0), ({"same": True, "image_size": 28}, 14),
        ({"host_transform": shapes}, 0), ({"host_transform": shapes, "same": True}, 14),
        ({"balance_classes": True}, 14),
    ],
    ids=lambda kind: ", ".join(kind) or "folders" if isinstance(kind, dict) else str(kind),
)  # fmt: skip
def test_batches_are_those_of_a_cache_in_memory(
    tmp_path: Path, kind: dict[str, object], start: int
) -> None:
    files = {name: kind[name] for name in ("same", "classes", "ending") if name in kind}
    changes = {"image_size": 16, **{n: v for n, v in kind.items() if n not in files}}
    source = photos(tmp_path / "photos", **files)  # type: ignore[arg-type]
    where = OnDisk(str(tmp_path / "cache"))
    expected = taken(source(), cache=True, start_example=start, **changes)
    for _ in range(2):  # written, then found
        ours = taken(source(), cache=where, start_example=start, **changes)
        assert_same(ours, expected)
    assert len(os.listdir(tmp_path / "cache")) == 1


@pytest.mark.slow
def test_tfds_and_its_chosen_records(tmp_path: Path) -> None:
    prepare(tmp_path, "on_disk", size=(None, None))
    where = OnDisk(str(tmp_path / "cache"))

    def whole() -> ImageSource:
        return open_source("on_disk", "train[2:-2]", data_dir=str(tmp_path))

    chosen = np.array([1, 4, 5, 7])
    for made in (whole, lambda: whole().subset(chosen), lambda: whole().hide_labels(chosen)):
        expected = taken(made(), image_size=4, cache="memory", shuffle=False)
        assert_same(taken(made(), image_size=4, cache=where, shuffle=False), expected)
    # Hidden labels need no other file.
    assert len(os.listdir(tmp_path / "cache")) == 2


SHAPE = st.tuples(*[st.integers(1, 9)] * 2, st.sampled_from([1, 3, 4]))


@cases(0.2)
@given(
    st.lists(SHAPE, min_size=1, max_size=6), st.booleans(),
    st.sampled_from(["uint8", "float32"]), st.integers(0, 99),
)  # fmt: skip
def test_any_images_come_back(
    found: list[tuple[int, int, int]], stacked: bool, dtype: str, seed: int
) -> None:
    random = np.random.RandomState(seed)
    sizes = [found[0]] * len(found) if stacked else found
    images = [(random.rand(*shape) * 255).astype(dtype) for shape in sizes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decoded.npy"
        with open(path, "wb") as file:
            writer = DecodedWriter(file, found[0] if stacked else None, np.dtype(dtype))
            for position, image in enumerate(images):
                writer.add(image, np.array(image.shape[:2]) * 2, 3 * position)
            writer.finish({"bad": [["a\udc80.png", "cut off"]]})
        read = DecodedImages(str(path))
        read.will_need(np.arange(len(images)))
        assert_same([read[index] for index in range(len(read))], images)
        assert (read.stacked is not None) == stacked
        assert read.sizes.tolist() == [[2 * h, 2 * w] for h, w, _ in sizes]
        assert read.positions.tolist() == [3 * index for index in range(len(images))]
        assert read.notes == {"bad": [["a\udc80.png", "cut off"]]}
        plain = np.load(path, mmap_mode="r")
        assert_same([plain.ravel()], [np.concatenate([image.ravel() for image in images])])
        data = path.read_bytes()
        for length in (0, 5, 127, 130, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError):
                DecodedImages(str(path))


# ------------------------------------------------------------------------------------- one file


def test_a_file_is_used_again_and_nothing_decoded(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    first, said = kept(source(), tmp_path / "cache")
    (name,) = os.listdir(tmp_path / "cache")
    assert name.startswith("photos-8-") and name.endswith(".npy")
    assert len(said) == 2 and f"Decoding 10 images of {tmp_path}/photos once, into" in said[0]
    assert name in said[0] and "(1.9 KiB)" in said[0] and said[1].startswith("... done in ")
    again = source()
    again._load = None  # type: ignore[assignment]
    second, said = kept(again, tmp_path / "cache")
    assert said == [f"Using 10 decoded images in {tmp_path}/cache/{name} (1.9 KiB)."]
    assert_same(taken(second), taken(first))


CHANGES: dict[str, Callable[[Path], dict[str, object]]] = {
    "a file's content": lambda root: noise(root / "a" / "0.png", 99, (31, 30)) is None or {},
    "a file's time": lambda root: os.utime(root / "a" / "0.png", (0, 0)) or {},
    "one more file": lambda root: noise(root / "a" / "99.png", 99) is None or {},
    "one file less": lambda root: os.remove(root / "a" / "0.png") or {},
    "another name": lambda root: os.rename(root / "a" / "0.png", root / "a" / "z.png") or {},
    "transparent pixels": lambda root: {"transparent": "black"},
    "white": lambda root: {"white_level": 4095},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_decoded_again(tmp_path: Path, change: str) -> None:
    source = photos(tmp_path / "photos")
    kept(source(), tmp_path / "cache")
    given = CHANGES[change](tmp_path / "photos")
    found, said = kept(source(**given), tmp_path / "cache")
    assert said[0].startswith("Decoding") and len(os.listdir(tmp_path / "cache")) == 2
    assert found.num_examples == len(source().paths)


def test_canvases_and_splits_have_files_of_their_own(tmp_path: Path) -> None:
    source, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    for canvas in (8, 9, None):
        kept(source(), cache, canvas)
    kept(source().subset(np.arange(4)), cache)
    assert len(os.listdir(cache)) == 4
    # The same images by another path, and with other labels.
    other = open_source(f"{tmp_path}/photos/", "all", eval_fraction=0.5).hide_labels(np.arange(3))
    found, said = kept(other, cache)
    assert "Using 10" in said[0] and len(os.listdir(cache)) == 4
    assert sorted(found.read_labels())[:7] == [-1] * 7


def test_the_folder_is_the_caches_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photos(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable, place in ((str(tmp_path / "xdg"), "xdg"), ("not/absolute", "home/.cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
        taken(source(), 1, image_size=16, cache="disk")
        assert len(os.listdir(tmp_path / place / "simclr_tf")) == 1
    taken(source(), 1, image_size=16, cache=OnDisk("~/mine"))
    assert len(os.listdir(tmp_path / "home" / "mine")) == 1
    with pytest.raises(UserError, match="the home folder of nobody here"):
        on_disk(source(), 8, OnDisk("~no-such-user/x"))


def test_a_chosen_part_reads_the_same_file(tmp_path: Path) -> None:
    found, _ = kept(photos(tmp_path / "photos")(), tmp_path / "cache")
    part = found.subset(np.array([2, 3, 7])).subset(np.array([0, 2]))
    both = part.decode(tf.constant([1, 0], tf.int64))
    whole = found.decode(tf.constant([7, 2], tf.int64))
    assert_same([both[name].numpy() for name in both], [whole[name].numpy() for name in whole])
    assert both["image"].shape == (2, 8, 8, 3)


def test_what_is_in_memory_stays_there(tmp_path: Path) -> None:
    source = numbered()
    found, said = kept(source, tmp_path / "cache")
    assert found is source and said == [] and not (tmp_path / "cache").exists()
    found, _ = kept(photos(tmp_path / "photos")(), tmp_path / "cache")
    assert kept(found, tmp_path / "cache")[0] is found


def test_nothing_tells_whether_a_data_set_of_the_user_has_changed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of which nothing tells whether it has changed"):
        kept(stream(), tmp_path / "cache")


def test_without_leave_to_write_images_come_as_they_are(tmp_path: Path) -> None:
    source, cache, said = photos(tmp_path / "photos"), tmp_path / "cache", []
    where = OnDisk(str(cache), said.append, write=False)
    expected = taken(source(), image_size=16)
    assert_same(taken(source(), image_size=16, cache=where), expected)
    assert "a run would first write them" in said[0] and not cache.exists()
    taken(source(), 1, image_size=16, cache=OnDisk(str(cache)))
    taken(source(), 1, image_size=16, cache=where)
    assert said[1].startswith("Using 10")


MEASURE = """
import os, tempfile
import numpy as np
import tensorflow as tf
from PIL import Image
from simclr_tf.datasets import open_source
from simclr_tf.datasets.disk_cache import OnDisk
from simclr_tf.datasets.pipeline import training_dataset

def anonymous():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])

folder = tempfile.mkdtemp()
for i in range(200):
    Image.new("RGB", (512, 512), (i, i, i)).save(f"{folder}/{i}.png")

def read(count):
    source = open_source(folder, "all").subset(np.arange(count))
    data = training_dataset(source, batch_size=2, image_size=360, seed=0,
                            cache=OnDisk(os.path.join(folder, "cache")))
    for _ in zip(range(100), data):
        pass

read(2)
before = anonymous()
read(200)
print(100 * (anonymous() - before) * 1024 // (200 * 515 * 515 * 3))
"""


@pytest.mark.slow
@pytest.mark.one_lane
def test_a_file_takes_no_memory() -> None:
    """Pages of the file are the system's, which takes them back when it needs them."""
    assert last_number(MEASURE) < 30
