"""`python -m simclr_tf.examples.retrieve`: the most similar images by an exported encoder."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.examples.image_arguments import add_image_arguments, check_image_arguments
from simclr_tf.examples.pictures import check_picture


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.retrieve",
        "Finds each image's nearest neighbours among the others, by the cosine of their features,\n"
        "and draws some queries beside what was found. With labels: precision@k, the share of the\n"
        "k neighbours that are of the query's class, beside that of raw pixels.",
    )
    add_image_arguments(
        arguments,
        "an exported encoder, or the model_dir of a run that holds exports",
        split="train",
        seed="chooses the queries",
    )
    add = arguments.add_argument
    add("--output", required=True, metavar="FILE.png", help="picture to write")
    add("--neighbours", type=int, default=5, help="k (default 5)")
    add("--queries", type=int, default=8, help="rows drawn (default 8)")
    add("--overwrite", action="store_true", help="replace an existing picture")
    return run_command(arguments, _retrieve, argv)


def _retrieve(given: argparse.Namespace) -> None:
    embedding = check_image_arguments(given, "neighbours", "queries")
    output = check_picture(given.output, given.overwrite)
    start_tensorflow()
    from simclr_tf.examples import retrieval

    for line in retrieval.retrieve(
        given.saved_model,
        given.dataset,
        output,
        neighbours=given.neighbours,
        queries=given.queries,
        **embedding,
    ):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
