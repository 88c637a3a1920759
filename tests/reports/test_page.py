"""The page of a report: what is data stays data, and nothing asks the network."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from simclr_tf.reports.page import Page

pytestmark = pytest.mark.one_lane

EVIL = '</script><script>alert("x")</script>&<b>\udcff\''


class Tags(html.parser.HTMLParser):
    """Collects tags, and what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.loads += [str(v) for name, v in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def full_page() -> str:
    page = Page(EVIL, "window.vegaEmbed = '</script>';")
    page.section(EVIL, EVIL)
    page.paragraph(EVIL, "verdict")
    page.charts([(EVIL, {"data": EVIL}), ("two", {})])
    page.folded(EVIL)
    page.table([EVIL, "b"], [[EVIL, EVIL]], caption=EVIL)
    page.unfolded()
    page.picture("data:image/png;base64,AA==", EVIL, EVIL)
    page.row_of_images([("data:,", EVIL, "query"), ("data:,", EVIL, "wrong"), ("data:,", "c", "")])
    page.commands([(EVIL, f"python {EVIL}")])
    return page.html()


def test_names_are_text_and_never_markup() -> None:
    text = full_page()
    tags = Tags()
    tags.feed(text)
    assert not tags.open, "every element is closed"
    assert tags.tags.count("script") == 3 and "b" not in tags.tags
    assert sum("alert" in part for part in tags.text) >= 8  # it is shown
    assert text.count("<script>alert") == 0
    (charts,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text)
    assert json.loads(charts)["chart-0"] == {"data": EVIL}
    text.encode("utf-8")


def test_nothing_is_loaded() -> None:
    tags = Tags()
    tags.feed(full_page())
    assert all(load.startswith(("data:", "#")) for load in tags.loads)
    assert "default-src 'none'" in full_page()


def test_without_charts_there_is_no_script() -> None:
    page = Page("a")
    page.paragraph("b")
    assert "<script" not in page.html()


def test_figures_are_tables_that_can_be_read_aloud() -> None:
    text = full_page()
    assert '<html lang="en">' in text and "width=device-width" in text
    assert text.count("<caption>") == 1 and "scope=col" in text and 'scope="row"' in text
    assert re.search(r'alt="wrong: ', text) and "✗ " in text
    assert len(re.findall(r"<img [^>]*alt=", text)) == text.count("<img ")
