"""The arguments that the examples of other modalities share, and their checks."""

from __future__ import annotations

import argparse
from typing import TypedDict

from simclr_tf.cli import Arguments
from simclr_tf.errors import UserError

TEST_SEED = 1_000_003  # what is scored on is the same whatever the seed of a run


class Training(TypedDict):
    """The settings of a training, as every example's `compare` takes them."""

    steps: int
    batch_size: int
    seed: int


def add_arguments(
    arguments: Arguments,
    what: str,
    *,
    train: int,
    test: int,
    steps: int,
    batch_size: int,
    labelled: int | None = None,
) -> None:
    """Adds --WHAT, --test_WHAT, --steps, --batch_size, --seed and perhaps --labelled.

    Args:
        arguments: Of the command.
        what: What is trained on, in the plural: clips.
        train: Default of --WHAT.
        test: Default of --test_WHAT.
        steps: Default of --steps.
        batch_size: Default of --batch_size.
        labelled: Default of --labelled; None: there is no such argument.
    """

    def add(name: str, default: int, text: str) -> None:
        arguments.add_argument(
            f"--{name}", type=int, default=default, help=f"{text} (default {default})"
        )

    add(what, train, "to pretrain on")
    add(f"test_{what}", test, "to score on")
    if labelled is not None:
        add("labelled", labelled, f"{what} whose labels the classifier learns from")
    add("steps", steps, "training steps")
    add("batch_size", batch_size, f"{what} a step")
    add("seed", 0, f"of {what}, weights, order and views")


def check_arguments(given: argparse.Namespace, what: str) -> Training:
    """Refuses numbers out of range; returns those of the training.

    Args:
        given: The parsed arguments.
        what: As for `add_arguments`.

    Raises:
        UserError: A number out of range.
    """
    labelled = hasattr(given, "labelled")
    names = [what, f"test_{what}", "steps", "batch_size", *(["labelled"] if labelled else [])]
    for name in names:
        if getattr(given, name) < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {getattr(given, name)}.")
    if not 0 <= given.seed < 2**31:
        raise UserError(f"Expected --seed in [0, 2**31); received: {given.seed}.")
    check_count(given, what, getattr(given, what))
    return {"steps": given.steps, "batch_size": given.batch_size, "seed": given.seed}


def check_count(given: argparse.Namespace, what: str, count: int) -> None:
    """Refuses a batch, or labelled rows, of more than there are.

    Args:
        given: The parsed arguments.
        what: As for `add_arguments`.
        count: How many there are to train on.

    Raises:
        UserError: There are fewer.
    """
    if given.batch_size < 2 or given.batch_size > count:
        raise UserError(
            f"Expected --batch_size from 2 to the {count} {what}; received: {given.batch_size}."
        )
    if getattr(given, "labelled", 0) > count:
        raise UserError(
            f"Expected --labelled of at most the {count} {what}; received: {given.labelled}."
        )
