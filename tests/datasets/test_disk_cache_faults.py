"""Images decoded into a file where something is wrong: unreadable images, and never half a file."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cached_photos import assert_same, kept, photos, taken
from numbered_images import N
from PIL import Image

from simclr_tf.datasets import ImageSource, disk_cache, open_source
from simclr_tf.datasets.decoded_file import DecodedWriter
from simclr_tf.datasets.disk_cache import OnDisk, on_disk
from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import partial_path

# -------------------------------------------------------------------------------- unreadable images


def broken(root: Path) -> Callable[..., ImageSource]:
    """Writes images of which one is damaged behind its header, and one of one flat colour."""
    source = photos(root)
    path = root / "a" / "4.png"
    data = bytearray(path.read_bytes())
    data[500:540] = bytes(40)
    path.write_bytes(data)
    Image.new("RGB", (20, 30)).save(root / "a" / "6.png")
    return source


def test_unreadable_images_are_left_out_as_in_memory(tmp_path: Path) -> None:
    source = broken(tmp_path / "photos")
    plain, where = source(), OnDisk(str(tmp_path / "cache"))
    expected = taken(plain, image_size=16, cache=True)
    for _ in range(2):  # written, then found
        mapped = source()
        assert_same(taken(mapped, image_size=16, cache=where), expected)
        assert mapped.notices() == plain.notices() and len(plain.notices()) == 2


def test_they_are_named_by_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before the file is written, and found again from another working folder."""
    source = broken(tmp_path / "photos")
    first = source()
    taken(first, 10, image_size=16)
    assert len(first.notices()) == 2
    kept(first, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    again = open_source("photos", "all", eval_fraction=0.5)
    assert kept(again, tmp_path / "cache")[1][0].startswith("Using 9")
    assert [path for path, _ in again.bad_images] == ["photos/a/4.png"]
    assert again.flat_images == {"photos/a/6.png"}


def test_found_again_they_stop_a_run_that_does_not_skip_them(tmp_path: Path) -> None:
    source = broken(tmp_path / "photos")
    found, _ = kept(source(), tmp_path / "cache")
    assert found.num_examples == 9 and len(found.bad_images) == 1
    with pytest.raises(UserError, match=r"a/4.png' \(.*Leave the file out"):
        kept(source(on_bad_image="fail"), tmp_path / "cache")


def test_no_file_of_no_images(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", count=2)()
    for path in source.paths:
        Path(path).write_bytes(b"")
    with pytest.raises(UserError, match="Expected readable images in .*; received: none"):
        kept(source, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


# ------------------------------------------------------------------------------ never half a file


def test_an_interrupted_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "photos")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        add, calls = DecodedWriter.add, []

        def interrupted(*given: object) -> None:
            calls.append(given)
            if len(calls) > 4:
                raise KeyboardInterrupt
            add(*given)  # type: ignore[arg-type]

        patch.setattr(DecodedWriter, "add", interrupted)
        kept(source(), tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []
    found, said = kept(source(), tmp_path / "cache")
    assert said[0].startswith("Decoding") and found.num_examples == N


def test_remains_of_a_killed_process_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    cache.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # no process has it
        left = Path(partial_path(str(cache / "photos.npy")))
    left.write_bytes(b"half")
    (name,) = os.listdir(cache)
    assert name == left.name
    kept(source(), cache)
    assert [name[:7] for name in os.listdir(cache)] == ["photos-"]


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    source, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    expected = taken(kept(source(), cache)[0])
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    found, said = kept(source(), cache)
    assert said[0].startswith("Decoding")
    assert_same(taken(found), expected)


@pytest.mark.parametrize(
    ("canvas", "words"), [(8, "10 images that need 1.9 KiB"), (None, "1 of 10 images that take")]
)
def test_a_disk_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canvas: int | None, words: str
) -> None:
    source, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    usage = disk_cache.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(disk_cache.shutil, "disk_usage", lambda _: usage._replace(free=2000))
        with pytest.raises(UserError, match=rf"1.9 KiB, 95% .* is free\); received: {words}"):
            kept(source(), cache, canvas)
    assert os.listdir(cache) == []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DecodedWriter, "add", full)
    with pytest.raises(UserError, match=r"\(No space left on device\). Make room there"):
        kept(source(), cache, canvas)
    assert os.listdir(cache) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "photos")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="place for decoded images that can be written"):
        kept(source(), tmp_path / "file" / "cache")
    expected = taken(kept(source(), tmp_path / "cache")[0])

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # What is there needs no leave to write.
    for module, name in ((os, "makedirs"), (disk_cache, "held"), (disk_cache, "new_file")):
        monkeypatch.setattr(module, name, refused)
    assert_same(taken(kept(source(), tmp_path / "cache")[0]), expected)
    with pytest.raises(UserError, match="Read-only file system"):
        kept(source(), tmp_path / "other")


def test_of_two_at_once_one_writes(tmp_path: Path) -> None:
    source, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    waiting, loaded, said = threading.Event(), [], []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("Waiting"):
            waiting.set()

    def work() -> None:
        opened = source()
        original = opened._load

        def load(*given: object) -> object:
            loaded.append(given[0])
            assert waiting.wait(20)
            return original(*given)

        opened._load = load
        results.append(on_disk(opened, 8, OnDisk(str(cache), say)))

    results: list[ImageSource] = []
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(loaded) == list(range(N)) and len(os.listdir(cache)) == 1
    assert [sum(line.startswith(w) for line in said) for w in ("Decoding", "Waiting", "Using")] == [
        1, 1, 1,
    ]  # fmt: skip
    assert_same(*(taken(result) for result in results))
