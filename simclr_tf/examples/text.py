"""`python -m simclr_tf.examples.text`: SimCLR on sentences, as word ids with a padding mask."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.examples.arguments import TEST_SEED, add_arguments, check_arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.text",
        "Pretrains a small transformer without labels on sentences of a small grammar, about six\n"
        "topics; views mask words, and dropout does the rest. Prints the accuracies of logistic\n"
        "regression on a few sentences of known topic, on the frozen features, those of the\n"
        "untrained encoder, and bag-of-words.",
    )
    add_arguments(
        arguments, "sentences", train=4000, test=500, labelled=48, steps=300, batch_size=128
    )
    return run_command(arguments, _text, argv)


def _text(given: argparse.Namespace) -> None:
    training = check_arguments(given, "sentences")
    start_tensorflow()
    from simclr_tf.examples import frozen, sentences, text_features

    found = text_features.compare(
        sentences.make_sentences(given.sentences, given.seed),
        sentences.make_sentences(given.test_sentences, TEST_SEED),
        labelled=given.labelled,
        **training,
    )
    print(frozen.accuracy_line("sentences", given.test_sentences, given.labelled, found))


if __name__ == "__main__":
    sys.exit(main())
