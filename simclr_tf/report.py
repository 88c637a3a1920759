"""`python -m simclr_tf.report RUN [RUN ...]`: a page about a run, or several runs side by side."""

from __future__ import annotations

import argparse
import os
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError

_PAGE, _COMPARISON = "report.html", "comparison.html"


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.report",
        "One run: writes report.html into its folder, a page without network: settings, curves,\n"
        "views, a map of the features, neighbours, evaluation. Several runs, or a folder of runs:\n"
        "prints what differs and what each reached, and writes comparison.html here.",
    )
    add = arguments.add_argument
    add("runs", metavar="RUN", nargs="+", help="a run's model_dir, or a folder of runs")
    add("--output", metavar="FILE", help=f"default: {_PAGE} in the run, {_COMPARISON} here")
    add("--samples", choices=("on", "off"), default="on", help="map and neighbours; default: on")
    add("--overwrite", action="store_true", help="replace a page that is there")
    return run_command(arguments, _report, argv)


def _report(given: argparse.Namespace) -> None:
    from simclr_tf.files.outputs import check_output_path

    runs = _run_folders(given.runs)
    one = len(runs) == 1
    default = os.path.join(runs[0], _PAGE) if one else _COMPARISON
    path = check_output_path(
        "--output", given.output or default, folder=False, overwrite=given.overwrite
    )
    if one and given.samples == "on":
        start_tensorflow()
    from simclr_tf.reports import reporting
    from simclr_tf.reports.record import read_record

    records = [read_record(folder) for folder in runs]
    with reporting.of_our_form(records):
        results = reporting.results_of(records)
        if one:
            reporting.write_report(records[0], path, say=print, samples=given.samples == "on")
        else:
            for header, rows in (reporting.differing_settings(records), results):
                print(_columns([header, *rows]))
            reporting.write_comparison(records, path)
    print(f"Wrote {path}.")


def _run_folders(paths: list[str]) -> list[str]:
    from simclr_tf.reports.record import find_runs

    found = find_runs(paths)
    names = [os.path.basename(os.path.abspath(folder)) for folder in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"Expected runs whose folders have different names; received: {twice!r} twice. "
            "Rename one."
        )
    return found


def _columns(rows: list[list[str]]) -> str:
    """Returns rows as aligned text, cut where a cell is long, with an empty line behind."""
    cut = [[cell if len(cell) <= 32 else f"{cell[:31]}…" for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cut) for i in range(len(cut[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cut
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
