"""`python -m simclr_tf.sweep --space=... --sweep_dir=DIR`: many runs, and which was the best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from simclr_tf.cli import Arguments, exit_code
from simclr_tf.devices.quiet import quiet_libraries
from simclr_tf.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sweep_arguments()

    def parse_and_work() -> int:
        given, flags = arguments.parse_known_args((sys.argv if argv is None else argv)[1:])
        with quiet_libraries():
            _sweep(given, flags)
        return 0

    return exit_code("simclr_tf.sweep", parse_and_work)


def sweep_arguments() -> Arguments:
    """Returns what the command takes beside the flags of `simclr_tf.run`."""
    from simclr_tf.sweeps.definition import SAMPLERS
    from simclr_tf.sweeps.metrics import METRICS

    metrics = "".join(
        f"\n  {name:<22}{'larger' if metric.larger else 'smaller'} is better: {metric.about}"
        for name, metric in METRICS.items()
    )
    arguments = Arguments(
        "simclr_tf.sweep",
        "Runs simclr_tf.run with many settings, each in SWEEP_DIR/trial_NNNN as a process of its\n"
        "own, and says which was the best. All other flags are those of simclr_tf.run. Typed\n"
        "again after an interruption, the same command goes on where it stopped.\n\n"
        "Metrics:" + metrics,
    )
    add = arguments.add_argument
    add(
        "--space",
        metavar="SETTING=VALUES",
        action="append",
        required=True,
        help="for each setting that is tried: A..B, A..B:log, or V1,V2,... (V1|V2 where values "
        "hold commas)",
    )
    add("--sweep_dir", metavar="DIR", required=True, help="where trials and results are kept")
    add("--metric", default="label_top_1_accuracy", help="default: %(default)s")
    add("--sampler", default="tpe", help=f"{', '.join(SAMPLERS)}; default: %(default)s")
    add("--trials", type=int, help="default: 20; of a grid: all")
    add("--sampler_seed", type=int, default=0, help="same seed, same trials; default: 0")
    add("--retry_failed", action="store_true", help="run failed and refused trials once more")
    return arguments


def _sweep(given: argparse.Namespace, flags: Sequence[str]) -> None:
    from simclr_tf.sweeps.definition import LARGEST_GRID, define
    from simclr_tf.sweeps.record import check_folder
    from simclr_tf.sweeps.sweeping import run_sweep

    if given.trials is not None and given.trials < 1:
        raise UserError(f"Expected --trials of at least 1; received: {given.trials}.")
    sweep, notes = define(flags, given.space, given.metric, given.sampler, given.sampler_seed)
    folder = check_folder(given.sweep_dir)

    def say(line: str) -> None:
        print(line.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)

    for note in notes:
        say(note)
    trials = given.trials or (sweep.total(LARGEST_GRID) if given.sampler == "grid" else 20)
    run_sweep(sweep, folder, trials, say, retry_failed=given.retry_failed)


if __name__ == "__main__":
    sys.exit(main())
