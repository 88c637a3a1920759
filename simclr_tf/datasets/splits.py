"""Split expressions such as `train[:80%]+test`, parsed here for every kind of source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from simclr_tf.errors import UserError

_TERM = re.compile(r"(?P<name>[\w.\-]+)\s*(?:\[\s*(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?")
_BOUND = re.compile(r"(?P<value>[+-]?\d+(?:\.\d+)?)\s*(?P<percent>%?)")


class SplitRange(NamedTuple):
    """Consecutive examples of one split: `start <= index < stop`."""

    name: str
    start: int
    stop: int


def resolve_split(
    expression: str,
    sizes: Mapping[str, int],
    *,
    dataset: str,
    aliases: Mapping[str, str] | None = None,
) -> list[SplitRange]:
    """Turns a split expression into ranges of examples.

    The language is the one of TensorFlow Datasets: a name, a slice of it in examples or in percent
    (rounded to the nearest example, negative bounds count from the end), several joined by `+`,
    and `all` for every split.

    Args:
        expression: for example `train`, `train[:80%]`, `train[-1000:]`, `train+test`.
        sizes: number of examples of every split, by name.
        dataset: the data set's name, for messages.
        aliases: other names of splits: alias -> name in `sizes`.

    Returns:
        The ranges in the order of the expression; none is empty.

    Raises:
        UserError: the expression cannot be read, a split is unknown, or nothing is selected.

    Example:
        >>> resolve_split("train[:80%]", {"train": 10}, dataset="digits")
        [SplitRange(name='train', start=0, stop=8)]
    """
    ranges: list[SplitRange] = []
    for term in expression.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise UserError(
                "Expected a split expression such as train, train[:80%], train[1000:] or "
                f"train+test; received: '{expression}'."
            )
        name = match["name"]
        if name == "all" and "all" not in sizes:
            names = list(sizes)
        else:
            names = [name if name in sizes else (aliases or {}).get(name, name)]
        for known in names:
            if known not in sizes:
                raise UserError(
                    f"Expected a split of '{dataset}' ({', '.join(sizes)}); received: '{name}'. "
                    "Pass --train_split or --eval_split with one of them."
                )
            start = _bound(match["start"], sizes[known], 0, expression)
            stop = _bound(match["stop"], sizes[known], sizes[known], expression)
            if start < stop:
                ranges.append(SplitRange(known, start, stop))
    if not ranges:
        raise UserError(
            f"Expected a split expression that selects images of '{dataset}' "
            f"({', '.join(f'{name}: {size}' for name, size in sizes.items())}); "
            f"received: '{expression}', which selects none. Pass another "
            "one, or add images: of a class with a single image none is held out."
        )
    return ranges


def _bound(text: str | None, size: int, default: int, expression: str) -> int:
    """Returns one side of a slice as an index between 0 and `size`."""
    if text is None or not text.strip():
        return default
    match = _BOUND.fullmatch(text.strip())
    if match is None or (not match["percent"] and "." in match["value"]):
        raise UserError(
            "Expected slice bounds of a split in examples (1000) or percent (80%); "
            f"received: '{text.strip()}' in '{expression}'."
        )
    value = float(match["value"])
    if match["percent"]:
        if abs(value) > 100:
            raise UserError(
                "Expected a percentage between -100 and 100 in a split; "
                f"received: '{text.strip()}' in '{expression}'."
            )
        index = round(size * value / 100.0)
    else:
        index = int(value)
        if abs(index) > size:
            raise UserError(
                f"Expected slice bounds within the {size} examples of the split; "
                f"received: '{text.strip()}' in '{expression}'."
            )
    return index + size if match["value"].startswith("-") else index
