"""What a sweep is: its space, its metric, how trials are drawn, and the settings they share."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from simclr_tf.config import Config, differences
from simclr_tf.config.checks import check_setting, check_together
from simclr_tf.config.command_line import read, typed
from simclr_tf.config.settings import Value
from simclr_tf.errors import UserError, check_installed
from simclr_tf.sweeps.metrics import METRICS, find_metric, settings_for
from simclr_tf.sweeps.space import Dimension, combinations, corners, parse_space

SAMPLERS = ("tpe", "random", "grid")
LARGEST_GRID = 100_000
_MOST_CORNERS = 1000
_MOST_NAMED = 5  # differences in an error
_OF_THE_SWEEP = {
    "model_dir": "Each trial has a folder of its own in --sweep_dir: leave --model_dir away.",
    "mode": "Trials train and evaluate: leave --mode away.",
    "dry_run": "Plan one run: python -m simclr_tf.run --dry_run.",
    "workers": "Trials run on one machine: leave --workers away.",
}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        space: What is swept over, by name.
        metric: Name among `METRICS`.
        sampler: Name among `SAMPLERS`.
        seed: Of the sampler.
        config: The settings that all trials share, where the space does not say otherwise.
    """

    space: tuple[Dimension, ...]
    metric: str
    sampler: str
    seed: int
    config: Config

    @property
    def larger_is_better(self) -> bool:
        """Which way the metric is better."""
        return METRICS[self.metric].larger

    def total(self, trials: int) -> int:
        """Returns how many trials there are, where `trials` are asked for: none is run twice."""
        return min(trials, combinations(self.space) or trials)

    def settings_of(self, drawn: Mapping[str, Value], folder: str | None = None) -> Config:
        """Returns the settings of a trial, unchecked.

        Args:
            drawn: Its values of the space.
            folder: Its `model_dir`.
        """
        changes: dict[str, Any] = {**drawn, "model_dir": folder}
        return dataclasses.replace(self.config, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the sweep as `sweep.json` holds it."""
        return {
            "space": [str(dimension) for dimension in self.space],
            "metric": self.metric,
            "direction": "maximize" if self.larger_is_better else "minimize",
            "sampler": self.sampler,
            "sampler_seed": self.seed,
            "settings": self.config.to_dict(),
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Sweep:
        """Returns the sweep that `to_dict` described.

        Raises:
            UserError: It describes none.
        """
        find_metric(held["metric"])
        return cls(
            parse_space(held["space"]),
            held["metric"],
            held["sampler"],
            held["sampler_seed"],
            Config.from_settings(held["settings"]),
        )

    def check_same(self, earlier: Mapping[str, Any], folder: str) -> None:
        """Checks that the sweep in a folder is this one.

        Args:
            earlier: Its `to_dict`.
            folder: For the error.

        Raises:
            UserError: It is another.
        """
        now = self.to_dict()
        unlike: dict[str, tuple[object, object]] = {
            name: (earlier.get(name), now[name])
            for name in ("space", "metric", "sampler", "sampler_seed")
            if earlier.get(name) != now[name]
        }
        if "space" in unlike:
            there = "; ".join(map(str, earlier.get("space") or ()))
            unlike["space"] = (there, "; ".join(now["space"]))
        for found in differences(earlier["settings"], self.config):
            # Which of the swept settings the shared ones name, no trial sees.
            swept = {dimension.name for dimension in self.space}
            unlike |= {name: pair for name, pair in found.items() if name not in swept}
        if unlike:
            pairs = [f"{n} ({old} there, {new} now)" for n, (old, new) in unlike.items()]
            more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
            listed = f"{', '.join(pairs[:_MOST_NAMED])}{more}"
            raise UserError(
                f"Expected the sweep that {folder} holds; it differs in {listed}. "
                "Use those, or pass another --sweep_dir."
            )


def define(
    arguments: Sequence[str], space: Sequence[str], metric: str, sampler: str, seed: int
) -> tuple[Sweep, list[str]]:
    """Returns the sweep that a command line asks for, checked, and lines to print.

    Args:
        arguments: The flags of `simclr_tf.run`, for all trials.
        space: Each as for `parse_dimension`.
        metric: Name of the figure.
        sampler: How trials are drawn.
        seed: Of the sampler.

    Raises:
        UserError: Something of it can't work; Optuna is not installed.
    """
    if sampler not in SAMPLERS:
        raise UserError(
            f"Expected --sampler to be one of {', '.join(SAMPLERS)}; received: {sampler!r}."
        )
    if not 0 <= seed < 2**31:
        raise UserError(f"Expected --sampler_seed from 0 to {2**31 - 1}; received: {seed}.")
    check_installed("optuna", "for a sweep", extra="sweep")
    dimensions = parse_space(space)
    count = combinations(dimensions)
    if sampler == "grid" and (count is None or count > LARGEST_GRID):
        endless = next((d.name for d in dimensions if d.count is None), None)
        received = f"a range of {endless}" if endless else f"{count:,} combinations"
        raise UserError(
            f"Expected lists of values with --sampler=grid, at most {LARGEST_GRID:,} combinations; "
            f"received: {received}. Write --space=SETTING=V1,V2,... or choose another --sampler."
        )
    swept = [dimension.name for dimension in dimensions]
    given = typed(arguments)
    _check_given(given, swept)
    config, notes = read(arguments)
    if config.dry_run or config.workers is not None:  # of a flagfile
        _refuse("dry_run" if config.dry_run else "workers", config.workers or True)
    if config.strategy in ("auto", "multiworker") and os.environ.get("TF_CONFIG"):
        raise UserError(
            "Expected a sweep on one machine; received: TF_CONFIG, which names several. Unset it."
        )
    config = settings_for(metric, config, swept, given)
    for field in dataclasses.fields(config):
        check_setting(field, getattr(config, field.name))
    sweep = Sweep(dimensions, metric, sampler, seed, config)
    _check_values(sweep)
    return sweep, notes


def _check_given(given: Mapping[str, Value], swept: Sequence[str]) -> None:
    """Checks that flags ask for nothing that is the sweep's own, or swept over."""
    both = next((name for name in swept if name in given), None)
    if both is not None:
        raise UserError(
            f"Expected {both} in --space or as a flag of its own; received: both. "
            f"Leave --{both} away."
        )
    for name in _OF_THE_SWEEP:
        if given.get(name) not in (None, False, "train_then_eval"):
            _refuse(name, given[name])


def _refuse(name: str, value: Value) -> NoReturn:
    raise UserError(f"Expected a sweep without --{name}; received: {value}. {_OF_THE_SWEEP[name]}")


def _check_values(sweep: Sweep) -> None:
    """Checks that each listed value works in one trial at least: others are refused one by one."""
    for dimension in sweep.space:
        each_alone = [dataclasses.replace(dimension, choices=(v,)) for v in dimension.choices]
        for fixed in each_alone or [dimension]:  # of a range: any trial
            others = [fixed if each is dimension else each for each in sweep.space]
            first: UserError | None = None
            for drawn in itertools.islice(corners(others), _MOST_CORNERS):
                try:
                    check_together(sweep.settings_of(drawn))
                    break
                except UserError as error:
                    first = first or error
            else:
                assert first is not None
                raise first
