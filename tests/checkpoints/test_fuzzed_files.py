"""Checkpoints and cards of exports of any content: read, or a `UserError`."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from mutated import cases, mutated
from tiny_models import small_model

from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.checkpoints.store import save_weights
from simclr_tf.errors import UserError
from simclr_tf.features.exported import find_export
from tf_hub_export import export_model
from tf_hub_export.extractors import open_encoder
from tf_hub_export.sources import recorded

pytestmark = pytest.mark.one_lane
_JUNK = st.sampled_from(
    [None, 0, -1, 1.5, True, "x", [], {}, [1], [None, None], ["a", "b"], [-1, 8], [[1]],
     [10**9, 10**9], [8, 8, 8], {"a": 1}, "9" * 30]
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    save_weights(small_model(), str(folder), 7)
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "module"
    settings = {"image_size": 16, "train_mode": "pretrain", "transparent": "white"}
    export_model(small_model(), str(folder), details={"settings": settings, "step": 3})
    return folder


@pytest.mark.parametrize("name", ["checkpoint", "ckpt-7.index", "ckpt-7.data-00000-of-00001"])
def test_any_content(kept: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "kept"))
    whole = {path.name: path.read_bytes() for path in kept.iterdir()}

    @cases(0.03)
    @given(mutated(whole[name], *whole.values()))
    def check(content: bytes) -> None:
        (folder / name).write_bytes(content)
        try:
            stored = StoredWeights(str(folder))
            for path in stored.shapes:
                stored.read(path)
        except UserError as error:
            assert "kept" in str(error)

    check()


def _checkpoint(folder: Path, graph: bytes, step: Any) -> str:
    names = ["_CHECKPOINTABLE_OBJECT_GRAPH", "global_step/.ATTRIBUTES/VARIABLE_VALUE"]
    values = [tf.constant(graph), tf.constant(step)]
    tf.raw_ops.SaveV2(
        prefix=str(folder / "ckpt-1"), tensor_names=names, shape_and_slices=["", ""], tensors=values
    )
    return str(folder / "ckpt-1")


@pytest.mark.parametrize("graph", [b"", b"\xff" * 9, b"\x0a\x04\x0a\x02\x08\x09"])
def test_an_object_graph_that_refers_to_nothing(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(UserError, match="damaged"):
        StoredWeights(_checkpoint(tmp_path, graph, 1))


def test_a_step_that_is_no_number(tmp_path: Path) -> None:
    """Of a checkpoint of another program."""
    assert StoredWeights(_checkpoint(tmp_path, b"\x0a\x00", [1, 2])).step == 0


@st.composite
def _changed(draw: st.DrawFn, card: Any) -> bytes:
    """Draws the card with something else at one place in it."""
    values = node = copy.deepcopy(card)
    while True:
        key = draw(st.sampled_from(sorted(node)))
        below = node[key]
        if not (isinstance(below, dict) and below) or draw(st.integers(0, 3)) == 0:
            node[key] = draw(_JUNK)
            return json.dumps(values).encode()
        node = below


def test_any_card(export: Path, tmp_path: Path) -> None:
    card = (export / "model.json").read_bytes()

    @cases(0.05)
    @given(_changed(json.loads(card)) | mutated(card))
    def check(content: bytes) -> None:
        (tmp_path / "model.json").write_bytes(content)
        try:
            recorded(str(tmp_path), 0)
        except UserError as error:
            assert "model.json" in str(error)

    check()


@pytest.mark.parametrize(
    "place, value",
    [("image_size", "abc"), ("image_size", [1]), ("image_size", 224), ("image_size", [-1, 8]),
     ("image_size", [10**9, 10**9]), ("transparent", []), ("transparent", "pink")],
)  # fmt: skip
def test_what_a_card_says_of_the_input(
    export: Path, tmp_path: Path, place: str, value: object
) -> None:
    folder = Path(shutil.copytree(export, tmp_path / "module"))
    card = json.loads((folder / "model.json").read_text())
    card["input"][place] = value
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=place):
        open_encoder(str(folder))


@pytest.mark.parametrize(
    "place, value", [("settings", 3), ("step", "x"), ("settings", {"seed": []})]
)
def test_what_a_card_says_of_the_run(tmp_path: Path, place: str, value: object) -> None:
    (tmp_path / "model.json").write_text(json.dumps({place: value}))
    with pytest.raises(UserError, match=r"model\.json"):
        recorded(str(tmp_path), 0)


def test_the_export_as_it_was(export: Path) -> None:
    images = np.zeros((1, 16, 16, 3), np.float32)
    assert open_encoder(str(export)).extract(images).shape == (1, 64)


def test_other_numbers_as_names_of_exports(export: Path, tmp_path: Path) -> None:
    """`int` does not read all that `isdigit` takes."""
    for name in ("2", "²", "٣"):
        shutil.copytree(export, tmp_path / "run" / "saved_model" / name)
    assert find_export(str(tmp_path / "run")) == str(tmp_path / "run" / "saved_model" / "2")
