"""JSON and CSV files of any content: read, or a `UserError`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutated import cases, mutated

from simclr_tf.errors import UserError
from simclr_tf.files.csv_files import append_csv, read_csv, trim_csv
from simclr_tf.files.json_files import read_json
from simclr_tf.loggers.memory import Memory
from simclr_tf.reports.record import read_record
from simclr_tf.runs.gain import Gain

pytestmark = pytest.mark.one_lane
TABLE = b"step,loss,knn_top_1\r\n10,0.5,0.25\r\n20,0.25,\r\n30,nan,0.5\r\n"
JSON = b'{"figure": "knn_top_1", "patience": 2, "from_step": 0, "run_id": "a", "global_step": 30}'
_FILES = ("flags.json", "result.json", "comparison.json", "evaluation.json", "metrics.csv",
          "online_evaluation.csv", "training_time.csv", "best/watch.json", "loggers/mlflow.json",
          "loggers/mlflow.csv")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for name in ("best", "loggers"):
        (folder / name).mkdir()
    return folder


def _write(run: Path, damaged: str, content: bytes) -> None:
    for name in _FILES:
        (run / name).write_bytes(TABLE if name.endswith(".csv") else JSON)
    (run / damaged).write_bytes(content)


@cases(0.14)
@given(name=st.sampled_from(_FILES), content=mutated(TABLE, JSON))
def test_any_content(run: Path, name: str, content: bytes) -> None:
    _write(run, name, content)
    for read in (
        lambda: read_record(str(run)).last_step,
        lambda: Gain.of_folder(str(run)),
        lambda: len(Memory(str(run), "mlflow")),
        lambda: trim_csv(str(run / "metrics.csv"), 20),
        lambda: append_csv(str(run / "metrics.csv"), {"step": 40, "loss": 0.1}),
    ):
        try:
            read()
        except UserError as error:
            assert name in str(error)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[1]", b"", b"{", b"\xff", b'"x"', b"{" * 5], ids=range(7)
)
def test_damaged_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(UserError, match="model.json"):
        read_json(str(tmp_path / "model.json"))


@pytest.mark.parametrize("content", [b"step\n\xff\n", b'step\n"' + b"x" * 200_000 + b'"'])
def test_damaged_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    for read in (lambda: read_csv(str(path)), lambda: trim_csv(str(path), 1)):
        with pytest.raises(UserError, match="readable table"):
            read()
    assert path.read_bytes() == content


def test_a_row_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "online_evaluation.csv"
    path.write_bytes(TABLE + b"4")
    assert read_csv(str(path))[-1] == {"step": "4"}
    trim_csv(str(path), 20)
    assert [row["step"] for row in read_csv(str(path))] == ["10", "20", "4"]


@pytest.mark.parametrize("step", ["²", "٣", "9" * 30, "-1", "1.5"])
def test_steps_that_are_none(tmp_path: Path, step: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,loss\n1,0\n{step},0\n", encoding="utf-8")
    trim_csv(str(path), 5)
    assert [row["step"] for row in read_csv(str(path))] == ["1"]


@pytest.mark.parametrize("content", [b'{"figure": "knn_top_1", "patience": "x"}'])
def test_what_is_watched_is_damaged(run: Path, content: bytes) -> None:
    _write(run, "best/watch.json", content)
    with pytest.raises(UserError, match=r"watch\.json"):
        Gain.of_folder(str(run))
