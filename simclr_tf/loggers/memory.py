"""What a run's folder remembers of a logger, so that a resumed run goes on where it was."""

from __future__ import annotations

import os

from simclr_tf.files.csv_files import append_csv, is_number, read_csv
from simclr_tf.files.json_files import read_json, write_json

FOLDER = "loggers"


class Memory:
    """The id under which a logger knows the run, and the points that it has taken.

    They stand in `loggers/NAME.json` and `loggers/NAME.csv` of the run's folder. An interrupted run
    repeats the steps since its last checkpoint, and most services can't take a point back: what was
    logged is not logged again.

    Args:
        folder: The run's `model_dir`.
        name: Of the logger.

    Attributes:
        run_id: The id; None: the logger does not know the run yet.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._id_path, self._points_path = (
            os.path.join(folder, FOLDER, f"{name}.{ending}") for ending in ("json", "csv")
        )
        run_id = read_json(self._id_path).get("run_id")
        self.run_id: str | None = run_id if isinstance(run_id, str) else None
        self._points = self._read()

    def begin(self, run_id: str) -> None:
        """Remembers a new id; points under earlier ones no longer count."""
        os.makedirs(os.path.dirname(self._id_path), exist_ok=True)
        write_json(self._id_path, {"run_id": run_id})
        self.run_id, self._points = run_id, set()

    def has(self, curve: str, step: int) -> bool:
        """Returns whether a curve's point was taken."""
        return (curve, step) in self._points

    def add(self, curve: str, step: int) -> None:
        """Remembers a point."""
        append_csv(self._points_path, {"run_id": self.run_id, "curve": curve, "step": step})
        self._points.add((curve, step))

    def __len__(self) -> int:
        return len(self._points)

    def _read(self) -> set[tuple[str, int]]:
        if self.run_id is None:
            return set()
        rows = [row for row in read_csv(self._points_path) if row.get("run_id") == self.run_id]
        # The last row of a process that was killed may be cut off.
        steps = [(row.get("curve", ""), row.get("step", "")) for row in rows]
        return {(curve, int(step)) for curve, step in steps if is_number(step)}
