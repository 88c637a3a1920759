"""What Weights & Biases wrote offline, read from its files as `wandb sync` reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _BEGINNING = 32768, 7, 7


def records(folder: Path) -> Iterator[Any]:
    """Yields the records of all parts of a folder's runs, oldest part first."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("offline-run-*/run-*.wandb")):
        for data in _pieces(path.read_bytes()):
            yield Record.FromString(data)


def points(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of the history, as W&B's own step and the values say."""
    found = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return found


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yields the records of LevelDB's log format: pieces in blocks, each behind its header."""
    place, begun = _BEGINNING, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        begun += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):  # whole, or the last piece
            yield begun
            begun = b""
