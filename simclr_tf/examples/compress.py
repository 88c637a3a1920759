"""`python -m simclr_tf.examples.compress`: what classifiers weigh and score as TFLite files."""

from __future__ import annotations

import argparse
import os
import sys

from simclr_tf.cli import Arguments, add_data_arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.files.outputs import check_output_path

_PRECISIONS = ("float32", "float16", "int8")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.compress",
        "Converts classifiers (a teacher, its student, a pruned one) to TFLite files of every\n"
        "precision, and measures the files themselves: bytes, also after gzip, accuracy on\n"
        "labelled images, and milliseconds an image on one thread, all timed in turn.",
    )
    add = arguments.add_argument
    add(
        "--saved_model",
        required=True,
        nargs="+",
        metavar="DIR",
        help="fine-tuned or distilled classifiers: model_dirs of runs, checkpoints, .keras files "
        "or exports",
    )
    add_data_arguments(arguments)
    add("--split", default="test", help="default: test")
    add(
        "--precisions",
        default=",".join(_PRECISIONS),
        help="of the stored weights, separated by commas (default %(default)s)",
    )
    add("--max_images", type=int, default=10_000, help="from the split's front (default 10000)")
    add("--batch_size", type=int, default=64, help="images at a time, for accuracy (default 64)")
    add(
        "--rounds",
        type=int,
        default=50,
        help="times that every file is timed in turn, ten images each (default 50)",
    )
    add("--seed", type=int, default=0, help="draws the order within a round (default 0)")
    add("--output", metavar="FILE", help="also write the table: .csv or .json (default: none)")
    add("--overwrite", action="store_true", help="replace an existing table")
    return run_command(arguments, _compress, argv)


def _compress(given: argparse.Namespace) -> None:
    for name in ("max_images", "batch_size", "rounds"):
        if getattr(given, name) < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {getattr(given, name)}.")
    if not 0 <= given.seed < 2**31:
        raise UserError(f"Expected --seed in [0, 2**31); received: {given.seed}.")
    precisions = [name.strip() for name in given.precisions.split(",")]
    if not set(precisions) <= set(_PRECISIONS) or len(set(precisions)) < len(precisions):
        raise UserError(
            f"Expected --precisions to be names from {', '.join(_PRECISIONS)}, each once; "
            f"received: {given.precisions!r}."
        )
    paths = [os.path.normpath(os.path.expanduser(path)) for path in given.saved_model]
    if len(set(paths)) < len(paths):
        raise UserError(
            f"Expected each --saved_model once; received: {' '.join(given.saved_model)}."
        )
    output = given.output
    if output is not None:
        if not output.endswith((".csv", ".json")):
            raise UserError(
                f"Expected --output to end with .csv or .json; received: {output!r}. Rename it."
            )
        output = check_output_path("--output", output, folder=False, overwrite=given.overwrite)
    start_tensorflow()
    from simclr_tf.examples import compression

    found = compression.compare(
        dict(zip(given.saved_model, paths, strict=True)),
        given.dataset,
        split=given.split,
        data_dir=given.data_dir,
        image_column=given.image_column,
        label_column=given.label_column,
        precisions=precisions,
        max_images=given.max_images,
        batch_size=given.batch_size,
        rounds=given.rounds,
        seed=given.seed,
    )
    for line in [*found.notices, *compression.table(found.rows)]:
        print(line)
    if output is not None:
        compression.write_table(output, found.rows)
        print(f"Wrote {given.output}.")


if __name__ == "__main__":
    sys.exit(main())
