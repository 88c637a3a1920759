"""`python -m simclr_tf.benchmark WHAT`: how fast this machine is, as ratios within one run."""

from __future__ import annotations

import argparse
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError

_WHAT = {
    "augment": "batched views on the device against the same operations per image in tf.data",
    "step": "a training step of SimCLR against a lean Keras step of the same network",
    "loss": "NT-Xent in blocks against the plain form, forward and backward",
    "losses": "every contrastive loss against NT-Xent, forward and backward",
    "input": "the input pipeline against plain tf.data, and how long a step waits for either",
}

# Arguments that only some measurements take.
_ONLY = {
    "image_size": ("augment", "step", "input"),
    "mixed_precision": ("step",),
    "jit_compile": ("step",),
    "width_multiplier": ("step", "input"),
    "dataset": ("input",),
    "images": ("input",),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    listed = "\n".join(f"  {name:8} {text}" for name, text in _WHAT.items())
    arguments = Arguments(
        "simclr_tf.benchmark",
        "Times parts of the package against a baseline, in turn, in one process; prints medians\n"
        f"and their ratio. WHAT is one of\n\n{listed}",
    )
    arguments.add_argument("what", metavar="WHAT", choices=sorted(_WHAT))
    arguments.add_argument(
        "--image_size", type=int, help="side of the views in pixels (default 32)"
    )
    arguments.add_argument(
        "--batch_size", type=int, help="images (default 256, step and input: 64, loss: 8192)"
    )
    arguments.add_argument(
        "--seconds", type=float, default=5.0, help="about how long each side is timed (default 5)"
    )
    arguments.add_argument(
        "--mixed_precision",
        choices=("none", "bfloat16", "float16", "auto"),
        help="of our step, timed in float32 too; the baseline stays float32",
    )
    arguments.add_argument(
        "--jit_compile", action="store_true", default=None, help="XLA for our step"
    )
    arguments.add_argument(
        "--width_multiplier", type=float, help="of the ResNet-18 of step and input (default 1)"
    )
    arguments.add_argument(
        "--dataset", help="of input; default: the embedded digits, then JPEG files of noise"
    )
    arguments.add_argument(
        "--images", type=int, help="of input: so many of those JPEG files, without the digits"
    )
    return run_command(arguments, _measure, argv)


def _measure(given: argparse.Namespace) -> None:
    for name in ("image_size", "batch_size", "seconds", "width_multiplier", "images"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise UserError(f"Expected --{name} above 0; received: {value}.")
    for name, takers in _ONLY.items():
        if getattr(given, name) is not None and given.what not in takers:
            raise UserError(
                f"Expected --{name} with WHAT={' or '.join(takers)} alone; received: "
                f"{given.what}. Leave it out."
            )
    if given.images is not None and given.dataset is not None:
        raise UserError(
            "Expected --images, files made here, or --dataset; received: both. Leave one out."
        )
    start_tensorflow()
    from simclr_tf.timing import compute

    image_size, width = given.image_size or 32, given.width_multiplier or 1.0
    default = {"step": 64, "input": 64, "loss": 8192}.get(given.what, 256)
    size = given.batch_size or default
    if given.what == "augment":
        rows = compute.augmentation(image_size, size, given.seconds)
    elif given.what == "loss":
        rows = compute.loss(size, given.seconds)
    elif given.what == "losses":
        rows = compute.losses(size, given.seconds)
    elif given.what == "input":
        from simclr_tf.timing.input_pipeline import Timing, input_pipeline

        timing = Timing(image_size, size, given.seconds, width)
        rows = input_pipeline(timing, given.dataset, given.images)
    else:
        rows = compute.training_step(
            image_size,
            size,
            given.seconds,
            width_multiplier=width,
            mixed_precision=given.mixed_precision or "none",
            jit_compile=bool(given.jit_compile),
        )
    for row in rows:
        print(row)


if __name__ == "__main__":
    sys.exit(main())
