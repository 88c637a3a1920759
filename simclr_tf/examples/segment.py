"""`python -m simclr_tf.examples.segment`: segmenting digits with a pretrained encoder."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.examples.pictures import check_picture


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.examples.segment",
        "Trains a small feature pyramid network to name every pixel of scenes made of several of\n"
        "the embedded digits: from a pretrained encoder, and the same network from scratch.\n"
        "Prints both mean IoUs (over the ten digits) on scenes of test digits.",
    )
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
    return run_command(arguments, _segment, argv)


def _segment(given: argparse.Namespace) -> None:
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
    output = check_picture(given.output, given.overwrite) if given.output else None
    start_tensorflow()
    from simclr_tf.examples import segmentation
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
    compared = segmentation.compare(
        model.encoder,
        given.digit_size or contract.image_size[0],
        scenes=given.scenes,
        test_scenes=given.test_scenes,
        steps=given.steps,
        batch_size=given.batch_size,
        seed=given.seed,
    )
    print(
        f"Mean IoU over ten digits, {given.scenes} labelled scenes, {given.steps} steps: "
        f"{compared.pretrained:.3f} pretrained, {compared.scratch:.3f} from scratch."
    )
    if output is not None:
        segmentation.save_picture(output, compared)
        print(f"Wrote {given.output}.")


if __name__ == "__main__":
    sys.exit(main())
