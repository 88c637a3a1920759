"""Rows of features on disk before they become a file: they survive an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.files.json_files import read_json, write_json
from simclr_tf.files.lock import try_lock

_JOB, _STATE, _LOCK = "job.json", "state.json", "lock"


class FeatureStore:
    """Columns of a growing table, each a raw binary file in one folder.

    A batch is appended to every column, then the row count is replaced by a rename. So a process
    may die at any moment: rows beyond the count are cut off when the folder is opened again. At
    most one batch is in memory.

    Args:
        folder: Folder to make or to continue.
        job: What the rows are made of, as JSON can hold it; a folder of another job is refused.
        columns: Name -> (dtype, shape of one row). `index` is the position in the source.
        restart: Whether a folder of another job is emptied instead.

    Attributes:
        rows: Complete rows.
        seen: Images of the source that have been processed, unreadable ones too.

    Raises:
        UserError: The folder belongs to another job, is in use or cannot be written.

    Example:
        >>> store = FeatureStore('f.partial', {'dataset': 'a'}, {'index': ('int64', ())})
        >>> store.append({'index': np.arange(4)}, seen=4)
        >>> store.rows
        4
    """

    def __init__(
        self,
        folder: str,
        job: Mapping[str, object],
        columns: Mapping[str, tuple[str, Sequence[int]]],
        restart: bool = False,
    ) -> None:
        self.folder = folder
        self.columns = {name: (np.dtype(d), tuple(shape)) for name, (d, shape) in columns.items()}
        with as_user_error(folder):
            os.makedirs(folder, exist_ok=True)
            self._lock = _locked(os.path.join(folder, _LOCK), folder)
        try:
            with as_user_error(folder):
                self._open(json.loads(json.dumps(job)), restart)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, job: Mapping[str, object], restart: bool) -> None:
        held = set(os.listdir(self.folder)) - {_LOCK}
        if held and _JOB not in held:
            os.remove(self._path(_LOCK))
            raise UserError(
                f"Expected {self.folder} to be new or the work of this command; received: a folder "
                "of something else. Move it, or choose another name to write."
            )
        earlier = _read(self._path(_JOB))
        if earlier and earlier != job:
            if not restart:
                names = [name for name in job if earlier.get(name) != job[name]]
                listed = ", ".join(f"{n} ({earlier.get(n)} there, {job[n]} now)" for n in names)
                raise UserError(
                    f"Expected {self.folder} to be work that this command began; received: other "
                    f"{listed}. Type the earlier command, or pass --overwrite to start afresh."
                )
            earlier = {}
        if not earlier:
            for name in sorted(held, key=lambda name: name == _JOB):
                path = self._path(name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
            write_json(self._path(_JOB), job)
        state = _read(self._path(_STATE))
        self.rows, self.seen = int(state.get("rows", 0)), int(state.get("seen", 0))
        sizes = {name: self._row_bytes(name) for name in self.columns}
        whole = [
            os.path.getsize(self._column(name)) // size if os.path.exists(self._column(name)) else 0
            for name, size in sizes.items()
        ]
        if min(whole) < self.rows:  # after a power cut the count may be on disk without its rows
            self.rows = min(whole)
            self.seen = self._last_index() + 1
        self._files: dict[str, BinaryIO] = {}
        for name, size in sizes.items():
            file = open(self._column(name), "ab", buffering=0)  # noqa: SIM115
            file.truncate(self.rows * size)
            self._files[name] = file

    def append(self, batch: Mapping[str, np.ndarray], seen: int) -> None:
        """Adds rows.

        Args:
            batch: Column -> (n, ...) values.
            seen: Images of the source that have been processed, those of these rows included.

        Raises:
            UserError: The rows can't be written; the disk may be full.
        """
        counts = {len(values) for values in batch.values()}
        assert set(batch) == set(self.columns) and len(counts) == 1, "whole rows"
        with as_user_error(self.folder):
            for name, values in batch.items():
                dtype, shape = self.columns[name]
                values = np.ascontiguousarray(values, dtype)
                assert values.shape[1:] == shape, (name, values.shape)
                waiting = memoryview(values.tobytes())
                while waiting:
                    waiting = waiting[self._files[name].write(waiting) :]
            rows = self.rows + counts.pop()
            write_json(self._path(_STATE), {"rows": rows, "seen": seen})
        self.rows, self.seen = rows, seen

    def blocks(self, name: str, size: int = 512) -> Iterator[np.ndarray]:
        """Yields a column in pieces of at most `size` rows, each read from the file when needed."""
        dtype, shape = self.columns[name]
        with open(self._column(name), "rb") as file:
            for start in range(0, self.rows, size):
                count = min(size, self.rows - start)
                piece = file.read(count * self._row_bytes(name))
                yield np.frombuffer(piece, dtype).reshape(count, *shape)

    def close(self) -> None:
        """Closes the files and unlocks the folder; it is left as it is."""
        for file in self._files.values():
            file.close()
        self._lock.close()

    def remove(self) -> None:
        """Deletes the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _last_index(self) -> int:
        """Returns the position in the source of the last row; -1 without rows."""
        if not self.rows:
            return -1
        with open(self._column("index"), "rb") as file:
            file.seek((self.rows - 1) * self._row_bytes("index"))
            return int(np.frombuffer(file.read(self._row_bytes("index")), np.int64)[0])

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _column(self, name: str) -> str:
        return self._path(f"{name}.bin")

    def _row_bytes(self, name: str) -> int:
        dtype, shape = self.columns[name]
        return int(dtype.itemsize * np.prod(shape, dtype=np.int64))


def _read(path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        return {}
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error} Or remove {os.path.dirname(path)}.") from error


def _locked(path: str, folder: str) -> BinaryIO:
    """Returns a file locked by this process; the lock ends with the process."""
    file = open(path, "ab")  # noqa: SIM115
    if not try_lock(file):
        file.close()
        raise UserError(f"Expected {folder} to be free; another process writes there. Wait for it.")
    return file


@contextlib.contextmanager
def as_user_error(folder: str) -> Iterator[None]:
    """Turns an OSError of the disk into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Expected to write in {folder}; received: {error.strerror or error}. Make room or "
            "choose another place; the same command goes on from what is there."
        ) from error
