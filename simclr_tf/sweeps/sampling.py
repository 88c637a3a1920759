"""Which settings the next trial tries: by Optuna's samplers, or a grid.

A draw depends on the seed, the trial's number and the trials before it, and on nothing that a
process would have to remember: a sweep that goes on draws what it would have drawn.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simclr_tf.config.settings import Value
from simclr_tf.sweeps.definition import LARGEST_GRID, Sweep
from simclr_tf.sweeps.record import Record, Trial
from simclr_tf.sweeps.space import Dimension, combination, combinations

if TYPE_CHECKING:
    import optuna

_DIGITS = 4  # of drawn numbers: no result depends on more, and they can be read and typed
_REDRAWS = 20
LEAST_FOR_IMPORTANCE = 4  # finished trials


def draw(sweep: Sweep, before: Sequence[Trial], number: int) -> dict[str, Value]:
    """Returns the values that a trial tries, none that an earlier one has tried.

    Args:
        sweep: The sweep.
        before: The trials before.
        number: Of the trial, below `sweep.total(...)`.

    Example:
        >>> draw(sweep, [], 0)
        {'learning_rate': 0.3538, 'temperature': 0.1}
    """
    if sweep.sampler == "grid":
        return combination(
            sweep.space, _shuffled(combinations(sweep.space) or 0, sweep.seed)[number]
        )
    tried = {_key(trial.settings) for trial in before}
    for attempt in range(_REDRAWS):
        drawn = _ask(sweep, before, f"{sweep.seed}/{number}/{attempt}")
        if _key(drawn) not in tried:
            return drawn
    count = combinations(sweep.space)
    if count is not None and count <= LARGEST_GRID:
        # A small space, nearly used up.
        for index in _shuffled(count, sweep.seed):
            drawn = combination(sweep.space, index)
            if _key(drawn) not in tried:
                break
    return drawn


def study_of(
    sweep: Sweep, trials: Sequence[Trial], sampler: Any = None, storage: Any = None
) -> optuna.Study:
    """Returns trials as a study of Optuna.

    Failed and refused trials are pruned ones in it, which samplers take for the worst: as failures,
    which they ignore, the same settings would be tried again and again.

    Args:
        sweep: The sweep.
        trials: Of it; those that have not ended are left out.
        sampler: Of Optuna.
        storage: As for `optuna.create_study`; None: in memory.
    """
    import optuna

    with _quiet():
        study = optuna.create_study(
            storage=storage,
            sampler=sampler,
            direction="maximize" if sweep.larger_is_better else "minimize",
        )
    space = _distributions(sweep.space)
    states = optuna.trial.TrialState
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(trial.settings),
                distributions=space,
                value=trial.value,
                state=states.COMPLETE if trial.is_finished else states.PRUNED,
                user_attrs={"number": trial.number, "line": trial.line},
            )
            for trial in trials
            if trial.has_ended
        ]
    )
    return study


def load_study(folder: str, storage: Any = None) -> optuna.Study:
    """Returns the sweep in a folder as a study of Optuna, for its plots and its dashboard.

    Args:
        folder: Of the sweep.
        storage: As for `optuna.create_study`: a copy goes there. None: in memory.

    Raises:
        UserError: The folder holds no sweep.

    Example:
        >>> load_study('runs/sweep').best_params
        {'learning_rate': 0.3538, 'temperature': 0.1}
    """
    record = Record.read(folder)
    return study_of(record.sweep, record.trials, storage=storage)


def importance(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, float]:
    """Returns the share of each setting in the variance of the metric; empty where none is known.

    Args:
        sweep: The sweep.
        trials: Of it.

    Source: functional ANOVA of a random forest (Hutter et al. 2014), as Optuna has it.
    """
    finished = [trial for trial in trials if trial.is_finished]
    varying = {trial.value for trial in finished}
    if len(finished) < LEAST_FOR_IMPORTANCE or len(varying) < 2 or len(sweep.space) < 2:
        return {}
    import optuna

    with _quiet():
        found = optuna.importance.get_param_importances(
            study_of(sweep, finished),
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed),
        )
    return {name: float(value) for name, value in found.items()}


def _ask(sweep: Sweep, before: Sequence[Trial], seed: str) -> dict[str, Value]:
    import optuna

    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    sampler = kinds[sweep.sampler](seed=zlib.crc32(seed.encode()))
    with _quiet():
        asked = study_of(sweep, before, sampler).ask(_distributions(sweep.space))
    return {each.name: _rounded(each, asked.params[each.name]) for each in sweep.space}


def _rounded(dimension: Dimension, value: Value) -> Value:
    if dimension.choices or dimension.whole or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), dimension.low), dimension.high)


def _distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    from optuna import distributions

    found: dict[str, Any] = {}
    for each in space:
        if each.choices:
            found[each.name] = distributions.CategoricalDistribution(each.choices)
        elif each.whole:
            found[each.name] = distributions.IntDistribution(
                int(each.low), int(each.high), log=each.log
            )
        else:
            found[each.name] = distributions.FloatDistribution(each.low, each.high, log=each.log)
    return found


@functools.lru_cache(maxsize=1)
def _shuffled(count: int, seed: int) -> list[int]:
    """Returns the order of a grid: its first trials, where not all are run, are anywhere in it."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _key(settings: Mapping[str, Value]) -> str:
    return json.dumps(settings, sort_keys=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what Optuna reports of each trial."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
