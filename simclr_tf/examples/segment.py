"""`python -m simclr_tf.examples.segment`: segmenting digits with a pretrained encoder."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.examples.scene_arguments import (
    add_scene_arguments,
    check_scene_arguments,
    load_scene_encoder,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.segment",
        "Trains a small feature pyramid network to name every pixel of scenes made of several of\n"
        "the embedded digits: from a pretrained encoder, and the same network from scratch.\n"
        "Prints both mean IoUs (over the ten digits) on scenes of test digits.",
    )
    add_scene_arguments(arguments)
    return run_command(arguments, _segment, argv)


def _segment(given: argparse.Namespace) -> None:
    training, output = check_scene_arguments(given)
    start_tensorflow()
    from simclr_tf.examples import segmentation

    encoder, digit_side = load_scene_encoder(given)
    compared = segmentation.compare(encoder, digit_side, **training)
    print(
        f"Mean IoU over ten digits, {given.scenes} labelled scenes, {given.steps} steps: "
        f"{compared.pretrained:.3f} pretrained, {compared.scratch:.3f} from scratch."
    )
    if output is not None:
        segmentation.save_picture(output, compared)
        print(f"Wrote {given.output}.")


if __name__ == "__main__":
    sys.exit(main())
