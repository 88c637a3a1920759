"""What is drawn: from the seed and the trials before, within the space, nothing twice."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from simclr_tf.config import Config
from simclr_tf.sweeps.definition import Sweep
from simclr_tf.sweeps.record import Record, Trial
from simclr_tf.sweeps.sampling import draw, importance, load_study, study_of
from simclr_tf.sweeps.space import combinations, parse_space

pytest.importorskip("optuna")
pytestmark = pytest.mark.one_lane
SPACE = ["learning_rate=0.1..10:log", "temperature=0.1,0.2,0.5", "num_proj_layers=1..4"]

SPACE_OF_ONE = ["learning_rate=0.001..1000:log"]


def sweep_of(space: list[str], sampler: str = "tpe", seed: int = 0, metric: str = "") -> Sweep:
    metric = metric or "label_top_1_accuracy"
    return Sweep(parse_space(space), metric, sampler, seed, Config(dataset="mnist_5k"))


def value_of(trial: Trial) -> float:
    """Best at a learning rate of 0.3; nothing else matters."""
    return -abs(math.log(float(trial.settings["learning_rate"]) / 0.3))


def run(sweep: Sweep, count: int, trials: list[Trial] | None = None) -> list[Trial]:
    trials = list(trials or ())
    for number in range(len(trials), count):
        trial = Trial(number, draw(sweep, trials, number))
        value = value_of(trial) if "learning_rate" in trial.settings else 0.0
        trials.append(dataclasses.replace(trial, state="finished", value=value))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_draws_the_same_in_one_process_after_another(sampler: str) -> None:
    sweep = sweep_of(SPACE, sampler)
    whole = run(sweep, 14)
    assert run(sweep, 14, run(sweep, 5)) == whole == run(sweep, 14, whole[:12])
    assert run(sweep_of(SPACE, sampler, seed=1), 3) != whole[:3]
    for trial in whole:
        rate = trial.settings["learning_rate"]
        assert isinstance(rate, float) and 0.1 <= rate <= 10 and rate == float(f"{rate:.4g}")
        assert trial.settings["temperature"] in (0.1, 0.2, 0.5)
        assert trial.settings["num_proj_layers"] in (1, 2, 3, 4)
    rates = [float(trial.settings["learning_rate"]) for trial in whole]
    assert sum(rate < 1 for rate in rates) >= 4  # of a logarithmic scale the lower half, too


def test_tpe_goes_where_it_was_good_and_keeps_away_from_failures() -> None:
    sweep = sweep_of(SPACE_OF_ONE)
    found = [value_of(trial) for trial in run(sweep, 40)]
    blind = [value_of(trial) for trial in run(sweep_of(SPACE_OF_ONE, "random"), 40)]
    assert sorted(found[20:])[10] > sorted(blind[20:])[10] / 2  # both below 0
    # All above 0.3 fail, and below it one is as good as another.
    failing: list[Trial] = []
    for number in range(40):
        trial = Trial(number, draw(sweep, failing, number))
        high = float(trial.settings["learning_rate"]) > 0.3
        end = {"state": "failed"} if high else {"state": "finished", "value": 0.5}
        failing.append(dataclasses.replace(trial, **end))
    # 13 of 20; where samplers ignore failures, none of 20.
    assert sum(trial.is_finished for trial in failing[20:]) >= 10


def test_a_grid_is_each_combination_once_in_an_order_of_its_seed() -> None:
    space = ["temperature=0.1,0.2,0.5", "seed=0..3"]
    trials = [tuple(trial.settings.values()) for trial in run(sweep_of(space, "grid"), 12)]
    assert len(set(trials)) == 12
    other = [tuple(t.settings.values()) for t in run(sweep_of(space, "grid", seed=1), 12)]
    assert other != trials and set(other) == set(trials)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_small_space_is_used_up_without_repetition(sampler: str) -> None:
    sweep = sweep_of(["temperature=0.1,0.2,0.5", "seed=0,1"], sampler)
    count = sweep.total(20)
    assert count == 6 == combinations(sweep.space)
    trials = [tuple(trial.settings.values()) for trial in run(sweep, count)]
    assert len(set(trials)) == 6


def test_importance_names_what_mattered() -> None:
    sweep = sweep_of(SPACE)
    trials = run(sweep, 12)
    shares = importance(sweep, trials)
    assert set(shares) == {"learning_rate", "temperature", "num_proj_layers"}
    assert shares["learning_rate"] > 0.6 and sum(shares.values()) == pytest.approx(1)
    assert importance(sweep, trials) == shares
    assert importance(sweep, trials[:3]) == {}
    assert importance(sweep, [dataclasses.replace(t, value=1.0) for t in trials]) == {}


def test_a_sweep_is_a_study_of_optuna(tmp_path: Path) -> None:
    sweep = sweep_of(SPACE, metric="uniformity")
    record = Record(str(tmp_path), sweep)
    for trial in run(sweep, 4):
        record.put(trial)
    record.put(Trial(4, draw(sweep, record.trials, 4), "failed", line="nan", code=3))
    record.put(Trial(5, draw(sweep, record.trials, 5)))
    path = tmp_path / "study.db"
    study = load_study(str(tmp_path), storage=f"sqlite:///{path}")
    assert path.exists() and study.direction.name == "MINIMIZE"
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["PRUNED"]
    assert study.best_params == record.ranked()[0].settings
    assert len(study_of(sweep, record.trials).trials) == 5
