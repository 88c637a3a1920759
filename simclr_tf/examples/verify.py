"""`python -m simclr_tf.examples.verify`: do two images show the same class, by an encoder?"""

from __future__ import annotations

import argparse
import os
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.examples.image_arguments import add_image_arguments, check_image_arguments
from simclr_tf.examples.pictures import check_picture


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.verify",
        "Tells pairs of images of the same class from pairs of different classes by the cosine of\n"
        "their features, beside the same encoder untrained and raw pixels. Prints the area under\n"
        "the ROC curve (AUC), the equal error rate (EER), the accuracy on one half of the pairs\n"
        "at the threshold that is best on the other, and the share of same pairs accepted where\n"
        "at most 1% of different ones are (TAR@1%). With --left and --right it also says whether\n"
        "two pictures show the same.",
    )
    add_image_arguments(
        arguments,
        "an exported encoder, a run's model_dir or a checkpoint",
        split="test",
        seed="draws the pairs and the untrained weights",
    )
    add = arguments.add_argument
    add("--pairs", type=int, default=200_000, help="pairs at most (default 200000)")
    add("--output", metavar="FILE.png", help="picture of the ROC curves to write (default: none)")
    add("--left", metavar="FILE", help="a picture to compare with --right (default: none)")
    add("--right", metavar="FILE", help="the other picture")
    add("--overwrite", action="store_true", help="replace an existing picture")
    return run_command(arguments, _verify, argv)


def _verify(given: argparse.Namespace) -> None:
    embedding = check_image_arguments(given)
    if given.pairs < 4:
        raise UserError(f"Expected --pairs of at least 4; received: {given.pairs}.")
    if given.seed >= 2**31:
        raise UserError(f"Expected --seed below 2**31; received: {given.seed}.")
    two = _two_pictures(given)
    output = check_picture(given.output, given.overwrite) if given.output else None
    start_tensorflow()
    from simclr_tf.examples import verification

    for line in verification.verify(
        given.saved_model,
        given.dataset,
        output,
        two=two,
        most_pairs=given.pairs,
        **embedding,
    ):
        print(line)


def _two_pictures(given: argparse.Namespace) -> tuple[str, str] | None:
    """Returns the files of --left and --right; None where neither is given."""
    if given.left is None and given.right is None:
        return None
    for flag, path in (("--left", given.left), ("--right", given.right)):
        if path is None:
            raise UserError(f"Expected --left and --right; received: no {flag}. Pass both.")
        if not os.path.isfile(os.path.expanduser(path)):
            raise UserError(f"Expected {flag} to be a picture; received: {path!r}, no file.")
    return os.path.expanduser(given.left), os.path.expanduser(given.right)


if __name__ == "__main__":
    sys.exit(main())
