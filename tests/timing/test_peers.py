"""Training beside peers: whose turn it is, what a failing side does to the others, what is refused.

`SIMCLR_RELEASE` names a checkout of google-research/simclr, `SIMCLR_LIGHTLY_PYTHON` an interpreter
with lightly: without them, or lightly in this one, those sides are not run.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import shallow

from simclr_tf import benchmark
from simclr_tf.errors import UserError
from simclr_tf.timing.peers import measuring, sides
from simclr_tf.timing.peers.sides import OURS, Side, find_sides

HOME = Path(sides.__file__).parent
# Notes what it is asked for, and fails as its settings say.
FAKE = f"""
import json, os, subprocess, sys, time
sys.path.insert(0, {str(HOME)!r})
from protocol import END_TO_END, STEP, Prepared, Timed, serve

def prepare(settings):
    note = lambda **what: print(json.dumps(what), file=open(settings["notes"], "a"))
    print("a library's own words")
    if settings["fails"] == "at start":
        raise ImportError("no such library\\nat all")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(name=settings["name"], settings=settings, pids=[os.getpid(), child.pid])
    def take(what, steps):
        note(name=settings["name"], what=what, steps=steps)
        fails = settings["fails"] if what == settings["fails_in"] else None
        if fails == "dies":
            sys.exit("the last words")
        if fails == "garbage":
            os.write(3, b"good morning\\n")
        if fails == "silence":
            time.sleep(600)
        if fails == "error":
            raise RuntimeError("in code:\\n\\n  far away\\n  out of patience")
        return Timed(settings["pace"] * steps, float("nan") if fails == "nan" else 4.8)
    description = {{"name": settings["name"] + " 1.0", "versions": "Fake 2.0", "device": "CPU",
                   "threads": settings["threads"], "parameters": settings["parameters"]}}
    return Prepared(description, {{what: lambda n, what=what: take(what, n)
                                  for what in (STEP, END_TO_END)}})

if __name__ == "__main__":
    answers = os.dup(1)
    assert answers == 3
    serve(prepare)
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fakes write; temporary folders are made beside it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "notes"


def fake(notes: Path, name: str, pace: float = 0.5, **settings: Any) -> Side:
    given = {"fails": None, "fails_in": "step", "parameters": 1000, **settings}
    given |= {"name": name, "notes": str(notes), "pace": pace}
    return Side(name, [sys.executable, "-c", FAKE], dict(os.environ), given)


def compare(*given: Side, patience: float = 60.0, size: int = 8, width: float = 1.0) -> list[str]:
    lines: list[str] = []
    measuring.compare(given, size, 4, 0.01, width, lines.append, patience)
    return lines


def noted(notes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def started(notes: Path) -> list[int]:
    """Returns the processes of the fakes, and those that they started."""
    return [pid for note in noted(notes) if "pids" in note for pid in note["pids"]]


def assert_nothing_is_left(notes: Path) -> None:
    pids = started(notes)
    wait_until(lambda: not any(map(is_running, pids)))  # a killed one takes a moment
    assert os.listdir(notes.parent) == ["notes"]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_sides_take_turns_and_nothing_is_left(notes: Path) -> None:
    lines = compare(fake(notes, OURS, 0.2), fake(notes, "a", 0.5), fake(notes, "b", 0.1))
    starts = [note for note in noted(notes) if "pids" in note]
    asked = [(note["name"], note["what"], note["steps"]) for note in noted(notes) if "what" in note]
    assert [name for name, _, _ in asked] == [OURS, "a", "b"] * (len(asked) // 3)
    # A second of the quickest is ten steps; then one round that is not counted, and three.
    steps = [*[("step", 1)] * 6, *[("step", 10)] * 12]
    assert [rest for _, *rest in asked][: len(steps)] == [list(pair) for pair in steps]
    assert {rest for _, *rest in asked[len(steps) :] for rest in [tuple(rest)]} == {
        ("end to end", max(10, 4 * measuring._visible_cores()))
    }
    assert len(asked) == len(steps) + 12
    shared = set(measuring.Settings._fields)
    assert len({str({k: n["settings"][k] for k in shared}) for n in starts}) == 1
    said = "\n".join(lines)
    assert said.count(f"{OURS} at 2.50 [2.50, 2.50] times the speed of a") == 2
    assert said.count(f"{OURS} at 0.50 [0.50, 0.50] times the speed of b") == 2
    assert "20.0 images/s" in said and "200.0 ms [200.0, 200.0]" in said
    assert "a 1.0, Fake 2.0, CPU" in said
    assert_nothing_is_left(notes)


@pytest.mark.parametrize(
    ("fails", "what", "words"),
    [
        ("at start", "step", "a is left out: ImportError: no such library"),
        ("dies", "step", "a is left out: exit code 1: the last words"),
        ("dies", "end to end", "a is left out: exit code 1: the last words"),
        (
            "garbage",
            "step",
            "a is left out: it answered 'good morning', which is no object of JSON",
        ),
        ("silence", "end to end", "a is left out: no answer within 3 seconds"),
        ("error", "step", "a is left out of step: RuntimeError: in code: out of patience"),
        (
            "error",
            "end to end",
            "a is left out of end to end: RuntimeError: in code: out of patience",
        ),
        ("nan", "step", "a is left out of step: its loss became nan"),
    ],
)
def test_others_go_on_without_a_side_that_fails(
    notes: Path, fails: str, what: str, words: str
) -> None:
    broken = fake(notes, "a", fails=fails, fails_in=what)
    patience = 3.0 if fails == "silence" else 60.0
    lines = compare(fake(notes, OURS), broken, fake(notes, "b"), patience=patience)
    said = "\n".join(lines)
    assert said.count("left out") == 1 and words in lines
    assert said.count(f"{OURS} at 1.00 [1.00, 1.00] times the speed of b") == 2
    remains = 0 if fails == "at start" else int("left out of" in said or what == "end to end")
    assert said.count("times the speed of a") == remains
    assert_nothing_is_left(notes)


def test_nothing_to_compare_is_one_line(notes: Path) -> None:
    with pytest.raises(UserError, match="a peer that train here"):
        compare(fake(notes, OURS), fake(notes, "a", fails="dies"))
    with pytest.raises(UserError, match="a peer that train here"):
        compare(Side(OURS, [str(notes / "none")], {}), fake(notes, "a"))


def test_another_network_and_device_are_said(notes: Path) -> None:
    peers = (fake(notes, "a", parameters=1001), fake(notes, "b", parameters=1002))
    said = "\n".join(compare(fake(notes, OURS), *peers))
    assert "1,001 trainable parameters (+1, +0.100%)\n" in said
    assert "1,002 trainable parameters (+2, +0.200%, another network)\n" in said


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_parent_leaves_no_process(notes: Path) -> None:
    side = fake(notes, OURS, fails="silence")
    code = (
        "from simclr_tf.timing.peers import measuring, sides\n"
        f"side = sides.Side({side.name!r}, {side.command!r}, {side.environment!r}, "
        f"{dict(side.settings)!r})\n"
        "measuring.compare([side, side._replace(name='a')], 8, 4, 1.0, 1.0, print)"
    )
    env = {**os.environ, "PYTHONPATH": str(HOME.parents[2]), "TMPDIR": str(notes.parent)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: notes.exists() and any("what" in note for note in noted(notes)))
        pids = started(notes)
        assert len(pids) == 4 and all(map(is_running, pids))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not any(map(is_running, pids)))


def wait_until(true: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What looks like the release."""
    (tmp_path / "tf2").mkdir()
    for name in sides._RELEASE_FILES:
        (tmp_path / "tf2" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "pip install 'simclr-tf[peers]'"),
        (["--lightly_python=none/python"], "can't be run"),
        (["--lightly_python=false"], "does not run Python code"),
        ([f"--lightly_python={sys.executable}"], "without no_such_library"),
        (["--release=none"], "where tf2/run.py is missing"),
        (["--release=CHECKOUT", "--width_multiplier=0.5"], "whole --width_multiplier"),
        (["--release=CHECKOUT"], "Expected Keras 2"),
        (["--release=CHECKOUT", "--batch_size=0"], "above 0"),
        (["--dataset=mnist_5k"], "WHAT=input alone"),
        (["--mixed_precision=bfloat16"], "WHAT=step alone"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    words: str,
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sides, "_LIGHTLY", ("json", "no_such_library"))
    monkeypatch.setattr(sides, "_LEGACY_KERAS", "no_such_keras")
    monkeypatch.setattr(sides.importlib.metadata, "version", lambda name: "3.1.0")
    given = [argument.replace("CHECKOUT", str(checkout)) for argument in arguments]
    assert benchmark.main(["benchmark", "peers", *given]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("argument", ["--release=here", "--lightly_python=python"])
def test_peers_are_no_other_measurements(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["benchmark", "step", argument]) == 2
    assert "WHAT=peers alone" in capsys.readouterr().err


@pytest.mark.parametrize("keras", ["2.15.0", "3.1.0"])
def test_the_release_gets_keras_2(
    keras: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "_LEGACY_KERAS", "json")  # any package that is there
    monkeypatch.setattr(sides.importlib.metadata, "version", lambda name: keras)
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    found = find_sides(str(checkout), None, 2.0)
    of_release = [side for side in found if side.name.startswith("release")]
    assert len(of_release) == 2 and found[0].name == OURS
    assert "TF_USE_LEGACY_KERAS" not in found[0].environment
    for side in of_release:
        assert side.environment.get("TF_USE_LEGACY_KERAS") == ("1" if keras[0] == "3" else None)


@pytest.mark.parametrize("name", ["protocol", "lightly_peer"])
def test_what_another_interpreter_runs_needs_nothing_of_this_one(name: str) -> None:
    names = {"numpy", "torch", "torchvision", "lightly", "PIL", "protocol"}
    allowed = {*sys.stdlib_module_names, *(names if name == "lightly_peer" else ())}
    tree = ast.parse((HOME / f"{name}.py").read_text())
    tree.body = [node for node in tree.body if "TYPE_CHECKING:" not in ast.unparse(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and str(node.module).partition(".")[0] in allowed


@pytest.mark.slow
def test_this_package_trains(notes: Path, short_rounds: None, half_as_deep: None) -> None:
    from simclr_tf.timing.compute import make_simclr, parameter_count

    program = shallow.module_with_crops("simclr_tf.timing.peers.ours")
    ours = Side(OURS, [sys.executable, "-c", program], sides._environment())
    # Without the linear head that the step of `benchmark step` has.
    model = make_simclr(0.0625, 8)
    count = parameter_count(model) - parameter_count(model.supervised_head)
    lines = compare(ours, fake(notes, "a", parameters=count), width=0.0625)
    said = "\n".join(lines)
    assert said.count("times the speed of a") == 2 and "left out" not in said
    assert said.count(f"{count:,} trainable parameters") == 2 and "%" not in said


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_ROUND_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "_STEPS_END_TO_END", 1)


def lightly_python() -> str | None:
    named = os.environ.get("SIMCLR_LIGHTLY_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("lightly") else None)


@pytest.mark.slow
@pytest.mark.skipif(lightly_python() is None, reason="neither lightly nor SIMCLR_LIGHTLY_PYTHON")
@pytest.mark.parametrize(("width", "size"), [(0.0625, 8), (0.3, 33)])
def test_lightly_trains_the_same_network(width: float, size: int, short_rounds: None) -> None:
    lines = compare(*find_sides(None, lightly_python(), width), width=width, size=size)
    assert_all_trained(lines, ["lightly", "lightly, channels_last"])


@pytest.mark.slow
@pytest.mark.skipif("SIMCLR_RELEASE" not in os.environ, reason="no SIMCLR_RELEASE")
def test_the_release_trains_the_same_network(short_rounds: None) -> None:
    lines = compare(*find_sides(os.environ["SIMCLR_RELEASE"], None, 1.0))
    assert_all_trained(lines, ["release", "release, no global_bn"])


def assert_all_trained(lines: list[str], names: list[str]) -> None:
    said = "\n".join(lines)
    assert "left out" not in said and "%" not in said  # as many parameters
    for name in names:
        assert sum(line.endswith(f"times the speed of {name}") for line in lines) == 2
