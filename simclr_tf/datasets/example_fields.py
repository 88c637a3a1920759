"""Where the features of a serialised `tf.train.Example` lie, without reading the long ones.

An image is a hundred kilobytes, what is around it a few dozen bytes: a million records are listed
by reading the latter alone.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from typing import NamedTuple, TypeAlias

from simclr_tf.datasets.bad_image import BadImageError

Content: TypeAlias = "bytes | mmap.mmap"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers: Example.features, Features.feature, an entry's key and value, the kinds of a
# Feature, the values of a list.
_FEATURES, _FEATURE, _KEY, _VALUE, _LIST = 1, 1, 1, 2, 1
_KINDS = {1: "bytes", 2: "float", 3: "int64"}


class Feature(NamedTuple):
    """One feature of a record.

    Attributes:
        kind: 'bytes', 'float', 'int64', or '' for an empty one.
        spans: (start, stop) of each value of kind 'bytes'.
        integers: The values of kind 'int64'.
    """

    kind: str
    spans: list[tuple[int, int]]
    integers: list[int]


_EMPTY = Feature("", [], [])


def find_features(
    content: Content, start: int, stop: int, wanted: Collection[str]
) -> dict[str, Feature]:
    """Returns the features of a record by name; of long values only the place is looked up.

    Args:
        content: What holds the record.
        start: Where it begins.
        stop: Where it ends.
        wanted: Names of the features that are looked into; of others only the name is returned.

    Raises:
        BadImageError: It is no `tf.train.Example`.

    Source: tensorflow/core/example/example.proto, and the encoding of protocol buffers.

    Example:
        >>> find_features(record, 0, len(record), {"label"})["label"].integers
        [7]
    """
    found = {}
    try:
        for number, _, features_start, features_stop in _fields(content, start, stop):
            if number != _FEATURES:
                continue
            for _, _, entry, entry_stop in _fields(content, features_start, features_stop):
                parts = {n: (a, b) for n, _, a, b in _fields(content, entry, entry_stop)}
                key, value = parts.get(_KEY, (0, 0)), parts.get(_VALUE, (0, 0))
                name = content[slice(*key)].decode("utf-8", "replace")
                found[name] = _feature(content, *value) if name in wanted else _EMPTY
    except (IndexError, ValueError) as error:
        raise BadImageError("it is no tf.train.Example") from error
    return found


def _feature(content: Content, start: int, stop: int) -> Feature:
    for number, _, values, values_stop in _fields(content, start, stop):
        kind = _KINDS.get(number, "")
        spans, integers = [], []
        for _, wire, a, b in _fields(content, values, values_stop) if kind != "float" else ():
            if kind == "bytes":
                spans.append((a, b))
            elif wire == _VARINT:
                integers.append(_signed(_varint(content, a)[0]))
            else:  # packed, as all writers do
                while a < b:
                    value, a = _varint(content, a)
                    integers.append(_signed(value))
        return Feature(kind, spans, integers)
    return _EMPTY


def _fields(content: Content, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (number, wire type, start, stop) of the fields of a message."""
    place = start
    while place < stop:
        tag, place = _varint(content, place)
        wire = tag & 7
        first = place
        if wire == _BYTES:
            length, first = _varint(content, place)
            place = first + length
        elif wire == _VARINT:
            _, place = _varint(content, place)
        elif wire in (_FIXED32, _FIXED64):
            place += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if place > stop:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, wire, first, place


def _varint(content: Content, place: int) -> tuple[int, int]:
    """Returns a number, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
