"""`python -m simclr_tf.examples.speech`: SimCLR on log-mel spectrograms of spoken-like words."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.examples.arguments import (
    TEST_SEED,
    add_arguments,
    check_arguments,
    check_count,
)

_WORDS = "words"


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.speech",
        "Pretrains a small encoder of log-mel spectrograms without labels, on ten spoken-like\n"
        "words synthesised on the spot, or on clips of a TFDS data set. Prints the accuracies of\n"
        "logistic regression on a few labelled clips, on the frozen features, those of the\n"
        "untrained encoder, and the spectrograms themselves.",
    )
    arguments.add_argument(
        "--dataset",
        default=_WORDS,
        help="words (synthesised), or a TFDS data set such as speech_commands",
    )
    arguments.add_argument("--data_dir", help="where prepared TFDS data lie or go")
    add_arguments(arguments, "clips", train=1200, test=400, labelled=40, steps=200, batch_size=96)
    return run_command(arguments, _speech, argv)


def _speech(given: argparse.Namespace) -> None:
    training = check_arguments(given, "clips")
    start_tensorflow()
    from simclr_tf.examples import frozen, sounds, speech_features

    if given.dataset == _WORDS:
        train = sounds.make_words(given.clips, given.seed)
        test = sounds.make_words(given.test_clips, TEST_SEED)
    else:
        parts = (("train", given.clips), ("test", given.test_clips))
        train, test = (
            sounds.read_clips(given.dataset, split, count, given.data_dir) for split, count in parts
        )
        check_count(given, "clips", len(train.labels))
    found = speech_features.compare(train, test, labelled=given.labelled, **training)
    print(frozen.accuracy_line("clips", len(test.labels), given.labelled, found))


if __name__ == "__main__":
    sys.exit(main())
