"""One self-contained HTML page: text, tables, pictures, charts; no network, no foreign markup."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from simclr_tf.typing import Json

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #ffffff;
  --card: #f6f8fa; --line: #d1d9e0; --accent: #0b5cad; --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --paper: #0d1117;
  --card: #161b22; --line: #30363d; --accent: #6cb6ff; --good: #4ac26b; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
a { color: var(--accent); }
a:focus-visible, select:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .8rem; min-width: 0; }
.chart { width: 100%; min-width: 0; }
.chart.vega-embed { display: flex; flex-direction: column; padding: 0; }
.chart .vega-bindings { order: -1; margin-bottom: .5rem; }
.chart select { font: inherit; color: inherit; background: var(--paper); padding: .15rem .4rem;
  border: 1px solid var(--line); border-radius: .3rem; max-width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: break-word; }
.facts td.text { overflow-wrap: anywhere; }
tbody th { font-weight: 400; }
.facts th { color: var(--soft); font-weight: 400; }
.verdict { border-left: .3rem solid var(--good); padding: .3rem .8rem; margin: .8rem 0; }
.verdict.bad { border-color: var(--bad); }
.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; padding: .4rem 0;
  border-bottom: 1px solid var(--line); }
.image { width: 4rem; font-size: .72rem; text-align: center; overflow-wrap: anywhere; margin: 0; }
.image img { width: 4rem; height: 4rem; object-fit: contain; image-rendering: pixelated;
  border: 3px solid transparent; border-radius: .25rem; background: var(--card); }
.image.right img { border-color: var(--good); } .image.wrong img { border-color: var(--bad); }
.image.query img { border-color: var(--soft); }
@media (max-width: 600px) {
  th, td { white-space: normal; padding-right: .5rem; font-size: .8rem; }
  .image, .image img { width: 2.7rem; } .image img { height: 2.7rem; } .row { gap: .3rem; } }
.views { max-width: 100%; image-rendering: pixelated; border-radius: .3rem; }
summary { cursor: pointer; margin: 1rem 0 .5rem; font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
#vg-tooltip-element img { width: 96px; height: 96px; image-rendering: pixelated; }
#vg-tooltip-element { font-family: inherit; max-width: 18rem; overflow-wrap: anywhere; }
"""

# Charts are drawn again when light turns to dark; a chart that fails says so in its place.
_DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
async function draw() {
  for (const [id, spec] of Object.entries(charts)) {
    const place = document.getElementById(id);
    const theme = dark.matches ? "dark" : "light";
    try {
      await vegaEmbed(place, spec, {actions: false, renderer: "svg", tooltip: {theme},
        config: dark.matches ? {axis: {labelColor: "#9da7b1", titleColor: "#9da7b1",
          gridColor: "#30363d", domainColor: "#30363d", tickColor: "#30363d"},
          legend: {labelColor: "#e6edf3", titleColor: "#9da7b1"}, background: "transparent",
          rule: {color: "#9da7b1"}} : {background: "transparent"}});
      place.dataset.drawn = theme;
    } catch (error) { place.textContent = "This chart can't be drawn: " + error; throw error; }
  }
}
dark.addEventListener("change", draw);
draw();
"""


class Page:
    """A page that is filled from top to bottom.

    Everything is escaped: names of classes, files and runs are data.

    Args:
        title: Of the page.
        scripts: JavaScript that defines `vegaEmbed`; empty where there are no charts.

    Example:
        >>> page = Page("digits", scripts())
        >>> page.section("Curves")
        >>> page.charts([("loss", spec)])
        >>> text = page.html()
    """

    def __init__(self, title: str, scripts: str = "") -> None:
        self._title, self._scripts = title, scripts
        self._parts: list[str] = []
        self._charts: dict[str, Json] = {}

    def section(self, heading: str, text: str = "") -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{_text(heading)}</h2>")
        if text:
            self.paragraph(text)

    def paragraph(self, text: str, kind: str = "") -> None:
        """Adds a paragraph; `kind` is a class of the style sheet."""
        marked = f' class="{kind}"' if kind else ""
        self._parts.append(f"<p{marked}>{_text(text)}</p>")

    def charts(self, charts: Sequence[tuple[str, Json]], widest: int | None = None) -> None:
        """Adds Vega-Lite charts, each in a panel with its title, at most `widest` pixels wide."""
        limit = f' style="max-width: {widest}px"' if widest else ""
        panels = []
        for title, spec in charts:
            name = f"chart-{len(self._charts)}"
            self._charts[name] = spec
            panels.append(
                f'<section class="panel"{limit}><h3>{_text(title)}</h3>'
                f'<div class="chart" id="{name}" aria-label="{_text(title)}"></div></section>'
            )
        self._parts.append(f'<div class="{"panels" if len(charts) > 1 else ""}">')
        self._parts += [*panels, "</div>"]

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        caption: str = "",
        text_columns: Sequence[int] = (0,),
        kind: str = "",
    ) -> None:
        """Adds a table; cells of `text_columns` are text, the others figures."""
        head = "".join(
            f"<th scope=col{' class=text' if i in text_columns else ''}>{_text(cell)}</th>"
            for i, cell in enumerate(header)
        )
        lines = []
        for row in rows:
            cells = "".join(
                f"<td{' class=text' if i in text_columns else ''}>{_text(cell)}</td>"
                for i, cell in enumerate(row[1:], 1)
            )
            lines.append(f'<tr><th scope="row">{_text(row[0])}</th>{cells}</tr>')
        said = f"<caption>{_text(caption)}</caption>" if caption else ""
        top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
        self._parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}">'
            f'<table class="{kind}">{said}{top}<tbody>{"".join(lines)}</tbody></table></div>'
        )

    def picture(self, source: str, description: str, caption: str) -> None:
        """Adds a picture, given as a data URI."""
        self._parts.append(
            f'<figure style="margin:0"><img class="views" src="{_text(source)}" '
            f'alt="{_text(description)}"><figcaption>{_text(caption)}</figcaption></figure>'
        )

    def row_of_images(self, images: Sequence[tuple[str, str, str]]) -> None:
        """Adds a row of thumbnails: data URI, caption, and query, right, wrong or nothing."""
        marks = {"query": "query: ", "right": "right: ", "wrong": "wrong: "}
        cells = "".join(
            f'<figure class="image {kind}"><img src="{_text(source)}" '
            f'alt="{_text(marks.get(kind, "") + caption)}">'
            f"<figcaption>{'✗ ' if kind == 'wrong' else ''}{_text(caption)}</figcaption></figure>"
            for source, caption, kind in images
        )
        self._parts.append(f'<div class="row">{cells}</div>')

    def folded(self, title: str) -> None:
        """Begins a part that is opened by its title; ends with `unfolded`."""
        self._parts.append(f"<details><summary>{_text(title)}</summary>")

    def unfolded(self) -> None:
        """Ends what `folded` began."""
        self._parts.append("</details>")

    def commands(self, lines: Sequence[tuple[str, str]]) -> None:
        """Adds commands to copy, each under what it does."""
        for what, command in lines:
            self._parts.append(f"<h3>{_text(what)}</h3><pre><code>{_text(command)}</code></pre>")

    def html(self) -> str:
        """Returns the page."""
        drawn = ""
        if self._charts:
            # `<` is written so that no name in the data can end the script.
            data = json.dumps(self._charts, separators=(",", ":")).replace("<", "\\u003c")
            drawn = (
                f'<script type="application/json" id="charts">{data}</script>\n'
                f"<script>{_closed(self._scripts)}</script>\n<script>{_DRAW}</script>\n"
            )
        policy = (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline' 'unsafe-eval'"  # Vega compiles its expressions
        )
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>{_text(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            '<a class="skip" href="#content">Skip to the content</a>\n'
            f'<main id="content">\n<h1>{_text(self._title)}</h1>\n'
            + "\n".join(self._parts)
            + f"\n</main>\n{drawn}</body>\n</html>\n"
        )


def _text(text: object) -> str:
    # Names of files may hold bytes that are no UTF-8.
    known = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape(known, quote=True)


def _closed(script: str) -> str:
    return script.replace("</script", "<\\/script")
