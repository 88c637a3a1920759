"""Files of features, ours and other programs', of any content: read, or a `UserError`."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutated import cases, mutated

from simclr_tf.errors import UserError
from simclr_tf.features.reading import read_features

pytestmark = pytest.mark.one_lane
pyarrow = pytest.importorskip("pyarrow")


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _parquet(**columns: Any) -> bytes:
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


FEATURES = np.random.RandomState(0).randn(6, 3).astype("float32")
LABELS = np.arange(6) % 2
ORIGINALS = {
    ".npz": _npz(features=FEATURES, label=LABELS, class_names=np.array(["a", "b"])),
    ".parquet": _parquet(
        features=FEATURES.tolist(), label=LABELS.tolist(), **{"class": ["a", "b"] * 3}
    ),
    ".tsv": b"index\tlabel\tclass\tf0\tf1\n0\t0\ta\t0.5\t1\n1\t1\tb\t-2\t3e5\n2\t0\ta\t0\t0\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def _read(folder: Path, ending: str, content: bytes) -> str | None:
    """Returns why a file was refused, None where it was read."""
    path = folder / f"x{ending}"
    path.write_bytes(content)
    try:
        table = read_features(str(path))
    except UserError as error:
        assert len(" ".join(str(error).split())) < 700
        return str(error)
    assert table.features.ndim == 2 and table.features.dtype == np.float32
    assert table.labels is None or table.labels.shape == (len(table.features),)
    assert table.class_names is None or all(isinstance(n, str) for n in table.class_names)
    return None


@cases(0.17)
@given(ending=st.sampled_from(sorted(ORIGINALS)), content=mutated(*ORIGINALS.values()))
def test_any_content(folder: Path, ending: str, content: bytes) -> None:
    _read(folder, ending, content)


@cases(0.05)
@given(st.data())
def test_other_arrays_under_our_names(folder: Path, data: st.DataObject) -> None:
    shapes = st.sampled_from([(), (0,), (6,), (6, 3), (5, 3), (6, 2, 2), (6, 0), (0, 3)])
    kinds = st.sampled_from(["f4", "f8", "i8", "u8", "U3", "S2", "?", "c8", "M8[s]", "i2,f4"])
    names = ("features", "label", "class_names", "index")
    arrays = {
        name: np.zeros(data.draw(shapes), data.draw(kinds))
        for name in data.draw(st.lists(st.sampled_from(names), unique=True))
    }
    _read(folder, ".npz", _npz(**arrays))


@cases(0.05)
@given(st.lists(st.sampled_from(["0", "1", "-1", "9" * 30, "nan", "x", "", "1e9", "²", "99"]),
                min_size=2, max_size=2))  # fmt: skip
def test_any_label(folder: Path, labels: list[str]) -> None:
    rows = "".join(f"{label}\tname\t1\n" for label in labels)
    _read(folder, ".tsv", f"label\tclass\tf0\n{rows}".encode())


@pytest.mark.parametrize("label", [10**15, -2])
@pytest.mark.parametrize("ending", sorted(ORIGINALS))
def test_labels_that_are_no_class_ids(folder: Path, ending: str, label: int) -> None:
    """A list of names up to the first would be without end."""
    contents = {
        ".npz": _npz(features=FEATURES, label=np.full(6, label)),
        ".parquet": _parquet(features=FEATURES.tolist(), label=[label] * 6, **{"class": ["a"] * 6}),
        ".tsv": f"label\tclass\tf0\n{label}\ta\t1\n".encode(),
    }
    assert "class ids" in str(_read(folder, ending, contents[ending]))


def test_fewer_names_than_classes(folder: Path) -> None:
    content = _npz(features=FEATURES, label=LABELS, class_names=np.array(["a"]))
    assert "a name for every class" in str(_read(folder, ".npz", content))


class _Writes:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    objects = np.empty(1, object)
    objects[0] = _Writes(trap)
    for content in (_npz(features=objects), pickle.dumps(_Writes(trap))):
        assert _read(folder, ".npz", content) is not None
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["encrypted", "method", "huge"])
def test_zip_files_of_other_kinds(folder: Path, damage: str) -> None:
    content = bytearray(ORIGINALS[".npz"])
    entry, listed = content.find(b"PK\x03\x04"), content.find(b"PK\x01\x02")
    if damage == "encrypted":
        content[entry + 6] |= 1
        content[listed + 8] |= 1
    elif damage == "method":
        content[entry + 8] = content[listed + 10] = 99
    else:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            shape = "(1000000000000, 3)"
            said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            head = b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said
            archive.writestr("features.npy", head)
        content = bytearray(file.getvalue())
    assert _read(folder, ".npz", bytes(content)) is not None
