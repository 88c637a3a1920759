"""Charts of a report as Vega-Lite specifications, made by Altair; the page holds what draws them.

Altair rather than Plotly or Bokeh for the size of a page without network: Vega's scripts are
0.9 MB, BokehJS with its widgets is 1.4 MB, plotly.js 4.7 MB.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.reports.record import Row, RunRecord
from simclr_tf.typing import Json

if TYPE_CHECKING:
    import altair

Spec = Json
_PANELS = (
    ("contrast_loss", "contrastive loss"),
    ("contrast_acc", "contrastive accuracy"),
    ("supervised_acc", "online linear head, training accuracy"),
    ("supervised_loss", "supervised loss"),
    ("distill_loss", "distillation loss"),
    ("learning_rate", "learning rate"),
)
_ONLINE = (
    ("knn_top_1", "nearest neighbours, online"),
    ("effective_rank", "effective rank, online"),
    ("spread", "spread, online"),
)
_ALL = "all"
_MOST_COLOURS = 20  # that a colour scale tells apart


def import_altair() -> Any:
    """Returns Altair.

    Raises:
        UserError: It, or what puts its scripts into a page, is not installed.
    """
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Expected altair and vl-convert-python for a report; received: {error}. "
            "Run pip install 'simclr-tf[report]'."
        ) from error
    return altair


def scripts() -> str:
    """Returns the JavaScript that draws the charts."""
    version = import_altair().SCHEMA_VERSION  # v6.1.0: what its specifications are written in
    return _bundle(".".join(version.lstrip("v").split(".")[:2]))


@functools.cache  # it takes longer to make than the rest of a page, and is always the same
def _bundle(grammar: str) -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", grammar))


def curves(records: Sequence[RunRecord]) -> list[tuple[str, Spec]]:
    """Returns a title and a chart for each quantity that a run recorded, runs overlaid."""
    found = []
    for panels, table in ((_PANELS, "metrics"), (_ONLINE, "online")):
        for name, title in panels:
            tables: dict[str, list[Row]] = {r.name: getattr(r, table) for r in records}
            rows = [
                {"run": run, "step": row["step"], "value": row[name]}
                for run, part in tables.items()
                for row in part
                if name in row and "step" in row
            ]
            if len(rows) > 1:  # a single point is no curve
                chance = _chance(records) if name == "contrast_loss" else None
                found.append((title, _curve(rows, title, chance, len(records) > 1)))
    return found


def _chance(records: Sequence[RunRecord]) -> float | None:
    """Returns the loss of a network that tells no images apart, where the runs agree on it."""
    batches = {int(r.settings.get("train_batch_size", 0)) for r in records}
    size = batches.pop() if len(batches) == 1 else 0
    return 2 * math.log(2 * size - 1) if size > 1 else None


def _curve(rows: list[Json], title: str, chance: float | None, many: bool) -> Spec:
    alt = import_altair()
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("step:Q"),
            alt.Tooltip("value:Q", title=title, format=".4f"),
        ],
    )
    if many:
        base = base.encode(color=alt.Color("run:N", legend=alt.Legend(orient="bottom", columns=1)))
    layers = [base.mark_line(point=len(rows) < 60)]
    if chance is not None:
        rule = alt.Chart(alt.Data(values=[{"value": chance, "what": "knows nothing"}]))
        layers.append(
            rule.mark_rule(strokeDash=[4, 4]).encode(
                y="value:Q", tooltip=[alt.Tooltip("what:N"), alt.Tooltip("value:Q", format=".3f")]
            )
        )
    return _finished(alt.layer(*layers).interactive(bind_y=False), 180, title)


def feature_map(
    places: Sequence[Sequence[float]],
    labels: Sequence[str] | None,
    names: Sequence[str],
    pictures: Sequence[str],
) -> Spec:
    """Returns the map: pictures on hovering, classes by colour and by a list to choose from."""
    alt = import_altair()
    rows: list[Json] = [
        {
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "class": "images" if labels is None else labels[i],
            "name": names[i],
            "image": pictures[i],
        }
        for i, (x, y) in enumerate(places)
    ]
    whole = alt.Scale(domain=[-0.03, 1.03], nice=False)  # no point is cut at the edge
    classes = sorted({row["class"] for row in rows})
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_circle(size=45)
        .encode(
            x=alt.X("x:Q", axis=None, scale=whole),
            y=alt.Y("y:Q", axis=None, scale=whole),
            tooltip=[alt.Tooltip("image:N"), alt.Tooltip("class:N"), alt.Tooltip("name:N")],
            opacity=alt.value(0.85),
        )
    )
    if labels is None:
        return _finished(chart.interactive(), 420, "map of the features")
    choice = alt.binding_select(options=[_ALL, *classes], name="Class: ")
    chosen = alt.param(name="chosen", value=_ALL, bind=choice)
    shown = (chosen == _ALL) | (alt.datum["class"] == chosen)
    legend = alt.Legend(orient="bottom", columns=5) if len(classes) <= _MOST_COLOURS else None
    scheme = "tableau10" if len(classes) <= 10 else "tableau20"
    chart = chart.encode(
        color=alt.Color("class:N", legend=legend, scale=alt.Scale(scheme=scheme)),
        opacity=alt.condition(shown, alt.value(0.85), alt.value(0.06)),
    ).add_params(chosen)
    return _finished(chart.interactive(), 420, "map of the features")


def confusion_chart(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Spec:
    """Returns the confusion matrix as a heat map, shares of each true class."""
    alt = import_altair()
    rows = []
    for true, counts in enumerate(confusion):
        total = max(sum(counts), 1)
        for predicted, count in enumerate(counts):
            rows.append(
                {
                    "true": class_names[true],
                    "predicted": class_names[predicted],
                    "images": count,
                    "share": count / total,
                }
            )
    order = list(class_names)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("predicted:N", sort=order, title="predicted"),
        y=alt.Y("true:N", sort=order, title="true class"),
        tooltip=["true:N", "predicted:N", "images:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    heat = base.mark_rect().encode(
        color=alt.Color("share:Q", legend=None, scale=alt.Scale(scheme="blues", domain=[0, 1]))
    )
    layers = [heat]
    if len(order) <= 20:
        text = base.mark_text(fontSize=10).encode(
            text="images:Q",
            color=alt.condition("datum.share > 0.5", alt.value("white"), alt.value("#1b1b1b")),
        )
        layers.append(text.transform_filter("datum.images > 0"))
    return _finished(alt.layer(*layers), 24 * len(order) + 20, "confusion matrix")


def most_confused(confusion: Sequence[Sequence[int]], count: int) -> list[tuple[int, int, int]]:
    """Returns true class, predicted class and number of the most frequent mistakes.

    Args:
        confusion: Counts by true class and predicted class.
        count: Mistakes at most.

    Example:
        >>> most_confused([[5, 2], [0, 3]], 3)
        [(0, 1, 2)]
    """
    matrix = np.asarray(confusion).copy()
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, matrix.shape)
    found = zip(rows.tolist(), columns.tolist(), matrix[rows, columns].tolist(), strict=True)
    return [each for each in found if each[2] > 0]


def _finished(chart: altair.TopLevelMixin, height: int, title: str) -> Spec:
    sized: Mapping[str, Any] = (
        chart.properties(width="container", height=height, description=title)
        .configure(background="transparent", font="inherit")
        .configure_view(stroke=None)
        .to_dict()
    )
    return dict(sized)
