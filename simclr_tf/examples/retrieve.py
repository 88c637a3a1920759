"""`python -m simclr_tf.examples.retrieve`: the most similar images by an exported encoder."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.examples.pictures import check_picture
from simclr_tf.images.transparency import TRANSPARENT


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.retrieve",
        "Finds each image's nearest neighbours among the others, by the cosine of their features,\n"
        "and draws some queries beside what was found. With labels: precision@k, the share of the\n"
        "k neighbours that are of the query's class, beside that of raw pixels.",
    )
    arguments.add_argument(
        "--saved_model",
        required=True,
        metavar="DIR",
        help="an exported encoder, or the model_dir of a run that holds exports",
    )
    arguments.add_argument(
        "--dataset", required=True, help="mnist_5k, a folder of images or a TFDS name"
    )
    arguments.add_argument("--output", required=True, metavar="FILE.png", help="picture to write")
    arguments.add_argument("--split", default="train", help="default: train")
    arguments.add_argument("--data_dir", help="where prepared TFDS data lie")
    arguments.add_argument(
        "--endpoint", default="final_avg_pool", help="features to compare (default final_avg_pool)"
    )
    arguments.add_argument(
        "--image_size", type=int, help="side in pixels (default: that of the export)"
    )
    arguments.add_argument(
        "--transparent",
        choices=TRANSPARENT,
        help="what shows through transparent pixels (default: as the export was trained)",
    )
    arguments.add_argument("--neighbours", type=int, default=5, help="k (default 5)")
    arguments.add_argument("--queries", type=int, default=8, help="rows drawn (default 8)")
    arguments.add_argument(
        "--max_images", type=int, default=10_000, help="from the front of the split (default 10000)"
    )
    arguments.add_argument("--batch_size", type=int, default=64, help="default: 64")
    arguments.add_argument("--seed", type=int, default=0, help="chooses the queries (default 0)")
    arguments.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    return run_command(arguments, _retrieve, argv)


def _retrieve(given: argparse.Namespace) -> None:
    for name in ("image_size", "neighbours", "queries", "max_images", "batch_size"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {value}.")
    if given.seed < 0:
        raise UserError(f"Expected --seed of at least 0; received: {given.seed}.")
    output = check_picture(given.output, given.overwrite)
    start_tensorflow()
    from simclr_tf.examples import retrieval

    for line in retrieval.retrieve(
        given.saved_model,
        given.dataset,
        output,
        split=given.split,
        data_dir=given.data_dir,
        endpoint=given.endpoint,
        image_size=given.image_size,
        transparent=given.transparent,
        neighbours=given.neighbours,
        queries=given.queries,
        max_images=given.max_images,
        batch_size=given.batch_size,
        seed=given.seed,
    ):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
