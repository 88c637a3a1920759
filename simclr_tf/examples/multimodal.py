"""`python -m simclr_tf.examples.multimodal`: pictures and captions in one space, as CLIP."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.examples.arguments import TEST_SEED, add_arguments, check_arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.multimodal",
        "Trains an encoder of pictures and one of captions by one contrastive loss between them,\n"
        "on coloured digits that are captioned on the spot. Prints recall@1 and recall@5 of\n"
        "retrieving each test picture's caption and each caption's picture, beside untrained\n"
        "encoders and chance.",
    )
    add_arguments(arguments, "pairs", train=4000, test=200, steps=300, batch_size=128)
    return run_command(arguments, _multimodal, argv)


def _multimodal(given: argparse.Namespace) -> None:
    training = check_arguments(given, "pairs")
    start_tensorflow()
    from simclr_tf.examples import captions, multimodal_retrieval

    if given.test_pairs > captions.COMBINATIONS:
        raise UserError(
            f"Expected --test_pairs of at most {captions.COMBINATIONS}, all different; received: "
            f"{given.test_pairs}."
        )
    found = multimodal_retrieval.compare(
        captions.make_pairs("train", given.pairs, given.seed),
        captions.make_pairs("test", given.test_pairs, TEST_SEED, distinct=True),
        **training,
    )
    print(f"Among {given.test_pairs} test pairs, recall@1 and recall@5:")
    for name, recalls in found.items():
        print(
            f"{name:<10} picture to caption {recalls.captions[0]:.3f} {recalls.captions[1]:.3f}, "
            f"caption to picture {recalls.pictures[0]:.3f} {recalls.pictures[1]:.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
