"""What is swept over: ranges and lists of values, checked by the table of settings."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence

from simclr_tf.config import Config
from simclr_tf.config.checks import check_setting
from simclr_tf.config.settings import Value, kind_of
from simclr_tf.errors import UserError

_FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_LOG = ":log"
# What a run is, where it goes, and what its figure is measured on: the same in all trials.
NOT_SWEPT = (
    "mode", "model_dir", "dry_run", "workers", "worker_index", "dataset", "data_dir",
    "image_column", "label_column", "imbalance", "label_seed", "eval_split", "eval_fraction",
    "eval_steps", "eval_name", "eval_baselines", "online_eval", "online_eval_images",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A setting and the values that are tried: a list, or a range with both ends.

    Attributes:
        name: Of the setting.
        choices: The list; empty: a range.
        low: Lower end of the range, and least value.
        high: Upper end.
        log: Whether each factor, rather than each difference, is as likely as another.
        whole: Whether the range holds whole numbers only.
    """

    name: str
    choices: tuple[Value, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    whole: bool = False

    @property
    def count(self) -> int | None:
        """How many values there are; None: a range of real numbers has no count."""
        if self.choices:
            return len(self.choices)
        return int(self.high) - int(self.low) + 1 if self.whole else None

    def value(self, index: int) -> Value:
        """Returns the value at a place, from 0, where they can be counted."""
        return self.choices[index] if self.choices else int(self.low) + index

    def __str__(self) -> str:
        """The dimension as `parse_dimension` reads it."""
        if self.choices:
            separator = "|" if any("," in str(value) for value in self.choices) else ","
            return f"{self.name}={separator.join(map(str, self.choices))}"
        return f"{self.name}={self.low}..{self.high}{_LOG if self.log else ''}"


def parse_space(texts: Sequence[str]) -> tuple[Dimension, ...]:
    """Returns the dimensions of a space, by name: the order in which they are given means nothing.

    Args:
        texts: Each as for `parse_dimension`.

    Raises:
        UserError: One is wrong, or stands twice.
    """
    found = sorted((parse_dimension(text) for text in texts), key=lambda each: each.name)
    names = [dimension.name for dimension in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"Expected each setting in one --space; received: {twice} in several. "
            "Put its values into one."
        )
    return tuple(found)


def parse_dimension(text: str) -> Dimension:
    """Reads NAME=A..B, NAME=A..B:log or NAME=V1,V2,...; values that hold commas stand between |.

    Args:
        text: What follows `--space=`.

    Raises:
        UserError: No such setting, or a value that the setting refuses.

    Example:
        >>> parse_dimension('learning_rate=0.1..1.0:log').high
        1.0
        >>> parse_dimension('augmentations=crop,flip|crop,flip,color').choices
        ('crop,flip', 'crop,flip,color')
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values:
        raise UserError(
            "Expected --space=SETTING=A..B, SETTING=A..B:log or SETTING=V1,V2,...; received: "
            f"{text!r}."
        )
    name = name.lstrip("-")
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, 1)
        advice = f"Did you mean {near[0]}?" if near else "simclr_tf.run --help lists them."
        raise UserError(f"Expected a setting's name in --space; received: {name!r}. {advice}")
    if name in NOT_SWEPT:
        raise UserError(
            f"Expected a setting that trials may differ in; received: {name}, which is the same "
            "for all. Leave it out of --space."
        )
    is_number = kind_of(_FIELDS[name]) in ("int", "float")
    return _range(name, values) if is_number and ".." in values else _list(name, values)


def combinations(space: Sequence[Dimension]) -> int | None:
    """Returns how many different trials a space has; None: without end."""
    counts = [dimension.count for dimension in space]
    return None if None in counts else math.prod(count for count in counts if count)


def combination(space: Sequence[Dimension], index: int) -> dict[str, Value]:
    """Returns the combination at a place; of neighbours the last setting differs.

    Args:
        space: Whose values can be counted.
        index: From 0 to `combinations(space)` - 1.

    Example:
        >>> combination(parse_space(['temperature=0.1,0.2', 'seed=0..2']), 1)
        {'seed': 0, 'temperature': 0.2}
    """
    values: dict[str, Value] = {}
    for dimension in reversed(space):
        index, place = divmod(index, dimension.count or 1)
        values[dimension.name] = dimension.value(place)
    return {dimension.name: values[dimension.name] for dimension in space}


def corners(space: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    """Yields the combinations of all listed values and ends of ranges."""
    listed = [
        dimension
        if dimension.choices
        else dataclasses.replace(dimension, choices=tuple(_ends(dimension)))
        for dimension in space
    ]
    for index in range(combinations(listed) or 0):
        yield combination(listed, index)


def _ends(dimension: Dimension) -> list[Value]:
    ends = (dimension.low, dimension.high)
    return [int(end) if dimension.whole else end for end in ends]


def _range(name: str, text: str) -> Dimension:
    ends, colon, scale = text.partition(":")
    if colon and scale != _LOG[1:]:
        raise UserError(
            f"Expected {name}=A..B or {name}=A..B{_LOG} in --space; received: {text!r}."
        )
    field = _FIELDS[name]
    if field.metadata["choices"]:
        listed = ",".join(map(str, field.metadata["choices"]))
        raise UserError(
            f"Expected a list of values for {name}, which takes but a few; received: {text!r}. "
            f"Choose from --space={name}={listed}."
        )
    first, _, last = ends.partition("..")
    low, high = (_value(name, end) for end in (first, last))
    assert isinstance(low, (int, float)) and isinstance(high, (int, float))
    if not low < high:
        raise UserError(f"Expected a smaller number before the .. of {name}; received: {text!r}.")
    if scale and low <= 0:
        raise UserError(
            f"Expected numbers above 0 for {name} on a logarithmic scale; received: {text!r}. "
            f"Raise the lower end, or leave {_LOG} away."
        )
    return Dimension(name, low=low, high=high, log=bool(scale), whole=kind_of(field) == "int")


def _list(name: str, text: str) -> Dimension:
    values = [_value(name, part) for part in text.split("|" if "|" in text else ",")]
    if len(values) < 2:
        raise UserError(
            f"Expected two values of {name} or more in --space; received: {text!r}. "
            f"For one, pass --{name}={text}."
        )
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UserError(f"Expected each value of {name} once in --space; received: {text!r}.")
    return Dimension(name, tuple(values))


def _value(name: str, text: str) -> Value:
    """Reads one value as the setting's type, and checks it."""
    field, text = _FIELDS[name], text.strip()
    kind = kind_of(field)
    value: Value = text
    try:
        if not text:
            raise ValueError
        words = {"true": True, "false": False}
        if kind == "bool":
            value = words[text.lower()]
        elif kind == "bool | str":
            value = words.get(text.lower(), text)
        elif kind != "str":
            value = int(text) if kind == "int" else float(text)
    except (KeyError, ValueError):
        expected = {"bool": "true or false", "int": "whole numbers", "float": "numbers"}
        raise UserError(
            f"Expected {expected.get(kind, 'values')} for {name} in --space; received: {text!r}."
        ) from None
    check_setting(field, value)
    return value
