"""Commands that must be refused: one clear line, exit code 2, and every file as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import TINY as TINY_RUN
from tiny_runs import working_folder

from simclr_tf.run import main

__all__ = ["working_folder"]  # a fixture

TINY = [*TINY_RUN, "--train_steps=2"]


def fingerprint(folder: Path) -> dict[str, str]:
    """Returns every file below a folder with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], working_folder: Path) -> Callable[..., str]:
    """Runs the command, asserts that it is refused as it should be; returns the line.

    Later arguments override earlier ones, as on the command line.
    """

    def run(*arguments: str, defaults: list[str] = TINY, begun: bool = False) -> str:
        before = fingerprint(working_folder)
        capsys.readouterr()
        code = main(["simclr-tf", *defaults, *arguments])
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("simclr-tf: error: ")]
        assert code == 2, err
        assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
        assert "Traceback" not in err
        assert len(lines[0]) < 1000, lines[0]
        after = fingerprint(working_folder)
        if begun:  # a run that had to begin to meet the mistake may have added files
            after = {path: after.get(path, "lost") for path in before}
        assert after == before
        return lines[0]

    return run
