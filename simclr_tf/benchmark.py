"""`python -m simclr_tf.benchmark WHAT`: how fast this machine is, as ratios within one run."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError

_WHAT = {
    "augment": "batched views on the device against the same operations per image in tf.data",
    "step": "a training step of SimCLR against a lean Keras step of the same network",
    "loss": "NT-Xent in blocks against the plain form, forward and backward",
    "losses": "every contrastive loss against NT-Xent, forward and backward",
    "input": "the input pipeline alone, and the share of the time that a step waits for it",
    "peers": "training beside lightly on PyTorch and the original release, a process for each",
}

# Arguments that only some measurements take.
_ONLY = {
    "image_size": ("augment", "step", "input", "peers"),
    "mixed_precision": ("step",),
    "jit_compile": ("step",),
    "width_multiplier": ("step", "input", "peers"),
    "dataset": ("input",),
    "release": ("peers",),
    "lightly_python": ("peers",),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    listed = "\n".join(f"  {name:8} {text}" for name, text in _WHAT.items())
    arguments = Arguments(
        "simclr_tf.benchmark",
        "Times parts of the package against a baseline, in turn, in one process (peers: a process\n"
        f"each); prints medians and their ratio. WHAT is one of\n\n{listed}",
    )
    _add_arguments(arguments)
    return run_command(arguments, _measure, argv)


def _add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("what", metavar="WHAT", choices=sorted(_WHAT))
    arguments.add_argument(
        "--image_size", type=int, help="side of the views in pixels (default 32)"
    )
    arguments.add_argument(
        "--batch_size", type=int, help="images (default 256; step, input, peers: 64; loss: 8192)"
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
        "--width_multiplier",
        type=float,
        help="of the ResNet-18 of step, input and peers (default 1)",
    )
    arguments.add_argument(
        "--dataset", help="of input; default: the embedded digits, then JPEG files of noise"
    )
    arguments.add_argument(
        "--release",
        metavar="CHECKOUT",
        help="of peers: folder of github.com/google-research/simclr; trains on Keras 2",
    )
    arguments.add_argument(
        "--lightly_python",
        metavar="PYTHON",
        help="of peers: the interpreter that has lightly and PyTorch (default: this one)",
    )


def _measure(given: argparse.Namespace) -> None:
    for name in ("image_size", "batch_size", "seconds", "width_multiplier"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise UserError(f"Expected --{name} above 0; received: {value}.")
    for name, takers in _ONLY.items():
        if getattr(given, name) is not None and given.what not in takers:
            raise UserError(
                f"Expected --{name} with WHAT={' or '.join(takers)} alone; received: "
                f"{given.what}. Leave it out."
            )
    default = {"step": 64, "input": 64, "peers": 64, "loss": 8192}.get(given.what, 256)
    given.batch_size = given.batch_size or default
    given.image_size = given.image_size or 32
    given.width_multiplier = given.width_multiplier or 1.0
    if given.what == "peers":
        _compare_with_peers(given)
        return
    for row in _rows(given):
        print(row)


def _compare_with_peers(given: argparse.Namespace) -> None:
    """Prints as it goes. This process does without TensorFlow: only the sides' have threads."""
    from simclr_tf.timing.peers.measuring import compare
    from simclr_tf.timing.peers.sides import find_sides

    width = given.width_multiplier
    sides = find_sides(given.release, given.lightly_python, width)
    say = partial(print, flush=True)
    compare(sides, given.image_size, given.batch_size, given.seconds, width, say)


def _rows(given: argparse.Namespace) -> list[str]:
    start_tensorflow()
    from simclr_tf.timing import compute

    size, seconds = given.batch_size, given.seconds
    if given.what == "augment":
        return compute.augmentation(given.image_size, size, seconds)
    if given.what == "loss":
        return compute.loss(size, seconds)
    if given.what == "losses":
        return compute.losses(size, seconds)
    if given.what == "input":
        from simclr_tf.timing.input_pipeline import input_pipeline

        return input_pipeline(
            given.image_size, size, seconds, given.width_multiplier, given.dataset
        )
    return compute.training_step(
        given.image_size,
        size,
        seconds,
        width_multiplier=given.width_multiplier,
        mixed_precision=given.mixed_precision or "none",
        jit_compile=bool(given.jit_compile),
    )


if __name__ == "__main__":
    sys.exit(main())
