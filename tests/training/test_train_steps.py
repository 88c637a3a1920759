"""Whole training steps equal to the release's, on one and four replicas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import deviation
from recorded import (
    KERNELS,
    final_norms,
    fine_tuning,
    fine_tuning_batches,
    pretraining,
    pretraining_batches,
    run_steps,
    weights_of,
)


@pytest.mark.parametrize(
    "strategy",
    [
        1,
        # test_replicas compares four with one on both lanes.
        pytest.param(4, marks=[pytest.mark.slow, pytest.mark.one_lane]),
    ],
    indirect=True,
)
def test_five_pretraining_steps(strategy: Any, golden: Any) -> None:
    replicas = strategy.num_replicas_in_sync
    recorded = golden(f"train_steps_pretrain_r{replicas}")
    with strategy.scope():
        model = pretraining()
    rows = run_steps(model, pretraining_batches(), strategy)
    for column, name in enumerate(recorded["columns"]):
        # Accuracies are counts of a few images: within one of 16.
        limit = 1 / 16 + 1e-6 if "acc" in str(name) else 1e-3
        if "acc" in str(name):
            assert np.abs(rows[:, column] - recorded["rows"][:, column]).max() <= limit
        else:
            assert deviation(rows[:, column], recorded["rows"][:, column]) < limit, name
    compare_weights(model, recorded)


@pytest.mark.parametrize(
    "which",
    [
        "linear",
        pytest.param("all", marks=[pytest.mark.slow, pytest.mark.second_lane]),
    ],
)
def test_five_fine_tuning_steps(which: str, golden: Any) -> None:
    recorded = golden(f"train_steps_finetune_{which}_r1")
    model = fine_tuning(which)
    rows = run_steps(model, fine_tuning_batches())
    column = list(recorded["columns"]).index("supervised_loss")
    # From the fourth step on this unregularised start magnifies rounding: two equal forms of batch
    # norm, fused and not, differ from each other by as much (5e-3) as either from the recording.
    assert deviation(rows[:3, column], recorded["rows"][:3, column]) < 1e-3
    assert deviation(rows[:, column], recorded["rows"][:, column]) < 1e-2
    for name, limit in (("learning_rate", 1e-6), ("weight_decay", 1e-3)):
        column = list(recorded["columns"]).index(name)
        assert deviation(rows[:, column], recorded["rows"][:, column]) < limit, name
    compare_weights(model, recorded, kernels=1e-3 if which == "linear" else 1e-2)


def compare_weights(model: Any, recorded: dict[str, np.ndarray], kernels: float = 1e-3) -> None:
    """The norm of every variable after the last step, and two kernels."""
    norms = dict(zip(map(str, recorded["final_norm_keys"]), recorded["final_norms"], strict=True))
    ours = final_norms(model)
    assert set(ours) == set(norms)
    assert deviation([ours[key] for key in norms], list(norms.values())) < 1e-3
    weights = weights_of(model)
    for key, path in KERNELS.items():
        assert deviation(weights[path], recorded[key]) < kernels, key
