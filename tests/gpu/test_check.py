"""The check for a GPU without one: it runs whole in small sizes, and finds what is planted."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check
import equality
import numpy as np
import placement
import processes
import pytest
import speed
import tensorflow as tf
from placement import elsewhere, run_and_list
from record import Record, Row, checked, compared, line, timed
from report_tables import report
from setting import SMALL, Setting
from small_models import make_classifier, nesterov
from worker import do_parts

SCRIPT = Path(__file__).with_name("check.py")
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
NO_GPU.pop("TF_CPP_MIN_LOG_LEVEL", None)  # with which TensorFlow's own messages are shown


def strict(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.second_lane
def test_the_script_on_two_cpus(tmp_path: Path) -> None:
    flags = ("--allow_cpu", f"--out={tmp_path / 'out'}", "--minutes=20")
    done = processes.run(SCRIPT, *flags, env=NO_GPU, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all passed" in done.stdout and "GPU: none" in done.stdout
    held = strict(tmp_path / "out" / "gpu.json")
    assert held["to_do"] == []
    assert {"GPU", "TensorFlow", "Keras", "processor"} <= set(held["machine"])
    parts = {part["name"]: part for part in held["parts"]}
    kinds = [name.partition(":")[0] for name in parts]
    assert set(kinds) == {"equality", "structure", "recorded", "speed"}
    for name, part in parts.items():
        assert part["status"] == ("DONE" if name.startswith("speed") else "PASS"), part
        assert part["rows"], name
    # The comparison is no comparison of nothing: half precision differs.
    halves = parts["equality: a step in bfloat16"]["rows"]
    assert all(0 < row["difference"] < row["tolerance"] for row in halves)
    types = [row["name"] for row in parts["speed: step, 16 pixels"]["rows"]]
    assert types == ["float32", "mixed_bfloat16", "mixed_float16"]
    page = (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")
    assert all(f"## {title}" in page for title in ("Equality", "Structure", "Speed"))


@pytest.mark.slow
@pytest.mark.one_lane
def test_without_a_gpu_it_refuses_in_one_line(tmp_path: Path) -> None:
    done = processes.run(SCRIPT, f"--out={tmp_path / 'out'}", env=NO_GPU)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    said = done.stderr.splitlines()
    assert len(said) == 1 and "Expected a GPU" in said[0] and "--allow_cpu" in said[0]


@pytest.mark.one_lane
@pytest.mark.parametrize("flag", ["--minutes=0", "--minutes=soon", "--size=3"])
def test_wrong_arguments(flag: str, capsys: Any) -> None:
    assert check.main([flag]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("ours", "status"),
    [
        ([2.0, 4.0], "PASS"),
        ([2.0, 4.003], "PASS"),
        ([2.0, 4.005], "FAIL"),
        ([2.0, np.nan], "FAIL"),
        ([np.inf, 4.0], "FAIL"),
        ([2.0], "FAIL"),
    ],
)
def test_a_difference_beyond_the_tolerance_fails(
    ours: list[float], status: str, tmp_path: Path
) -> None:
    row = compared("a", ours, [2.0, 4.0], 1e-3)
    assert row["status"] == status and status in line(row)
    record = Record(str(tmp_path))
    record.plan(["one"], "now")
    record.begin()
    record.add(row)
    assert record.end() == status
    assert record.failures() == (["one: a"] if status == "FAIL" else [])
    assert strict(tmp_path / "gpu.json")["parts"][0]["rows"][0]["status"] == status


@pytest.mark.one_lane
def test_differences_by_norms() -> None:
    ours, expected = np.array([3.0, 4.0]), np.array([3.0, 3.0])
    row = compared("a", ours, expected, 0.3, norms=True)
    assert row["difference"] == pytest.approx(1 / 18**0.5) and row["status"] == "PASS"


def _good() -> Iterator[Row]:
    yield checked("holds", True, "none")


def _raises() -> Iterator[Row]:
    yield checked("holds", True, "none")
    raise RuntimeError("no such kernel\nat all")


@pytest.mark.one_lane
def test_a_part_that_raises_is_recorded_and_the_others_go_on(tmp_path: Path, capsys: Any) -> None:
    record = Record(str(tmp_path))
    record.plan(["bad", "good"], "now")
    do_parts({"bad": _raises, "good": _good}, record, time.time() + 60)
    assert "no such kernel" in capsys.readouterr().err
    bad, good = strict(tmp_path / "gpu.json")["parts"]
    assert (bad["status"], bad["message"]) == ("ERROR", "RuntimeError: no such kernel at all")
    assert len(bad["rows"]) == 1 and good["status"] == "PASS"
    assert record.failures() == ["bad"]


@pytest.mark.one_lane
def test_parts_beyond_the_time_are_left_out(tmp_path: Path, capsys: Any) -> None:
    record = Record(str(tmp_path))
    record.plan(["one", "two"], "now")
    do_parts({"one": _good, "two": _good}, record, time.time() - 1)
    assert "SKIPPED" in capsys.readouterr().out
    parts = strict(tmp_path / "gpu.json")["parts"]
    assert [part["status"] for part in parts] == ["SKIPPED", "SKIPPED"]
    assert "two" in (tmp_path / "gpu.md").read_text() and record.failures() == []


@pytest.mark.one_lane
def test_a_part_of_its_own_keeps_the_others(tmp_path: Path) -> None:
    record = Record(str(tmp_path))
    record.plan(["one", "two"], "first")
    do_parts({"one": _good, "two": _good}, record, time.time() + 60)
    for keep, names in ((True, ["two", "one"]), (False, ["one"])):
        record = Record(str(tmp_path))
        record.plan(["one"], "second", keep)
        do_parts({"one": _good}, record, time.time() + 60)
        assert [part["name"] for part in strict(tmp_path / "gpu.json")["parts"]] == names


WORKER = """
import os, sys, time
from record import Record, timed
folder, deadline, deed = sys.argv[1:]
record = Record(folder)
if deed == "refuses": sys.exit(2)
if record.session != deadline: record.plan(["one", "two", "three"], deadline)
while record.to_do:
    name = record.begin()
    record.add(timed("a side", 8, (1.0, 2.0, 3.0), None, 2**30))
    if name == "two" and deed == "dies": os.abort()
    if name == "two" and deed == "hangs": time.sleep(60)
    record.end()
"""


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("deed", "seconds", "code", "statuses"),
    [
        ("works", 60, 0, ["DONE", "DONE", "DONE"]),
        ("dies", 60, 0, ["DONE", "DIED", "DONE"]),
        pytest.param("hangs", 8, 0, ["DONE", "CUT", "SKIPPED"], marks=pytest.mark.slow),
        ("refuses", 60, 2, []),
    ],
)
def test_the_worker_is_watched(
    deed: str, seconds: float, code: int, statuses: list[str], tmp_path: Path
) -> None:
    deadline = repr(time.time() + seconds)
    command = [sys.executable, "-c", WORKER, str(tmp_path), deadline, deed]
    assert check.supervise(command, str(tmp_path), deadline) == code
    record = Record(str(tmp_path))
    assert [part["status"] for part in record.parts] == statuses
    # What was measured before is kept.
    assert all(part["rows"] for part in record.parts if part["status"] != "SKIPPED")
    assert record.failures() == (["two"] if deed == "dies" else [])


@pytest.mark.one_lane
def test_the_tables() -> None:
    rows = [
        compared("a|b", [1.0], [1.0], 1e-3, "a note"),
        checked("calls", False, "2 PyFunc"),
        timed("side", 512, (0.1, 0.2, 0.4), 1.5, 3 * 2**30, "1,024 did not fit"),
    ]
    parts = [
        {"name": "first", "status": "FAIL", "rows": rows},
        {"name": "second", "status": "DIED", "message": "its process ended", "rows": []},
    ]
    page = report({"GPU": "one"}, parts).splitlines()
    assert "- GPU: one" in page and "- DIED: second: its process ended" in page
    assert "| first | a/b (a note) | 0.0e+00 | 0.001 | PASS |" in page
    assert "| first | calls | 2 PyFunc | FAIL |" in page
    assert (
        "| first | side (1,024 did not fit) | 512 | 200.00 [100.00, 400.00] | "
        "2,560 [1,280, 5,120] | 1.50 | 3.00 GiB |"
    ) in page


def test_a_planted_operation_on_another_device_is_found() -> None:
    def step(x: Any, away: bool) -> Any:
        y = tf.matmul(x, x)
        with tf.device("/CPU:0" if away else "/CPU:1"):
            return tf.linalg.norm(tf.exp(y)) + tf.cast(tf.shape(y)[0], tf.float32)

    for away in (False, True):
        with tf.device("/CPU:1"):
            function = tf.function(lambda x, away=away: step(x, away))
            placed = run_and_list(function, tf.ones([4, 4]))
        assert any(node.op.endswith("MatMul") and node.device == "CPU:1" for node in placed)
        assert ("Exp" in elsewhere(placed, "CPU:1")) == away


@pytest.mark.slow
@pytest.mark.one_lane
def test_planted_faults_of_a_step_are_found() -> None:
    setting = Setting("CPU:1", SMALL)
    rates = iter([0.001, 0.00102])

    def another_rate() -> Any:
        return tf.keras.optimizers.SGD(next(rates), momentum=0.9, nesterov=True)

    rows = list(equality.five_steps(setting, make_classifier, another_rate))
    assert {row["name"]: row["status"] for row in rows}["kernels, by norms"] == "FAIL"

    def with_python(setting: Setting) -> Any:
        model = make_classifier(setting)
        step = model.train_step

        def slow(data: Any) -> Any:
            images, labels = data
            shape = labels.shape
            labels = tf.numpy_function(lambda x: x, [labels], tf.int64)
            return step((images, tf.ensure_shape(labels, shape)))

        object.__setattr__(model, "train_step", slow)
        return model

    found = list(placement.placement(setting, with_python, nesterov))
    assert found[0]["status"] == "FAIL" and "PyFunc" in found[0]["found"]
    assert found[1]["status"] == "FAIL"  # no GPU kernel serves it


def test_a_batch_that_does_not_fit_is_halved() -> None:
    def sides(batch: int) -> dict[str, Any]:
        def side() -> Any:
            if batch > 10:
                raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
            return tf.ones([batch])

        return {"small": lambda: tf.ones([1]), "large": side}

    rows = list(speed._measured(Setting("CPU:0", SMALL), sides, 32))
    assert [row["images"] for row in rows] == [8, 8]
    assert rows[0]["note"] == "32 did not fit" and rows[0]["peak_bytes"] is None
    assert rows[0]["ratio"] == 1.0 and rows[1]["ratio"] > 0
