"""`python -m simclr_tf.benchmark WHAT`: how fast this machine is, as ratios within one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import partial

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow, start_xla
from simclr_tf.errors import UserError

_WHAT = {
    "augment": "batched views on the device against the same operations per image in tf.data",
    "step": "a training step of SimCLR against a lean Keras step of the same network",
    "loss": "NT-Xent in blocks against the plain form, forward and backward",
    "losses": "every contrastive loss against NT-Xent, forward and backward",
    "growth": "time and memory of a step for batches of 64 to 8,192 on 1, 2 and 4 replicas",
    "input": "the input pipeline against plain tf.data, and how long a step waits for either",
    "peers": "training beside lightly on PyTorch and the original release, a process for each",
}

# Arguments that only some measurements take.
_ONLY = {
    "batch_size": ("augment", "input", "loss", "losses", "step", "peers"),
    "seconds": ("augment", "input", "loss", "losses", "step", "peers"),
    "image_size": ("augment", "step", "growth", "input", "peers"),
    "batch_sizes": ("growth",),
    "mixed_precision": ("step",),
    "jit_compile": ("step",),
    "profile": ("step",),
    "width_multiplier": ("step", "growth", "input", "peers"),
    "dataset": ("input",),
    "images": ("input",),
    "release": ("peers",),
    "lightly_python": ("peers",),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    listed = "\n".join(f"  {name:8} {text}" for name, text in _WHAT.items())
    arguments = Arguments(
        "simclr_tf.benchmark",
        "Times parts of the package against a baseline, in turn, in one process (peers, growth: a\n"
        f"process each); prints medians and their ratio. WHAT is one of\n\n{listed}",
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
        "--batch_sizes", type=_numbers, help="of growth, rising (default 64,256,1024,4096,8192)"
    )
    arguments.add_argument(
        "--seconds", type=float, help="about how long each side is timed (default 5)"
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
        "--profile",
        action="store_true",
        default=None,
        help="of step: the time of each part of our step, beside what the machine allows",
    )
    arguments.add_argument(
        "--depth", type=int, choices=(18, 34, 50, 101, 152, 200), help="of --profile (default 18)"
    )
    arguments.add_argument(
        "--width_multiplier",
        type=float,
        help="of the ResNet of step, input, peers (default 1) and growth",
    )
    arguments.add_argument(
        "--dataset", help="of input; default: the embedded digits, then JPEG files of noise"
    )
    arguments.add_argument(
        "--images", type=int, help="of input: so many of those JPEG files, without the digits"
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


def _numbers(text: str) -> tuple[int, ...]:
    """Returns comma-separated numbers of images."""
    try:
        sizes = tuple(map(int, text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 4 or any(size % 4 for size in sizes):
        raise argparse.ArgumentTypeError(
            f"expected multiples of 4, as in 64,256 (four replicas share a batch); received: {text}"
        )
    return sizes


def _measure(given: argparse.Namespace) -> None:
    _check(given)
    if given.what == "peers":
        _compare_with_peers(given)
        return
    for row in _rows(given):
        print(row, flush=True)


def _check(given: argparse.Namespace) -> None:
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
    if given.depth and not given.profile:
        raise UserError(f"Expected --depth with --profile alone; received: {given.depth}.")
    if given.jit_compile and given.profile:
        raise UserError("Expected --profile without --jit_compile, which leaves no parts to time.")


def _compare_with_peers(given: argparse.Namespace) -> None:
    """Prints as it goes. This process does without TensorFlow: only the sides' have threads."""
    from simclr_tf.timing.peers.measuring import compare
    from simclr_tf.timing.peers.sides import find_sides

    width = given.width_multiplier or 1.0
    sides = find_sides(given.release, given.lightly_python, width)
    size, seconds = given.batch_size or 64, given.seconds or 5.0
    compare(sides, given.image_size or 32, size, seconds, width, partial(print, flush=True))


def _rows(given: argparse.Namespace) -> Iterable[str]:
    """Measures what is asked for; returns lines, some as soon as they are measured."""
    what, width = given.what, given.width_multiplier or 1.0
    if what == "growth":  # in processes of its own
        from simclr_tf.timing import growth

        sizes = given.batch_sizes or growth.BATCHES
        return growth.growth(sizes, given.image_size or 16, given.width_multiplier or 0.125)
    start_tensorflow()
    from simclr_tf.timing import compute

    image_size, seconds = given.image_size or 32, given.seconds or 5.0
    size = given.batch_size or {"step": 64, "input": 64, "loss": 8192}.get(what, 256)
    if what in ("loss", "losses"):
        return getattr(compute, what)(size, seconds)
    start_xla()  # views are compiled
    if what == "augment":
        return compute.augmentation(image_size, size, seconds)
    if what == "input":
        from simclr_tf.timing.input_pipeline import Timing, input_pipeline

        timing = Timing(image_size, size, seconds, width)
        return input_pipeline(timing, given.dataset, given.images)
    precision = given.mixed_precision or "none"
    if given.profile:
        from simclr_tf.timing.step_profile import profile_step

        return profile_step(given.depth or 18, image_size, size, seconds, width, precision)
    jit_compile = bool(given.jit_compile)
    return compute.training_step(image_size, size, seconds, width, precision, jit_compile)


if __name__ == "__main__":
    sys.exit(main())
