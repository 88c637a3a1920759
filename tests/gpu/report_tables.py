"""`gpu.md`: tables to paste into docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Part = dict[str, Any]


def report(machine: dict[str, Any], parts: list[Part]) -> str:
    """Returns the page.

    Args:
        machine: What it ran on, name by name.
        parts: As `Record` holds them.
    """
    lines = ["# On a GPU", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    lines += _unfinished(parts)
    for title, key, header, cells in (
        ("Equality", "difference", _DIFFERENCES, _difference),
        ("Structure", "found", _FINDINGS, _finding),
        ("Speed", "milliseconds", _TIMES, _time),
    ):
        rows = [cells(part["name"], row) for part in parts for row in part["rows"] if key in row]
        if rows:
            lines += [f"## {title}", "", *_table(header, rows), ""]
    return "\n".join(lines)


def _unfinished(parts: list[Part]) -> list[str]:
    """Returns a line for each part that is not simply done."""
    told = [part for part in parts if part["status"] not in ("PASS", "DONE", "FAIL")]
    lines = [f"- {p['status']}: {p['name']}: {p.get('message', 'not ended')}" for p in told]
    return [*lines, ""] if lines else []


_DIFFERENCES = ("part", "compared", "largest difference", "tolerance", "result")
_FINDINGS = ("part", "asked", "found", "result")
_TIMES = (
    "part", "side", "images", "ms, median [quartiles]", "images/s, median [quartiles]", "ratio",
    "peak memory",
)  # fmt: skip


def _difference(part: str, row: dict[str, Any]) -> list[str]:
    found = row["difference"]
    text = found if isinstance(found, str) else f"{found:.1e}"
    name = f"{row['name']} ({row['note']})" if row["note"] else row["name"]
    return [part, name, text, f"{row['tolerance']:g}", row["status"]]


def _finding(part: str, row: dict[str, Any]) -> list[str]:
    return [part, row["name"], row["found"], row["status"]]


def _time(part: str, row: dict[str, Any]) -> list[str]:
    low, median, high = row["milliseconds"]
    slow, middle, fast = row["images_per_second"]
    ratio, peak = row["ratio"], row["peak_bytes"]
    return [
        part,
        f"{row['name']} ({row['note']})" if row["note"] else row["name"],
        f"{row['images']:,}",
        f"{median:.2f} [{low:.2f}, {high:.2f}]",
        f"{middle:,.0f} [{slow:,.0f}, {fast:,.0f}]",
        "" if ratio is None else f"{ratio:.2f}",
        "" if peak is None else f"{peak / 2**30:.2f} GiB",
    ]


def _table(header: Iterable[str], rows: Iterable[list[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    header = list(header)
    return [line(header), "|" + "---|" * len(header), *map(line, rows)]
