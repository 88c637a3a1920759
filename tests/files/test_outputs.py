"""Whatever stands where a command is to write: refused in one line, or replaced when complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from simclr_tf import embed, import_release
from simclr_tf.errors import UserError
from simclr_tf.examples import retrieve, segment
from simclr_tf.features.projector import _FILES
from simclr_tf.files import outputs
from simclr_tf.files.outputs import check_apart, check_output_path, replace_all
from tf_hub_export import __main__ as export

OK = ""  # nothing to complain of: the command goes on to look for its model
EXISTS, LINK = "does not exist; received", "a link to"


def content(folder: Path) -> dict[str, object]:
    """Returns all that lies below a folder: what may not be lost."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = (
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_text()
        )
    return found


def lay_out(target: Path, kind: str, held: tuple[str, ...]) -> None:
    """Puts something where a command is to write; `held` is what one of its folders holds."""
    elsewhere = target.parent / "elsewhere"
    if kind == "file":
        target.write_text("mine")
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "broken link":
        target.symlink_to("nowhere")
    elif kind == "link to a file":
        elsewhere.write_text("mine")
        target.symlink_to(elsewhere)
    elif kind != "nothing":
        real = elsewhere if kind == "link to a folder" else target
        real.mkdir()
        names = {"foreign folder": ("notes.txt",), "ours and more": (*held, "notes.txt")}
        for name in names.get(kind, () if kind == "empty folder" else held):
            (real / name).write_text("mine")
        if kind == "link to a folder":
            target.symlink_to(elsewhere)


# What stands there -> what is said for a file and for a folder, each without and with --overwrite.
KINDS: dict[str, tuple[str, str, str, str]] = {
    "nothing": (OK, OK, OK, OK),
    "file": (EXISTS, OK, "which is a file", "which is a file"),
    "empty folder": ("which is a folder", "which is a folder", EXISTS, OK),
    "our folder": ("which is a folder", "which is a folder", EXISTS, OK),
    "foreign folder": ("which is a folder", "which is a folder", EXISTS, "something else"),
    "link to a file": (LINK, LINK, LINK, LINK),
    "link to a folder": (LINK, LINK, LINK, LINK),
    "broken link": (LINK, LINK, LINK, LINK),
    "pipe": ("which is a device",) * 4,
}
MODEL = ["--saved_model=no_model", "--dataset=mnist_5k"]
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str], str, str, tuple[str, ...]]] = {
    "embed a file": (embed.main, MODEL, "--output", "out.npz", ()),
    "embed a projector": (embed.main, MODEL, "--projector_dir", "out", _FILES),
    "retrieve": (retrieve.main, MODEL, "--output", "out.png", ()),
    "segment": (segment.main, MODEL[:1], "--output", "out.png", ()),
    "export": (export.main, ["--checkpoint=no_model"], "--export_dir", "out", ("model.json",)),
    "import": (import_release.main, ["no_model"], "--output", "out", ()),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stands_there_is_kept_and_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, needed, flag, file, held = COMMANDS[name]
    folder = not os.path.splitext(file)[1]
    for number, (kind, said) in enumerate(KINDS.items()):
        for overwrite in (False, True):
            if overwrite and main is import_release.main:
                continue  # it has no such flag
            here = tmp_path / f"{number}{overwrite}"
            here.mkdir()
            monkeypatch.chdir(here)
            lay_out(here / file, kind, held)
            if not (here / file).is_fifo():
                before = content(here)
            code = main(["", *needed, f"{flag}={file}", *(["--overwrite"] if overwrite else [])])
            error = capsys.readouterr().err
            expected = said[2 * folder + overwrite]
            assert code == 2 and error.count("\n") == 1 and "Traceback" not in error, (kind, error)
            if expected:
                assert expected in error and flag in error and "no_model" not in error, (
                    kind,
                    error,
                )
            else:
                assert "no_model" in error, (kind, error)
            if not (here / file).is_fifo():
                assert content(here) == before, kind


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "Name one"),
        ("~nobody_of_this_name/f.npz", "home folder of nobody"),
        ("f.npz/", "names a folder"),
        ("x" * 250 + ".npz", "too long"),
        ("missing/" + "x" * 300 + "/f.npz", "too long"),
        ("a_file/f.npz", "Not a directory"),
        ("a_file/deeper/f.npz", "Not a directory"),
        ("broken/f.npz", "No such file"),
        ("missing/deeper/f.npz", OK),
        ("~/f.npz", OK),
    ],
)
def test_paths_that_cannot_be_made(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("a_file").write_text("mine")
    Path("broken").symlink_to("nowhere")
    before = content(tmp_path)
    try:
        path = check_output_path("--output", given, folder=False, overwrite=True)
    except UserError as error:
        assert said and said in str(error) and "--output" in str(error)
    else:
        assert not said and path == os.path.expanduser(given)
    assert content(tmp_path) == before


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(outputs, "_probe", refuse)
    with pytest.raises(UserError, match=r"Permission denied.*can be written"):
        check_output_path("--output", str(tmp_path / "f"), folder=False, overwrite=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output=a.npz", "--projector_dir=a.npz"],
        ["--output=a.npz", "--projector_dir=./x/../a.npz"],
        ["--output=p/a.npz", "--projector_dir=p"],
        ["--output=a.npz", "--projector_dir=a.npz/p"],
        ["--output=a.npz", "--projector_dir=a.npz.partial"],
        ["--output=photos/a.npz"],
        ["--output=linked/a.npz"],
        ["--projector_dir=photos", "--overwrite"],
        ["--projector_dir=photos/p"],
    ],
)
def test_outputs_that_meet(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("x").mkdir()
    Path("linked").symlink_to("photos")
    before = content(tmp_path)
    code = embed.main(["", "--saved_model=no_model", "--dataset=./photos", *arguments])
    error = capsys.readouterr().err
    assert code == 2 and "to lie apart" in error and error.count("\n") == 1
    assert content(tmp_path) == before


def test_names_that_only_begin_alike_lie_apart(tmp_path: Path) -> None:
    check_apart([("--output", str(tmp_path / "ab")), ("--projector_dir", str(tmp_path / "a"))])


def test_a_log_folder_of_another_program_is_no_projector_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path / "out", "ours and more", _FILES)
    assert embed.main(["", *MODEL, "--projector_dir=out", "--overwrite"]) == 2
    assert "something else" in capsys.readouterr().err


@pytest.mark.parametrize("disk", ["the same disk", "another disk"])
@pytest.mark.parametrize("fails", [None, 0, 1])
def test_all_are_replaced_or_everything_stays(
    fails: int | None, disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, there = tmp_path / "work", tmp_path / "there"
    for folder, text in ((work, "new"), (there, "old")):
        (folder / "folder").mkdir(parents=True)
        (folder / "folder/inside").write_text(text)
        (folder / "file").write_text(text)
    before, real = content(tmp_path), os.rename
    targets = [str(there / "file"), str(there / "folder")]

    def rename(source: str, target: str) -> None:
        if disk == "another disk" and (str(work) in source) != (str(work) in target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if fails is not None and target == targets[fails] and source.endswith("new"):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    moves = [(str(work / "file"), targets[0]), (str(work / "folder"), targets[1])]
    if fails is None:
        replace_all(moves)
        assert content(there) == {"file": "new", "folder": False, "folder/inside": "new"}
        assert content(work) == {}
    else:
        with pytest.raises(OSError, match="Input/output"):
            replace_all(moves)
        assert content(tmp_path) == before
    shutil.rmtree(tmp_path)
