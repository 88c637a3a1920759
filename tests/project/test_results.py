"""docs/results.md shows what docs/results/digits.jsonl holds, and its commands still parse."""

from __future__ import annotations

import csv
import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from simclr_tf.run import parse

pytestmark = pytest.mark.one_lane
DOCS = Path(__file__).resolve().parents[2] / "docs"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "results" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return script("measure_digits")


def test_the_page_on_labels_shows_the_runs() -> None:
    labels = script("measure_labels")
    runs = labels.measured()
    wanted = [labels.command_of(cell, seed) for cell in labels.cells() for seed in labels.SEEDS]
    assert set(runs) == set(wanted)
    text = labels.PAGE.read_text(encoding="utf-8")
    assert labels.page(text, runs) == text
    assert text.count("<!-- end -->") == len({cell.table for cell in labels.cells()})
    for command in wanted:
        parse(shlex.split(command)[3:])


def test_the_page_on_compression_shows_the_files() -> None:
    compression = script("measure_compression")
    text = compression.PAGE.read_text(encoding="utf-8")
    assert compression.page(text, compression.measured()) == text
    assert text.count("int8 |") == 1 + len(compression.SHARES)
    for command in compression.commands():
        parse(shlex.split(command)[3:])


def test_every_cell_is_measured_with_every_seed(digits: ModuleType) -> None:
    wanted = {digits.key(cell.settings, seed) for cell in digits.cells() for seed in cell.seeds}
    assert set(digits.measured()) == wanted


def test_the_page_and_the_table_show_the_runs(digits: ModuleType) -> None:
    runs = digits.measured()
    text = digits.PAGE.read_text(encoding="utf-8")
    assert digits.page(text, runs) == text
    assert text.count("<!-- end -->") == len({cell.table for cell in digits.cells()} - {"collapse"})
    with digits.TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{n: str(v) for n, v in row.items()} for row in digits.csv_rows(runs)]


def test_the_commands_are_those_of_the_settings(digits: ModuleType) -> None:
    for run in digits.measured().values():
        train, evaluate = map(shlex.split, run["commands"])
        config, _ = parse(train[3:])
        for name, value in (digits.QUICKSTART | run["settings"]).items():
            found = getattr(config, name)
            assert str(found) == value or float(value) == found, name
        assert config.seed == run["seed"] and evaluate[3] == config.model_dir
