"""All loggers as one: names, what fails, what is remembered; without any of their packages."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from fresh_python import run_code

from simclr_tf.errors import NotFiniteError, UserError, check_installed
from simclr_tf.loggers import guard, names, together
from simclr_tf.loggers.logger import LoggedRun, Logger, tagged
from simclr_tf.loggers.memory import Memory

pytestmark = pytest.mark.one_lane


class Listed(Logger):
    """Keeps what it is given; fails while `broken`."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory, self.broken = memory, False
        self.points: list[tuple[int, dict[str, float]]] = []
        self.ended: list[int] = []

    def scalars(self, values: Mapping[str, float], step: int, group: str) -> None:
        if self.broken:
            raise OSError("http://me:secret@host: no space left\non device.")
        self.points.append((step, tagged(values, group)))

    def close(self, exit_code: int) -> None:
        self.ended.append(exit_code)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Listed:
    """The logger that any name opens."""
    listed = Listed()
    monkeypatch.setattr(together, "_open", lambda name, run: listed)
    return listed


def point(value: float, step: int) -> guard.Callable[[Logger], None]:
    return lambda logger: logger.scalars({"a": value}, step, "")


def test_names() -> None:
    assert names.chosen("tensorboard, wandb") == ("tensorboard", "wandb")
    assert names.chosen("none") == ()
    for name in names.LOGGERS:  # each is a file of that name
        assert importlib.util.find_spec(f"simclr_tf.loggers.{name}") is not None


@pytest.mark.parametrize(
    "loggers, hidden, expected",
    [
        ("tensorbaord", "", "Expected loggers to be names from tensorboard, mlflow, wandb"),
        ("mlflow", "mlflow", "pip install 'simclr-tf[mlflow]'"),
        ("tensorboard,wandb", "wandb", "pip install 'simclr-tf[wandb]'"),
    ],
)
def test_what_is_not_there_is_said_before_tensorflow(
    tmp_path: Path, loggers: str, hidden: str, expected: str
) -> None:
    (tmp_path / "wandb").mkdir()  # W&B's own folder of files is not the package
    done = run_code(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name == {hidden!r} else find(name)\n"
        "from simclr_tf.run import main\n"
        f"code = main(['simclr-tf', '--preset=quickstart', '--loggers={loggers}'])\n"
        "assert 'tensorflow' not in sys.modules\n"
        "sys.exit(code)",
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wandb"]


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_logs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("some_logs") is not None
    check_installed("numpy", "here", extra="none")
    with pytest.raises(UserError, match="package some_logs here; it is not installed"):
        check_installed("some_logs", "here", extra="none")


def test_what_fails_is_said_once_and_tried_again() -> None:
    logger, said, clock = Listed(), [], Clock()
    guarded = guard.Guarded("Lists", logger, said.append, clock)
    guarded.call(point(1.0, 1))
    logger.broken = True
    for step in (2, 3):
        guarded.call(point(float(step), step))
    clock.now += guard.RETRY_SECONDS
    guarded.call(point(4.0, 4))  # fails again
    logger.broken = False
    guarded.call(point(5.0, 5))  # too early for another try
    assert [step for step, _ in logger.points] == [1]
    clock.now += guard.RETRY_SECONDS
    guarded.call(point(6.0, 6))
    assert logger.points == [(step, {"a": float(step)}) for step in range(1, 7)]
    (line,) = said
    assert "Lists failed (http://host: no space left on device)" in line and "\n" not in line
    guarded.close(0)
    assert logger.ended == [0] and len(said) == 1


def test_what_never_arrives_is_said_at_the_end() -> None:
    logger, said = Listed(), []
    logger.broken = True
    guarded = guard.Guarded("Lists", logger, said.append)
    guarded.call(point(1.0, 1))
    guarded.call(point(2.0, 2))
    guarded.close(1)
    assert "did not get the last 2" in said[-1] and logger.ended == [1]


@pytest.mark.parametrize(
    "error, code",
    [(None, 0), (UserError(), 2), (NotFiniteError(), 3), (KeyboardInterrupt(), 130),
     (OSError(), 1)],
    ids=repr,
)  # fmt: skip
def test_it_is_told_how_the_run_ended(
    opened: Listed, error: BaseException | None, code: int
) -> None:
    try:
        with together.Loggers(("tensorboard",), LoggedRun("run")) as loggers:
            loggers.start()
            loggers.start()  # once
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert opened.ended == [code]


def test_nothing_is_open_before_the_start(opened: Listed) -> None:
    with together.Loggers(("tensorboard",), LoggedRun("run")) as loggers:
        loggers.scalars({"a": 1.0}, 1, "train")
    assert opened.points == opened.ended == []


def test_what_is_not_finite_is_left_out(opened: Listed) -> None:
    loggers = together.Loggers(("tensorboard",), LoggedRun("run", say=str))
    loggers.start()
    loggers.scalars({"a": math.nan, "b": 2.0}, 1, "train", group="eval_x")
    loggers.scalars({"a": math.inf}, 2, "train")
    assert opened.points == [(1, {"eval_x/b": 2.0})]


def test_a_repeated_step_is_not_logged_again(opened: Listed, tmp_path: Path) -> None:
    opened.memory = Memory(str(tmp_path), "any")
    opened.memory.begin("first")

    def log(*steps: int) -> list[int]:
        opened.points.clear()
        loggers = together.Loggers(("tensorboard",), LoggedRun(str(tmp_path)))
        loggers.start()
        for step in steps:
            loggers.scalars({"a": 1.0}, step, "train")
        loggers.scalars({"b": 1.0}, steps[-1], "eval")
        return [step for step, _ in opened.points]

    assert log(1, 2, 3) == [1, 2, 3, 3]
    with open(tmp_path / "loggers" / "any.csv", "a") as file:
        file.write("first,train")  # killed in the middle of a row
    opened.memory = Memory(str(tmp_path), "any")
    assert opened.memory.run_id == "first" and len(opened.memory) == 4
    assert log(2, 3, 4) == [4, 4]
    # What another store has taken does not count for a new one.
    opened.memory.begin("second")
    assert log(4) == [4, 4] and len(Memory(str(tmp_path), "any")) == 2


def test_a_logger_that_can_not_be_opened_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.LOGGERS, "no_such_file", names.Kind("Nothing"))
    with pytest.raises(UserError, match="Expected to open Nothing.* leave no_such_file out"):
        together.Loggers(("no_such_file",), LoggedRun("run")).start()


def test_numbers_of_a_comparison_become_tags() -> None:
    values = {"head": 0.5, "raw pixels": {"ridge": 1, "name": "x", "is": True}}
    assert together.flat(values, "c") == {"c/head": 0.5, "c/raw pixels/ridge": 1.0}
