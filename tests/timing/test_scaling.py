"""The tables of docs/scaling.md are those that the code computes."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from simclr_tf.timing import scaling
from simclr_tf.timing.scaling import exchange_table, memory_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


@pytest.mark.one_lane
@pytest.mark.slow
def test_the_page_holds_the_computed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two of the tables are about one network.
    monkeypatch.setattr(scaling, "_model", functools.cache(scaling._model))
    page = PAGE.read_text(encoding="utf-8")
    for table in (memory_table(18, 32), memory_table(50, 224), exchange_table(50, 224)):
        assert "\n".join(table) in page
