"""`python -m simclr_tf.examples.detect`: detecting digits with a pretrained encoder."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.examples.average_precision import check_pycocotools
from simclr_tf.examples.scene_arguments import (
    add_scene_arguments,
    check_scene_arguments,
    load_scene_encoder,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.detect",
        "Trains a small detector without anchors (FCOS on one map of a feature pyramid) to find\n"
        "the digits of scenes made of several of the embedded ones: from a pretrained encoder,\n"
        "and the same network from scratch. Prints both average precisions (COCO's AP@[.5:.95]\n"
        "and AP50, over the ten digits) on scenes of test digits. Needs the extra `detection`.",
    )
    add_scene_arguments(arguments)
    return run_command(arguments, _detect, argv)


def _detect(given: argparse.Namespace) -> None:
    training, output = check_scene_arguments(given)
    check_pycocotools()
    start_tensorflow()
    from simclr_tf.examples import detection

    encoder, digit_side = load_scene_encoder(given)
    compared = detection.compare(encoder, digit_side, **training)
    ours, theirs = compared.pretrained, compared.scratch
    print(
        f"Average precision over ten digits, {given.scenes} labelled scenes, {given.steps} steps: "
        f"AP@[.5:.95] {ours.over_ious:.3f} pretrained, {theirs.over_ious:.3f} from scratch; "
        f"AP50 {ours.at_half:.3f} pretrained, {theirs.at_half:.3f} from scratch."
    )
    if output is not None:
        detection.save_picture(output, compared)
        print(f"Wrote {given.output}.")


if __name__ == "__main__":
    sys.exit(main())
