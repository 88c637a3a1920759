"""Files and folders that are complete or absent at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from simclr_tf.files import atomic_file
from simclr_tf.files.atomic_file import new_file, partial_path, put_folder

pytestmark = pytest.mark.one_lane


def folder(path: Path, text: str) -> str:
    path.mkdir()
    (path / "saved_model.pb").write_text(text)
    return str(path)


@pytest.mark.skipif(sys.platform != "linux", reason="exchanging two folders is Linux's")
def test_a_folder_that_is_replaced_is_never_absent(tmp_path: Path) -> None:
    target = folder(tmp_path / "export", "0")
    read, over = [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            read.append((tmp_path / "export" / "saved_model.pb").exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(300):
        put_folder(folder(Path(partial_path(target)), str(number)), target)
    over.set()
    watcher.join()
    # The mark of an export was there whenever it was looked for: it is looked up by one call.
    assert len(read) > 300 and all(read)
    assert (tmp_path / "export" / "saved_model.pb").read_text() == "299"
    assert os.listdir(tmp_path) == ["export"]


def test_without_an_exchange_a_failure_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_file, "_exchange", lambda one, other: False)
    target = folder(tmp_path / "export", "old")
    put_folder(folder(Path(partial_path(target)), "new"), target)
    assert (tmp_path / "export" / "saved_model.pb").read_text() == "new"
    real = os.rename

    def fail(source: str, path: str) -> None:
        if "bad" in os.listdir(source):
            raise OSError("disk gone")
        real(source, path)

    partial = folder(Path(partial_path(target)), "newer")
    Path(partial, "bad").touch()
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="disk gone"):
        put_folder(partial, target)
    assert (tmp_path / "export" / "saved_model.pb").read_text() == "new"


def test_what_killed_processes_left_goes_away(tmp_path: Path) -> None:
    target = str(tmp_path / "a.json")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ours = Path(partial_path(target)).name
    dead = ours.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    alive = ours.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    host = ours.split("partial-")[1][:8]
    elsewhere = dead.replace(host, "0" * 8)
    long_ago = dead.replace(host, "1" * 8)
    for name in (dead, alive, elsewhere):
        (tmp_path / name).touch()
    folder(tmp_path / long_ago, "half")
    os.utime(tmp_path / long_ago, (0, 0))
    for name in (".other.partial", ".other.partial-1"):  # not ours to delete
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with new_file(target) as partial:
        Path(partial).write_text("{}")
    others = {".other.partial", ".other.partial-1"}
    assert set(os.listdir(tmp_path)) == {"a.json", alive, elsewhere, *others}
