"""How times are printed: medians, quartiles and ratios."""

from __future__ import annotations

import numpy as np


def table(title: str, times: dict[str, np.ndarray], count: int, unit: str) -> list[str]:
    """Returns one line a side: medians, quartiles in brackets, ratios to the first side.

    Args:
        title: The line above.
        times: Name of a side -> quartiles of the seconds of one call, (3,).
        count: How many of the unit one call makes.
        unit: What is counted a second, as in `images/s`.
    """
    first = next(iter(times.values()))[1]
    width = max(len(name) for name in times)
    lines = [title]
    for name, (low, median, high) in times.items():
        lines.append(
            f"  {name:{width}}  {count / median:10.1f} {unit}  {median * 1e3:9.1f} ms "
            f"[{low * 1e3:.1f}, {high * 1e3:.1f}]  ratio {first / median:.2f}"
        )
    return lines
