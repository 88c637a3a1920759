"""The arguments of the examples that train on scenes of digits, and the encoder that they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypedDict

from simclr_tf.cli import Arguments
from simclr_tf.errors import UserError
from simclr_tf.examples.pictures import check_picture

if TYPE_CHECKING:
    from tensorflow import keras


class SceneTraining(TypedDict):
    """How long is trained on how many scenes, as `compare` takes it."""

    scenes: int
    test_scenes: int
    steps: int
    batch_size: int
    seed: int


def add_scene_arguments(arguments: Arguments) -> None:
    """Adds --saved_model, --output and what is trained how long on how many scenes."""
    arguments.add_argument(
        "--saved_model",
        required=True,
        metavar="DIR",
        help="an exported encoder, a run's model_dir or a checkpoint; pretrained on mnist_5k, say",
    )
    arguments.add_argument("--output", metavar="FILE.png", help="picture to write (default: none)")
    arguments.add_argument(
        "--scenes", type=int, default=100, help="labelled scenes to train on (default 100)"
    )
    arguments.add_argument("--steps", type=int, default=400, help="training steps (default 400)")
    arguments.add_argument("--batch_size", type=int, default=16, help="scenes (default 16)")
    arguments.add_argument(
        "--test_scenes", type=int, default=100, help="scenes to score on (default 100)"
    )
    arguments.add_argument(
        "--digit_size", type=int, help="mean side of a digit in pixels (default: pretraining's)"
    )
    arguments.add_argument(
        "--seed", type=int, default=0, help="of scenes, order and fresh weights (default 0)"
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace an existing picture")


def check_scene_arguments(given: argparse.Namespace) -> tuple[SceneTraining, str | None]:
    """Refuses numbers out of range; returns the training's, and the picture to write, if any.

    Args:
        given: The parsed arguments.

    Raises:
        UserError: A number out of range, or a picture that can't be written.
    """
    for name in ("scenes", "steps", "batch_size", "test_scenes", "digit_size"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {value}.")
    if not 0 <= given.seed < 2**31:
        raise UserError(f"Expected --seed of at least 0; received: {given.seed}.")
    if given.batch_size % 2 or given.batch_size > given.scenes:
        raise UserError(
            f"Expected an even --batch_size of at most {given.scenes}, the scenes; received: "
            f"{given.batch_size}. Pass another."
        )
    training = SceneTraining(
        scenes=given.scenes,
        test_scenes=given.test_scenes,
        steps=given.steps,
        batch_size=given.batch_size,
        seed=given.seed,
    )
    return training, check_picture(given.output, given.overwrite) if given.output else None


def load_scene_encoder(given: argparse.Namespace) -> tuple[keras.Model, int]:
    """Returns the encoder of --saved_model and the side of a digit in pixels.

    Args:
        given: The parsed arguments.

    Raises:
        UserError: No encoder there, or none of RGB images.
    """
    from tf_hub_export.input_contract import input_contract
    from tf_hub_export.sources import load_model

    model, details = load_model(given.saved_model)
    size = details.get("settings", {}).get("image_size")
    contract = input_contract(model, size)
    if contract.channels != 3 or contract.image_size is None:
        raise UserError(
            f"Expected an encoder of RGB images; {given.saved_model} takes {contract.describe()}. "
            "Pass another --saved_model."
        )
    return model.encoder, given.digit_size or contract.image_size[0]
