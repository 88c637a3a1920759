"""The figures of trials: read where runs write them, at the step that the results are of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from simclr_tf.config import Config
from simclr_tf.errors import UserError
from simclr_tf.evaluation.monitor import FIGURES
from simclr_tf.sweeps.metrics import METRICS, read_metric, settings_for

pytestmark = pytest.mark.one_lane
CONFIG = Config(dataset="mnist_5k")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run leaves that stopped early: its results are of step 4, its tables go on."""
    results = {"eval/label_top_1_accuracy": 0.5, "eval/teacher_agreement": 0.25, "global_step": 4}
    (tmp_path / "result.json").write_text(json.dumps(results))
    comparison = {
        "online_linear_head": 0.5,
        "raw pixels": {"logistic_regression": 0.1},
        "this run": {"logistic_regression": 0.6, "5_nearest_neighbours": 0.7},
    }
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    (tmp_path / "online_evaluation.csv").write_text(
        "step,knn_top_1,effective_rank\n2,0.1,3\n4,0.9,4\n6,0.2,5\n8"
    )
    (tmp_path / "metrics.csv").write_text("step,contrast_loss\n3,7.5\n6,6.5\n")
    return tmp_path


@pytest.mark.parametrize(
    "name, value",
    [
        ("label_top_1_accuracy", 0.5),
        ("teacher_agreement", 0.25),
        ("logistic_regression", 0.6),
        ("5_nearest_neighbours", 0.7),
        ("knn_top_1", 0.9),
        ("effective_rank", 4),
        ("contrast_loss", 7.5),
    ],
)
def test_where_each_is_read(folder: Path, name: str, value: float) -> None:
    assert read_metric(name, str(folder)) == value


def test_what_is_not_there_or_no_number(folder: Path) -> None:
    for name in ("label_top_5_accuracy", "uniformity", "contrast_acc", "distill_loss"):
        with pytest.raises(UserError, match=f"Expected {name} in .*; received: none"):
            read_metric(name, str(folder))
    (folder / "metrics.csv").write_text("step,contrast_loss\n3,nan\n")
    with pytest.raises(UserError, match="received: nan"):
        read_metric("contrast_loss", str(folder))


def test_directions_are_those_of_early_stopping() -> None:
    assert {name: METRICS[name].larger for name in FIGURES} == FIGURES
    smaller = {name for name, metric in METRICS.items() if not metric.larger}
    assert smaller == {"uniformity", "contrast_loss", "distill_loss"}


@pytest.mark.parametrize(
    "name, changes, swept, typed, expected",
    [
        ("accuracy", {}, [], [], "one of label_top_1_accuracy"),
        ("distill_loss", {}, [], [], "--train_mode=distill"),
        ("logistic_regression", {"train_mode": "finetune"}, [], [], "--train_mode=pretrain"),
        ("logistic_regression", {"eval_baselines": "never"}, [], ["eval_baselines"], "always"),
        ("knn_top_1", {"online_eval": "never"}, [], ["online_eval"], "--online_eval=always"),
        ("label_top_1_accuracy", {"lineareval_while_pretraining": False}, [], [], "=True"),
        ("contrast_loss", {}, ["temperature"], [], "the same figure"),
        ("contrast_loss", {}, ["loss"], [], "the same figure"),
        ("contrast_loss", {}, ["margin"], [], "the same figure"),
        ("contrast_acc", {}, ["memory_size"], [], "the same figure"),
        ("contrast_loss", {}, ["crop_area_min"], [], "the same figure"),
        ("contrast_acc", {}, ["train_batch_size"], [], "the same figure"),
    ],
)
def test_metrics_that_runs_would_not_write_or_that_mislead(
    name: str, changes: dict[str, object], swept: list[str], typed: list[str], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        settings_for(name, dataclasses.replace(CONFIG, **changes), swept, typed)
    assert expected in str(caught.value)


def test_runs_are_made_to_write_it() -> None:
    quiet = dataclasses.replace(CONFIG, online_eval="never", model_dir="a")
    found = settings_for("knn_top_1", quiet, ["temperature"], [])
    assert found == dataclasses.replace(
        CONFIG, online_eval="always", mode="train_then_eval", model_dir=None
    )
    assert settings_for("contrast_acc", CONFIG, ["temperature"], []).temperature == 0.1
