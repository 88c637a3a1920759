"""Functions timed in turn in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

BATCHES = 8  # enough to make a pipeline's start negligible


def in_turn(sides: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Times several functions A B C A B C ..., so that changes of the machine's speed affect all.

    Args:
        sides: Name -> function; its tensors are waited for. One that returns a float has measured
            the seconds itself.
        seconds: About how long each function is timed in all, for at least three rounds.

    Returns:
        Name -> quartiles of the seconds of one call, after one call that is not counted.
    """
    found = seconds_in_turn(sides, seconds)
    return {name: np.quantile(taken[:, 0], [0.25, 0.5, 0.75]) for name, taken in found.items()}


def seconds_in_turn(
    sides: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, np.ndarray]:
    """Times several functions as `in_turn` does.

    Args:
        sides: Name -> function; its result is waited for.
        seconds: About how long each function is timed in all, for at least three rounds.

    Returns:
        Name -> (rounds, 2): seconds of each call, and seconds that processors worked for it, all
        threads together, which other programs disturb less.
    """
    for function in sides.values():
        wait_for(function())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    spent = 0.0
    while min(len(t) for t in times.values()) < 3 or spent < seconds * len(sides):
        for name, function in sides.items():
            start, worked = time.perf_counter(), time.process_time()
            result = function()
            wait_for(result)
            passed = time.perf_counter() - start
            own = result if isinstance(result, float) else passed
            times[name].append((own, time.process_time() - worked))
            spent += passed
    return {name: np.array(taken) for name, taken in times.items()}


def wait_for(result: object) -> None:
    """Returns once all tensors of a structure are computed."""
    for tensor in tf.nest.flatten(result):
        if tf.is_tensor(tensor):
            # One number: copying a whole batch off the device must not be timed.
            np.asarray(tf.reshape(tensor, [-1])[:1])
