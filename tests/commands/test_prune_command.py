"""Pruning by the command: what a run prints, keeps, exports and resumes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import OFTEN, TUNE, Command, command, rows, weights, working_folder

from simclr_tf.runs.callbacks import Checkpoints
from tf_hub_export.sources import load_model

__all__ = ["command", "working_folder"]  # fixtures

PRUNE = [*TUNE, "--prune=0.9", "--optimizer=momentum", "--learning_rate=0.1"]


def shares(folder: Path, step: int) -> dict[str, float]:
    """The share of zeros of each kernel in a checkpoint."""
    found = {name: w for name, w in weights(folder / f"ckpt-{step}").items() if "kernel" in name}
    return {name: float((values == 0).mean()) for name, values in found.items()}


@pytest.mark.second_lane  # test_pruning saves and goes on on both lanes
def test_a_pruned_run_resumes_exactly(
    command: Command,  # noqa: F811
    working_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By momentum, in the middle of the pruning: 12 steps, pruned after the fourth to the ninth."""
    arguments = [*PRUNE, *OFTEN, "--train_steps=12"]
    said = command(*arguments, "--mode=train_then_eval", "--model_dir=whole")
    assert "to 0.9 of zeros, from step 3 to 9, every 1." in said
    save = Checkpoints.on_step

    def interrupt(self: Checkpoints, step: int, logs: dict) -> None:
        save(self, step, logs)
        if step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "on_step", interrupt)
    command(*arguments, "--model_dir=run", code=130)
    monkeypatch.setattr(Checkpoints, "on_step", save)
    assert "at step 6" in command(*arguments, "--model_dir=run")
    whole, run = working_folder / "whole", working_folder / "run"
    for name, expected in weights(whole / "ckpt-12").items():
        found = weights(run / "ckpt-12")[name]
        np.testing.assert_array_equal(found == 0, expected == 0, err_msg=name)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    curve = [row["sparsity"] for row in rows(run)]
    assert curve == pytest.approx([row["sparsity"] for row in rows(whole)])
    assert curve[2] == 0 and curve[8:] == pytest.approx([curve[-1]] * 4)
    assert curve == sorted(curve)
    # Encoder and linear head; nothing reads the projection head, though weight decay moves it.
    assert {round(share, 1) for share in shares(run, 12).values()} == {0.0, 0.8, 0.9}
    model, _ = load_model("whole/saved_model/12")
    kernel = next(w for w in model.encoder.weights if len(w.shape) == 2)
    assert (np.array(kernel) == 0).mean() == pytest.approx(0.9, abs=1e-3)


@pytest.mark.one_lane
def test_what_cannot_be_pruned_is_refused(
    command: Command,  # noqa: F811
    working_folder: Path,  # noqa: F811
) -> None:
    said = command(*PRUNE, "--prune_interval=5", "--model_dir=run", code=2)
    assert "interval from 1 to the 3 steps between begin and end; received: 5" in said
    assert not (working_folder / "run").exists()
