"""The notebooks of docs/notebooks/: kept clean, and run from top to bottom with small values.

nbclient runs them, as Jupyter does; overriding the cell of parameters takes three lines, for which
papermill would bring a dozen packages. To look at the pictures: `--basetemp=DIR`.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shallow
from PIL import Image

import simclr_tf

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

BOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "release_files.npz"
# What each is run with. The values as committed take minutes.
SMALL: dict[str, dict[str, Any]] = {
    "quickstart": {
        "IMAGES": 64, "TEST_IMAGES": 40, "EPOCHS": 2, "BATCH_SIZE": 32, "WIDTH": 1 / 16,
        "COMMAND_EPOCHS": 1,
    },
    "own_images": {
        "DIGITS": 100, "IMAGE_SIZE": 20, "NETWORK": "--encoder=mlp:16 --mode=train", "EPOCHS": 2,
        "BATCH_SIZE": 16, "LABELS_PER_CLASS": 1, "FINE_TUNING_EPOCHS": 1,
    },
    "release_checkpoint": {
        "CHECKPOINT": "release", "DATASET": "mnist_5k", "TRAIN_SPLIT": "train[:40]",
        "TEST_SPLIT": "test[:24]", "IMAGE_SIZE": 16, "LABELS_PER_CLASS": 1, "EPOCHS": 1,
    },
}  # fmt: skip


def read(name: str) -> Any:
    return nbformat.read(BOOKS / f"{name}.ipynb", as_version=4)


def tagged(book: Any, tag: str) -> list[Any]:
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", ())]


@pytest.mark.one_lane
def test_every_notebook_is_kept_clean() -> None:
    assert {path.stem for path in BOOKS.iterdir()} == set(SMALL)
    for name, values in SMALL.items():
        assert (BOOKS / f"{name}.ipynb").stat().st_size < 40_000
        book = read(name)
        nbformat.validate(book)
        for cell in book.cells:
            assert set(cell.metadata) <= {"tags"}, cell.id
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None, cell.id
        (parameters,) = tagged(book, "parameters")
        assert set(values) <= set(re.findall(r"^(\w+) = ", parameters.source, re.M))
        assert re.search(r'^PACKAGE = ""', parameters.source, re.M)
        assert len(tagged(book, "picture")) >= 4


def pictures(cell: Any) -> list[bytes]:
    """Returns the PNG files that a cell has shown."""
    data = [output.get("data", {}) for output in cell.outputs]
    return [base64.b64decode(each["image/png"]) for each in data if "image/png" in each]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 12), reason="Colab has Python 3.12: run on its lane")
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell without an error, and a picture, not a blank one, where one is promised."""
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # nothing into the user's own folder
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    # Its commands start `python`; kernel and commands import what this process does.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(simclr_tf.__file__).parents[1]), prepend=os.pathsep)
    if name == "quickstart":  # its network is traced a dozen times: half as deep, as its command's
        shallow.write_python(tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if name == "release_checkpoint":
        from release_files import write_release_file

        with np.load(GOLDEN) as recorded:
            write_release_file("tf2_saved_model", tmp_path / "release", recorded)
    book = read(name)
    (parameters,) = tagged(book, "parameters")
    lines = [f"{key} = {value!r}" for key, value in SMALL[name].items()]
    overridden = nbformat.v4.new_code_cell("\n".join(lines))
    book.cells.insert(book.cells.index(parameters) + 1, overridden)
    if name == "quickstart":
        (device,) = (cell for cell in book.cells if cell.id == "device")  # imports TensorFlow
        setting = nbformat.v4.new_code_cell(shallow.SETTING)
        book.cells.insert(book.cells.index(device) + 1, setting)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=folder).execute()
    for cell in tagged(book, "picture"):
        assert pictures(cell), cell.id
        for number, content in enumerate(pictures(cell)):
            (tmp_path / f"{cell.id}_{number}.png").write_bytes(content)
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
            assert min(pixels.shape) >= 200 and pixels.std() > 5, cell.id
    shown = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", ())
    )
    assert "UserWarning" not in shown and "Traceback" not in shown
    if name == "release_checkpoint":
        some, more = (int(n.replace(",", "")) for n in re.findall(r"\(([\d,]+) weights tr", shown))
        assert some < more  # a frozen encoder, and one that is free again
