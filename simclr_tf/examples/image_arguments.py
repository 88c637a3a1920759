"""The arguments of the examples that embed the images of any data set."""

from __future__ import annotations

import argparse
from typing import TypedDict

from simclr_tf.cli import Arguments, add_data_arguments
from simclr_tf.errors import UserError
from simclr_tf.images.transparency import TRANSPARENT


class Embedding(TypedDict):
    """Which images are embedded and how, as `retrieve` and `verify` take it."""

    split: str
    data_dir: str | None
    endpoint: str
    image_size: int | None
    transparent: str | None
    image_column: str | None
    label_column: str | None
    max_images: int
    batch_size: int
    seed: int


def add_image_arguments(arguments: Arguments, model: str, split: str, seed: str) -> None:
    """Adds --saved_model, what names the images, and how they are embedded.

    Args:
        arguments: Of the command.
        model: What --saved_model takes, for the help.
        split: Default of --split.
        seed: What --seed does, for the help.
    """
    add = arguments.add_argument
    add("--saved_model", required=True, metavar="DIR", help=model)
    add_data_arguments(arguments)
    add("--split", default=split, help=f"default: {split}")
    add("--endpoint", default="final_avg_pool", help="features to compare (default final_avg_pool)")
    add("--image_size", type=int, help="side in pixels (default: that of the model)")
    add(
        "--transparent",
        choices=TRANSPARENT,
        help="what shows through transparent pixels (default: as the model was trained)",
    )
    add(
        "--max_images", type=int, default=10_000, help="from the front of the split (default 10000)"
    )
    add("--batch_size", type=int, default=64, help="default: 64")
    add("--seed", type=int, default=0, help=f"{seed} (default 0)")


def check_image_arguments(given: argparse.Namespace, *more: str) -> Embedding:
    """Refuses numbers out of range; returns which images are embedded and how.

    Args:
        given: The parsed arguments.
        *more: Names of further arguments that must be at least 1.

    Raises:
        UserError: A number out of range.
    """
    for name in ("image_size", "max_images", "batch_size", *more):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {value}.")
    if given.seed < 0:
        raise UserError(f"Expected --seed of at least 0; received: {given.seed}.")
    return Embedding(
        split=given.split,
        data_dir=given.data_dir,
        endpoint=given.endpoint,
        image_size=given.image_size,
        transparent=given.transparent,
        image_column=given.image_column,
        label_column=given.label_column,
        max_images=given.max_images,
        batch_size=given.batch_size,
        seed=given.seed,
    )
