"""Files of features, as `python -m simclr_tf.embed` writes them, read back."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.features.files import EXTENSIONS
from simclr_tf.files.load_failures import one_line

_MOST_CLASSES = 1_000_000  # a list of names has as many entries as the highest class id


class FeatureTable(NamedTuple):
    """Features of a data set.

    Attributes:
        features: float32 (N, d).
        labels: int64 (N,) class ids, or None.
        class_names: Names by class id, or None.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    class_names: list[str] | None = None


def is_feature_file(path: str) -> bool:
    """Returns whether a path ends as files of features do."""
    return os.path.splitext(path)[1].lower() in EXTENSIONS


def read_features(path: str) -> FeatureTable:
    """Reads a file of features.

    Args:
        path: `.npz` (arrays `features`, and `label`, `class_names` where known), `.parquet` or
            `.tsv` (columns `label`, `class`, and `features` or `f0`, `f1`, ...).

    Raises:
        UserError: No such file, or it holds no features.

    Example:
        >>> read_features('feats.npz').features.shape
        (1000, 512)
    """
    path = os.path.expanduser(path)
    extension = os.path.splitext(path)[1].lower()
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".tsv": _read_tsv}
    if extension not in readers:
        raise UserError(
            f"Expected a file of features ({', '.join(EXTENSIONS)}); received: {path!r}. "
            "Write one with python -m simclr_tf.embed."
        )
    try:
        table = readers[extension](path)
    except UserError:
        raise
    except Exception as error:
        # zlib, zipfile, NumPy and pyarrow each have errors of their own: no list is complete.
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(
            f"Expected a file of features at {path}; it can't be read ({reason}). "
            "Write it again with python -m simclr_tf.embed."
        ) from error
    _check_shapes(table, path)
    return table


def _check_shapes(table: FeatureTable, path: str) -> None:
    rows = len(table.features) if table.features.ndim else 0
    if table.features.ndim != 2 or (table.labels is not None and table.labels.shape != (rows,)):
        shapes = [part.shape for part in table[:2] if part is not None]
        raise UserError(
            f"Expected features (N, d) and labels (N,) in {path}; received: shapes "
            f"{', '.join(map(str, shapes))}. Embed an endpoint of vectors, such as final_avg_pool."
        )
    if table.labels is None or table.class_names is None or not rows:
        return
    if table.labels.max() >= len(table.class_names):
        raise UserError(
            f"Expected a name for every class in {path}; received: {len(table.class_names)} names "
            f"and the class id {table.labels.max()}. Write the file again."
        )


def _read_npz(path: str) -> FeatureTable:
    with np.load(path, allow_pickle=False) as file:
        labels = _class_ids(file["label"]) if "label" in file else None
        names = [str(name) for name in file["class_names"]] if "class_names" in file else None
        features = file["features"]
        if features.dtype.kind not in "fiub":
            raise ValueError(f"features of type {features.dtype} are no real numbers")
        return FeatureTable(features.astype(np.float32), labels, names)


def _read_parquet(path: str) -> FeatureTable:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"Expected pyarrow to be installed for {path}; received: {error}. "
            "Run pip install 'simclr-tf[parquet]'."
        ) from error
    table = parquet.read_table(path)
    rows = table["features"].combine_chunks()
    features = rows.values.to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "features"}
    return _from_columns(features, columns)


def _read_tsv(path: str) -> FeatureTable:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        header = file.readline().rstrip("\n").split("\t")
        rows = [line.rstrip("\n").split("\t") for line in file]
    vectors = [i for i, name in enumerate(header) if name[:1] == "f" and name[1:].isdigit()]
    features = np.array([[row[i] for i in vectors] for row in rows], np.float32)
    said = [i for i in range(len(header)) if i not in set(vectors)]
    return _from_columns(features, {header[i]: [row[i] for row in rows] for i in said})


def _class_ids(values: np.ndarray) -> np.ndarray:
    if len(values) and not (values.min() >= -1 and values.max() < _MOST_CLASSES):
        raise ValueError(
            f"labels {values.min()} to {values.max()} are no class ids below {_MOST_CLASSES}, or -1"
        )
    return values.astype(np.int64)


def _from_columns(features: np.ndarray, columns: dict[str, list[str]]) -> FeatureTable:
    labels = names = None
    if "label" in columns:
        labels = _class_ids(np.array(columns["label"], np.int64))
        if "class" in columns and len(labels):
            known = dict(zip(labels.tolist(), columns["class"], strict=True))
            names = [known.get(i, str(i)) for i in range(int(labels.max()) + 1)]
    return FeatureTable(features.astype(np.float32), labels, names)
