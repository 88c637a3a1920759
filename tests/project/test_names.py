"""Names that stand in more than one table, and must be the same in each."""

from __future__ import annotations

import ast
import dataclasses
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import simclr_tf
from simclr_tf.augment.operations import OPERATIONS
from simclr_tf.config import Config
from simclr_tf.images import transparency
from simclr_tf.images.augmentations import AUGMENTATIONS
from simclr_tf.models import resnet
from simclr_tf.optim.registry import OPTIMIZERS, make_optimizer
from simclr_tf.run import main
from tf_hub_export import FORMATS

pytestmark = pytest.mark.one_lane

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def choices(name: str) -> set[Any]:
    return set(FIELDS[name].metadata["choices"])


def test_what_can_be_asked_for_is_what_can_be_built() -> None:
    assert set(AUGMENTATIONS) == {"crop", *OPERATIONS}
    assert choices("resnet_depth") == set(resnet.BLOCKS_PER_GROUP)
    assert choices("optimizer") == set(OPTIMIZERS)
    assert choices("transparent") == set(transparency.TRANSPARENT)
    for name in OPTIMIZERS:
        assert callable(make_optimizer(name, 0.1).apply_gradients)


def test_presets_are_those_that_the_pages_name() -> None:
    files = {path.stem for path in (ROOT / "configs").glob("*.flags")}
    page = (ROOT / "docs" / "your_images.md").read_text()
    (line,) = re.findall(r"^`simclr-tf --preset=NAME`.*$", page, re.M)
    before, _, _ = line.partition("Each is a file")
    assert set(re.findall(r"`(\w+)`", before)) == files
    for name in files:
        preset = (ROOT / "configs" / f"{name}.flags").read_text()
        flags = re.findall(r"^--(\w+)", preset, re.M)
        unknown = [f for f in flags if f not in FIELDS and f.removeprefix("no") not in FIELDS]
        assert flags and not unknown, f"{name}: {unknown}"


def test_help_lists_every_setting_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simclr-tf", "--help"]) == 0
    listed = set(re.findall(r"^ *--(?:\[no\])?(\w+)", capsys.readouterr().out, re.M))
    extra = listed - set(FIELDS)
    assert set(FIELDS) <= listed, set(FIELDS) - listed
    assert extra <= {"help", "helpfull", "preset", "flagfile", "version"}, extra


def test_export_formats_are_those_that_the_pages_name() -> None:
    page = (ROOT / "docs" / "exports.md").read_text()
    (listed,) = re.findall(r"# also --format=([\w, ]+)$", page, re.M)
    assert {"saved_model", *listed.split(", ")} == set(FORMATS)


def test_public_names_are_listed_three_times_alike() -> None:
    tree = ast.parse(Path(simclr_tf.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n)]
    typed = {
        alias.name: node.module.removeprefix("simclr_tf.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert typed == simclr_tf._HOME and set(typed) == set(simclr_tf.__all__)
    for name, module in typed.items():
        assert getattr(simclr_tf, name) is getattr(import_module(f"simclr_tf.{module}"), name)
