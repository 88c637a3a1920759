"""`python -m simclr_tf.embed` on a tiny model and a folder of photos, and its interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_tf.embed import main
from simclr_tf.features.store import FeatureStore
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model as a SavedModel in `module` and as a Keras file in `keras`."""
    folder = tmp_path_factory.mktemp("exports")
    head = ProjectionHead(out_dim=4, num_layers=2)
    model = SimCLR(make_encoder("mlp:16", image_size=8), head, num_classes=3)
    details = {"settings": {"image_size": 8}}
    export_model(model, str(folder / "module"), details=details)
    export_model(model, str(folder / "keras"), "keras", details=details)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 23 readable images of several sizes, one broken file."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.RandomState(0)
    for index in range(23):
        home = folder / ("katze" if index % 3 else "hünd")
        home.mkdir(exist_ok=True)
        pixels = random.randint(0, 256, (8 + index, 30 - index, 3)).astype("uint8")
        Image.fromarray(pixels).save(home / f"{index:02}.png")
    (folder / "katze" / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def embed(exports: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> Run:
    """Runs the command in the test's folder; the model is the fixture's unless one is given."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        given = list(arguments)
        if not any(a.startswith(("--saved_model", "--checkpoint")) for a in given):
            given.append(f"--saved_model={exports / 'module'}")
        capsys.readouterr()
        code = main(["embed", *given])
        return (code, *capsys.readouterr())

    return run


def interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the next batch is written."""
    real, count = FeatureStore.append, [0]

    def append(self: FeatureStore, *batch: Any) -> None:
        if count[0] == batches:
            raise KeyboardInterrupt
        count[0] += 1
        real(self, *batch)

    monkeypatch.setattr(FeatureStore, "append", append)
