"""Python processes that have imported nothing: what a command does before TensorFlow is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import simclr_tf

ROOT = str(Path(simclr_tf.__file__).parents[1])


def run_code(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a program that may import the package under test."""
    program = f"import sys; sys.path.insert(0, {ROOT!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def run_module_without_tensorflow(
    folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ARGUMENTS` where importing TensorFlow raises; writes into the folder."""
    (folder / "tensorflow.py").write_text("raise AssertionError('imported')")
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), ROOT])},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
