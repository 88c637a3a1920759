"""How a step grows: cells in processes of their own, ratios, and a process that fails."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import processes
import pytest
import shallow

from simclr_tf.errors import UserError
from simclr_tf.timing import growth
from simclr_tf.timing.growth import Cell, Taken


def test_rows_are_ratios_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Cell] = []

    def taken(cell: Cell) -> Taken:
        seen.append(cell)
        return Taken(seconds=cell.batch_size * cell.replicas / 1e3, memory=cell.batch_size << 20)

    monkeypatch.setattr(growth, "_in_a_process", taken)
    rows = [row.split() for row in growth.growth((64, 128), 8, 0.125)][2:]
    assert [(c.batch_size, c.replicas) for c in seen] == [
        (64, 1), (128, 1), (64, 2), (128, 2), (64, 4), (128, 4),
    ]  # fmt: skip
    assert rows[0] == ["64", "1", "1.000", "1.00", "1.0", "MiB", "1.00"]
    assert rows[-1] == ["128", "4", "4.000", "4.00", "1.0", "MiB", "1.00"]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process need not import TensorFlow; its network is half as deep, its views are crops."""
    name = growth.__name__

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", name] and options["capture_output"]
        return processes.run("-c", shallow.module_with_crops(name), *command[3:])

    monkeypatch.setattr(growth.subprocess, "run", run)


@pytest.mark.slow
def test_a_cell_trains_in_a_process(forked: None) -> None:
    taken = growth._in_a_process(Cell(8, 2, 8, 0.0625))
    assert 0 < taken.seconds < 60 and taken.memory >= 0


@pytest.mark.slow
def test_a_process_that_fails_is_one_line(forked: None) -> None:
    with pytest.raises(
        UserError, match=r"Expected a step of 5 images on 2 .* Expected a batch that"
    ):
        growth._in_a_process(Cell(5, 2, 8, 0.0625))


def test_silent_death(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **kwargs: Any) -> Any:
        return growth.subprocess.CompletedProcess(args, -9, "", "")

    monkeypatch.setattr(growth.subprocess, "run", killed)
    with pytest.raises(UserError, match="ended with -9"):
        growth._in_a_process(Cell(8, 1, 8, 0.0625))
