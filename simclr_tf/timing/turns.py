"""Functions timed in turn in one process, and the table of their times."""

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
    for function in sides.values():
        wait_for(function())
    times: dict[str, list[float]] = {name: [] for name in sides}
    while min(len(t) for t in times.values()) < 3 or sum(map(sum, times.values())) < seconds * len(
        sides
    ):
        for name, function in sides.items():
            start = time.perf_counter()
            result = function()
            wait_for(result)
            passed = time.perf_counter() - start
            times[name].append(result if isinstance(result, float) else passed)
    return {name: np.quantile(t, [0.25, 0.5, 0.75]) for name, t in times.items()}


def wait_for(result: object) -> None:
    """Returns once all tensors of a structure are computed."""
    for tensor in tf.nest.flatten(result):
        if tf.is_tensor(tensor):
            # One number: copying a whole batch off the device must not be timed.
            np.asarray(tf.reshape(tensor, [-1])[:1])


def table(title: str, times: dict[str, np.ndarray], count: int, unit: str) -> list[str]:
    """Returns one line a side: medians, quartiles in brackets, ratios to the first side."""
    first = next(iter(times.values()))[1]
    width = max(len(name) for name in times)
    lines = [title]
    for name, (low, median, high) in times.items():
        lines.append(
            f"  {name:{width}}  {count / median:10.1f} {unit}  {median * 1e3:9.1f} ms "
            f"[{low * 1e3:.1f}, {high * 1e3:.1f}]  ratio {first / median:.2f}"
        )
    return lines
