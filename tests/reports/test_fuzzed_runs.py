"""Reports of runs whose files hold anything: a page, or a `UserError`; no text becomes a script."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutated import cases

from simclr_tf.config import Config
from simclr_tf.errors import UserError
from simclr_tf.reports import charts, reporting
from simclr_tf.reports.record import read_record

pytestmark = pytest.mark.one_lane
pytest.importorskip("altair")
_NEIGHBOURS = {
    "rows": [{"k": 20, "T": 0.1, "top_1": 0.5}],
    "top_1": 0.5,
    "confusion": [[1, 2], [3, 4]],
}
_HEALTH = {"verdict": "well", "collapsed": False, "effective_rank": 3.0}
FILES: dict[str, Any] = {
    "flags.json": Config(dataset="<script>alert(1)").to_dict(),
    "result.json": {"eval/label_top_1_accuracy": 0.5, "global_step": 30.0},
    "comparison.json": {"this run": {"knn": 0.5}, "raw pixels": {"knn": 0.2}},
    "evaluation.json": {
        "results": {"this model": {"health": _HEALTH, "knn": _NEIGHBOURS}},
        "data": {"class_names": ["a", "<script>alert(1)"], "train_images": 4, "test_images": 4},
    },
}
_TABLE = "step,contrast_loss,knn_top_1\n10,0.5,0.2\n20,0.4,0.3\n"
_JUNK = st.sampled_from(
    [None, 0, -1, 1e300, "x", [], {}, [1], True, "<script>alert(1)", [[1]], {"a": {"b": 1}}]
)


@st.composite
def _changed(draw: st.DrawFn) -> tuple[str, Any]:
    """Draws a file with something else at one place in it."""
    name = draw(st.sampled_from(sorted(FILES)))
    values = node = json.loads(json.dumps(FILES[name]))
    while True:
        key = draw(st.sampled_from(sorted(node)))
        below = node[key]
        if not (isinstance(below, dict) and below) or draw(st.integers(0, 3)) == 0:
            node[key] = draw(_JUNK)
            return name, values
        node = below


def _page(files: dict[str, Any]) -> str:
    """Returns the report of a run with these files."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(charts, "scripts", lambda *_: "")
        for name, values in files.items():
            (Path(folder) / name).write_text(json.dumps(values))
        (Path(folder) / "metrics.csv").write_text(_TABLE)
        page = Path(folder) / "page.html"
        records = [read_record(folder)] * 2
        with reporting.of_our_form(records):
            reporting.results_of(records)
            reporting.write_report(records[0], str(page), say=print, samples=False)
        return page.read_text()


def test_the_run_as_it_was() -> None:
    page = _page(FILES)
    assert "alert(1)" in page and "<script>alert" not in page


@cases(0.05)
@given(_changed())
def test_any_values_in_a_run(changed: tuple[str, Any]) -> None:
    with contextlib.suppress(UserError):
        assert "<script>alert" not in _page({**FILES, changed[0]: changed[1]})
