"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from simclr_tf.evaluation.figures import Figure, headline
from simclr_tf.typing import Json

_CELL = len("0.123 +- 0.012")


def results_table(results: Mapping[str, Json]) -> str:
    """Returns a table: a row for each protocol and measure, a column for each kind of features.

    Args:
        results: Kind of features -> what `evaluate_features` returned.

    Example:
        >>> print(results_table({'this model': evaluate_features(train, test)}))
    """
    columns = {
        kind: {(f.protocol, f.measure): _cell(f) for f in headline(found)}
        for kind, found in results.items()
    }
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    first = max((len(protocol) for protocol, _ in rows), default=0) + 2
    second = max((len(measure) for _, measure in rows), default=0) + 2
    width = {kind: max(len(kind), _CELL) + 2 for kind in columns}
    lines = [" " * (first + second) + "".join(f"{kind:>{width[kind]}}" for kind in columns)]
    before = None
    for protocol, measure in rows:
        line = f"{'' if protocol == before else protocol:<{first}}{measure:<{second}}"
        for kind, column in columns.items():
            line += f"{column.get((protocol, measure), '-'):>{width[kind]}}"
        lines.append(line)
        before = protocol
    for kind, found in results.items():
        for protocol, values in found.items():
            if "skipped" in values:
                lines.append(f"{kind}: no {protocol.replace('_', ' ')}: {values['skipped']}.")
            if "left_out" in values:
                lines.append(f"{kind}: {protocol.replace('_', ' ')} without {values['left_out']}.")
            if "verdict" in values:
                lines.append(f"{kind}: {values['verdict']}")
    return "\n".join(lines)


def _cell(figure: Figure) -> str:
    spread = "" if figure.spread is None else f" +- {figure.spread:.3f}"
    return f"{figure_text(figure)}{spread}"


def figure_text(figure: Figure) -> str:
    """Returns a figure with three decimals, a large one with one."""
    return f"{figure.value:.1f}" if abs(figure.value) >= 10 else f"{figure.value:.3f}"
