"""JSON that every reader accepts: complete files, without NaN and Infinity."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import new_file


def write_json(path: str, values: Mapping[str, object]) -> None:
    """Writes a JSON file, complete or not at all.

    Args:
        path: File to make or to replace.
        values: What JSON can hold. NaN and infinity are refused rather than written as null: an
            unusable result must not look like one that was never measured.

    Raises:
        UserError: A number is NaN or infinite.

    Example:
        >>> write_json('/tmp/result.json', {'eval/label_top_1_accuracy': 0.9})
    """
    for place, value in _not_finite(values, ""):
        raise UserError(
            f"Expected finite numbers for {path}; received: {value} at {place}. "
            "Nothing was written; leave it out or correct it."
        )
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path: str) -> dict[str, Any]:
    """Returns what a JSON file such as `model.json` holds; an empty dict if it does not exist.

    Raises:
        UserError: The file is damaged.
    """
    if not os.path.exists(path):
        return {}
    try:
        with open(path, "rb") as file:
            held = parse_json(file.read())
        if not isinstance(held, dict):
            raise ValueError(f"{type(held).__name__} instead of names and values")
    except (OSError, ValueError) as error:
        raise UserError(
            f"Expected a readable JSON file at {path}; received: {error}. Fix or remove it."
        ) from error
    return held


def parse_json(content: bytes) -> object:
    """Returns what JSON in UTF-8 holds.

    Raises:
        ValueError: It is none, or nested deeper than Python follows (a `RecursionError` else).
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _not_finite(value: object, place: str) -> Iterator[tuple[str, float]]:
    """Yields the places of floats in a structure that are NaN or infinite, and their values."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _not_finite(part, f"{place}.{name}" if place else str(name))
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _not_finite(part, f"{place}[{index}]")
