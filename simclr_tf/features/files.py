"""Features as files that other programs read: npz, Parquet, TSV; written in blocks of rows."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import TextIO, TypeAlias

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.features.store import FeatureStore

EXTENSIONS = (".npz", ".parquet", ".tsv")
_BLOCK = 512  # rows in memory

Cells: TypeAlias = list[int] | list[str]
"""One column of what is known of some rows: numbers or names."""


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of a source's images and classes.

    Attributes:
        files: Path of every image below the folder, by position in the source; None where images
            are not files.
        classes: Names by class id; None without labels.
    """

    files: Sequence[str] | None = None
    classes: Sequence[str] | None = None


def check_output(path: str) -> None:
    """Checks that a file's extension is known and the library that writes it installed.

    Raises:
        UserError: It is not, or can't.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in EXTENSIONS:
        raise UserError(
            f"Expected --output to end in {', '.join(EXTENSIONS)}; received: {path!r}. Rename it."
        )
    if extension == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:  # not installed, or built for another NumPy
            raise UserError(
                f"Expected pyarrow to be installed for a .parquet file; received: {error}. "
                "Run pip install 'simclr-tf[parquet]', or write .npz."
            ) from error


def write_features(store: FeatureStore, names: Names, path: str, kind: str) -> None:
    """Writes the rows of a store to a file.

    | file | holds |
    |---|---|
    | `.npz` | `features` (N, ...), `index` (N,), `label` (N,), `class_names` (C,), `file` (N,) |
    | `.parquet` | columns `index`, `file`, `label`, `class`, `features` (a list of d floats) |
    | `.tsv` | a line of column names, then `index`, `file`, `label`, `class`, `f0` to `f(d-1)` |

    `index` is the position in the split; labels and files are written where the source has them.

    Args:
        store: Columns `index`, `features` and, with labels, `label`.
        names: Files and classes.
        path: File to write.
        kind: One of `EXTENSIONS`.

    Example:
        >>> write_features(store, Names(), 'feats.npz', '.npz')
    """
    {".npz": _write_npz, ".parquet": _write_parquet, ".tsv": _write_tsv}[kind](store, names, path)


def rows_of(
    store: FeatureStore, names: Names, escape: bool = False
) -> Iterator[tuple[dict[str, Cells], np.ndarray]]:
    """Yields blocks of a store: what is known of each row, by column, and the features.

    Args:
        store: The rows.
        names: Files and classes.
        escape: Whether tabs and line ends in names are written as backslash sequences.
    """

    def clean(text: str) -> str:
        if not escape:
            return text
        text = text.replace("\\", "\\\\").replace("\t", "\\t")
        return text.replace("\n", "\\n").replace("\r", "\\r")

    labelled = "label" in store.columns
    columns = [store.blocks("index", _BLOCK), store.blocks("features", _BLOCK)]
    columns += [store.blocks("label", _BLOCK)] if labelled else []
    for index, features, *label in zip(*columns, strict=True):
        known: dict[str, Cells] = {"index": index.tolist()}
        if names.files is not None:
            known["file"] = [clean(names.files[i]) for i in index]
        if labelled:
            known["label"] = label[0].tolist()
            if names.classes is not None:
                known["class"] = [clean(names.classes[i]) for i in label[0]]
        yield known, features


def _write_npz(store: FeatureStore, names: Names, path: str) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name in ("features", "index", "label"):
            if name in store.columns:
                dtype, shape = store.columns[name]
                pieces = store.blocks(name, _BLOCK)
                _write_array(archive, name, dtype, (store.rows, *shape), pieces)
        if names.classes is not None:
            classes = np.array(list(names.classes), np.str_)
            _write_array(archive, "class_names", classes.dtype, classes.shape, iter([classes]))
        if names.files is not None:
            longest = max((len(file) for file in names.files), default=1)
            dtype = np.dtype((np.str_, longest))
            pieces = (
                np.array([names.files[i] for i in index], dtype)
                for index in store.blocks("index", _BLOCK)
            )
            _write_array(archive, "file", dtype, (store.rows,), pieces, zipfile.ZIP_DEFLATED)


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    pieces: Iterator[np.ndarray],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Writes one array of an npz file, as `np.savez` does, without having it in memory."""
    entry = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: the same features, the same file
    entry.compress_type = compression
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(piece.tobytes())


def _write_parquet(store: FeatureStore, names: Names, path: str) -> None:
    import pyarrow
    from pyarrow import parquet

    (width,) = store.columns["features"][1]
    kinds = {"index": pyarrow.int64(), "label": pyarrow.int64()}
    fields = [pyarrow.field("index", pyarrow.int64())]
    if names.files is not None:
        fields.append(pyarrow.field("file", pyarrow.string()))
    if "label" in store.columns:
        fields.append(pyarrow.field("label", pyarrow.int64()))
        if names.classes is not None:
            fields.append(pyarrow.field("class", pyarrow.string()))
    vectors = pyarrow.list_(pyarrow.float32(), width)
    schema = pyarrow.schema([*fields, pyarrow.field("features", vectors)])
    with parquet.ParquetWriter(path, schema) as writer:
        for known, features in rows_of(store, names):
            columns = [
                pyarrow.array(
                    [_valid(v) if isinstance(v, str) else v for v in values],
                    kinds.get(name, pyarrow.string()),
                )
                for name, values in known.items()
            ]
            flat = pyarrow.array(features.reshape(-1))
            columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, width))
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _valid(text: str) -> str:
    """Returns text that UTF-8 can encode: other bytes of a file's name are escaped as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_tsv(store: FeatureStore, names: Names, path: str) -> None:
    (width,) = store.columns["features"][1]
    first = True
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        for known, features in rows_of(store, names, escape=True):
            if first:
                file.write("\t".join([*known, *(f"f{i}" for i in range(width))]) + "\n")
                first = False
            write_lines(file, [*known.values()], features)


def write_lines(file: TextIO, columns: list[Cells], features: np.ndarray | None = None) -> None:
    """Writes rows as tab-separated lines; floats with nine digits, enough to restore them."""
    for row in range(len(features) if features is not None else len(columns[0])):
        cells = [str(column[row]) for column in columns]
        if features is not None:
            cells += [f"{value:.9g}" for value in features[row].tolist()]
        file.write("\t".join(cells) + "\n")
