"""What the check finds, kept in `gpu.json` and `gpu.md` after every row. No TensorFlow here.

A part has a name, a status and rows. Its status is RUNNING; then PASS or FAIL, DONE where it only
measures, ERROR where it raised, DIED where it took its process with it, CUT where the time ended
within it, SKIPPED where the time had ended before.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
from report_tables import report

from simclr_tf.files.atomic_file import new_file
from simclr_tf.files.json_files import read_json, write_json

BROKEN = ("ERROR", "DIED")
Row = dict[str, Any]


def compared(
    name: str,
    ours: Any,
    expected: Any,
    tolerance: float,
    note: str = "",
    norms: bool = False,
) -> Row:
    """Returns a row: how far two arrays are apart, and whether that is within the tolerance.

    Args:
        name: What is compared.
        ours: An array, of any float type.
        expected: An array of the same shape.
        tolerance: Largest difference that passes.
        note: Anything to say beside it.
        norms: Whether the difference is |ours - expected| / |expected|, by the Euclidean norm; else
            it is max|ours - expected| / max|expected|, as for the arrays in `tests/golden`.
    """
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    if ours.shape != expected.shape:
        found, note = math.nan, f"shape {ours.shape} for {expected.shape}"
    else:
        measure = np.linalg.norm if norms else lambda x: np.abs(x).max(initial=0.0)
        found = float(measure((ours - expected).ravel()))
        found /= max(float(measure(expected.ravel())), 1e-30)
    return {
        "name": name,
        "difference": number(found),
        "tolerance": tolerance,
        "status": "PASS" if found <= tolerance else "FAIL",  # NaN fails
        "note": note,
    }


def checked(name: str, passed: bool, found: str) -> Row:
    """Returns a row: whether something holds, and what was found."""
    return {"name": name, "status": "PASS" if passed else "FAIL", "found": found}


def timed(
    name: str, count: int, quartiles: Any, ratio: float | None, peak: int | None, note: str = ""
) -> Row:
    """Returns a row: the time of one call.

    Args:
        name: What was called.
        count: Images of a call.
        quartiles: Seconds of one call: lower quartile, median, upper quartile.
        ratio: Its speed over that of the first side; None: there is no other.
        peak: Most bytes of device memory in a call; None: unknown.
        note: Anything to say beside it.
    """
    low, median, high = (float(value) for value in quartiles)
    return {
        "name": name,
        "images": count,
        "milliseconds": [number(1e3 * value) for value in (low, median, high)],
        "images_per_second": [number(count / value) for value in (high, median, low)],
        "ratio": None if ratio is None else number(ratio),
        "peak_bytes": peak,
        "note": note,
    }


def number(value: float) -> float | str:
    """Returns a number that strict JSON can hold: NaN and infinity as words."""
    return float(value) if math.isfinite(value) else str(value)


def line(row: Row) -> str:
    """Returns a row as it is printed."""
    beside = f"  ({row['note']})" if row.get("note") else ""
    if "difference" in row:
        found = row["difference"]
        text = found if isinstance(found, str) else f"{found:.2g}"
        return f"{row['status']}  {row['name']}: {text}, tolerance {row['tolerance']:g}{beside}"
    if "found" in row:
        return f"{row['status']}  {row['name']}: {row['found']}"
    low, median, high = row["milliseconds"]
    speed = f"{row['images_per_second'][1]:,.0f} images/s, {median:.2f} ms [{low:.2f}, {high:.2f}]"
    ratio = "" if row["ratio"] is None else f", ratio {row['ratio']:.2f}"
    peak = "" if row["peak_bytes"] is None else f", peak {row['peak_bytes'] / 2**30:.2f} GiB"
    return f"      {row['name']}: {speed}{ratio}{peak}{beside}"


class Record:
    """`gpu.json` and `gpu.md` in a folder, which are written anew at each change.

    Args:
        folder: Exists.

    Raises:
        UserError: The folder holds a `gpu.json` that can't be read.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "gpu.json")
        held = read_json(self.path)
        self.machine: dict[str, Any] = held.get("machine", {})
        self.parts: list[dict[str, Any]] = held.get("parts", [])
        self.to_do: list[str] = held.get("to_do", [])
        self.session: str = held.get("session", "")
        self._began: float | None = None

    def plan(self, names: list[str], session: str, keep: bool = False) -> None:
        """Sets what is to be done; drops what was found before.

        Args:
            names: Of the parts, in order.
            session: Tells this check from an earlier one.
            keep: Whether other parts keep what was found of them.
        """
        self.parts = [part for part in self.parts if keep and part["name"] not in names]
        self.to_do, self.session = list(names), session
        self.save()

    def begin(self) -> str:
        """Begins the next part; returns its name."""
        self.parts.append({"name": self.to_do[0], "status": "RUNNING", "rows": []})
        self._began = time.monotonic()
        self.save()
        return self.to_do[0]

    def add(self, row: Row) -> None:
        """Adds a row to the part that runs."""
        self.parts[-1]["rows"].append(row)
        self.save()

    def end(self, status: str = "", message: str = "") -> str:
        """Ends the part that runs, or takes the next one as ended before it began.

        Args:
            status: Empty: what its rows say.
            message: What happened, if not all went well.

        Returns:
            The status.
        """
        if not (self.parts and self.parts[-1]["status"] == "RUNNING"):
            self.parts.append({"name": self.to_do[0], "status": "RUNNING", "rows": []})
        part = self.parts[-1]
        found = [row["status"] for row in part["rows"] if "status" in row]
        verdict = "FAIL" if "FAIL" in found else "PASS" if found else "DONE"
        part["status"] = status or verdict
        if message:
            part["message"] = message
        if self._began is not None:
            part["seconds"] = round(time.monotonic() - self._began, 1)
            self._began = None
        self.to_do.pop(0)
        self.save()
        return str(part["status"])

    def skip_rest(self) -> list[str]:
        """Ends all that is left as skipped; returns its names."""
        names = list(self.to_do)
        for _ in names:
            self.end("SKIPPED", "the time had ended")
        return names

    def failures(self) -> list[str]:
        """Returns the names of what failed: parts that broke, rows of the others."""
        failed = []
        for part in self.parts:
            rows = [row["name"] for row in part["rows"] if row.get("status") == "FAIL"]
            failed += [f"{part['name']}: {name}" for name in rows]
            failed += [part["name"]] if part["status"] in BROKEN else []
        return failed

    def save(self) -> None:
        """Writes both files."""
        whole = {
            "machine": self.machine,
            "parts": self.parts,
            "to_do": self.to_do,
            "session": self.session,
        }
        write_json(self.path, whole)
        page = self.path[: -len("json")] + "md"
        with new_file(page) as partial, open(partial, "w", encoding="utf-8") as file:
            file.write(report(self.machine, self.parts))
