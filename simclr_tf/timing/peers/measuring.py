"""This package's training beside its peers': what all of them train, and what is printed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_tf.devices.processor import describe_cpu
from simclr_tf.errors import UserError
from simclr_tf.timing.peers.protocol import END_TO_END, STEP
from simclr_tf.timing.peers.sides import OURS, Side
from simclr_tf.timing.peers.turns import Say, Turns
from simclr_tf.timing.tables import table

_ROUND_SECONDS = 1.0  # of the quickest side, at least
_STEPS_END_TO_END = 8  # of a round, at least; and four a thread: views come in bursts
_PATIENCE = 1800.0  # seconds for an answer; the first ones compile
_IMAGES = 4000  # at most, unless they have more bytes, or a batch has more
_IMAGE_BYTES = 1 << 26
_ALIKE = 1e-3  # the share of the parameters by which networks may differ
_BUSY = 0.5  # processes a core


class Settings(NamedTuple):
    """What all sides train, and how.

    Attributes:
        image_size: Side of images and views in pixels.
        batch_size: Images a step; the network sees twice as many views.
        width_multiplier: Of the ResNet-18.
        threads: Of each side; as many processes make lightly's views.
        images: Path of the uint8 images (N, size, size, 3), as NumPy saves them.
        learning_rate: Of LARS, with a momentum of 0.9.
        weight_decay: Of LARS.
        dimensions: Of the projection.
        temperature: Of NT-Xent.
    """

    image_size: int
    batch_size: int
    width_multiplier: float
    threads: int
    images: str
    learning_rate: float = 0.1
    weight_decay: float = 1e-6
    dimensions: int = 128
    temperature: float = 0.1


def compare(
    sides: Sequence[Side],
    image_size: int,
    batch_size: int,
    seconds: float,
    width_multiplier: float,
    say: Say,
    patience: float = _PATIENCE,
) -> None:
    """Times training of every side: steps on ready-made views, then with the views made.

    A side that fails is left out, with a line that says why.

    Args:
        sides: This package and its peers, from `find_sides`.
        image_size: Side of images and views in pixels.
        batch_size: Images a step.
        seconds: About how long each side is timed in each of the two; three rounds at least.
        width_multiplier: Width of the ResNet-18.
        say: Prints a line.
        patience: Seconds to wait for one answer.

    Raises:
        UserError: This package or all peers failed: there is nothing to compare.

    Example:
        >>> compare(find_sides("simclr", None, 1.0), 32, 64, 60.0, 1.0, print)
    """
    threads = _visible_cores()
    say(f"{describe_cpu()}; {threads} threads a side; float32; LARS; NT-Xent at temperature 0.1")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > _BUSY * threads:
        say(f"other work keeps this machine busy (load {load:.1f}), which sides suffer unequally")
    compared = 0
    with (
        # A killed process may take a moment to close its files.
        tempfile.TemporaryDirectory(prefix="peers_", ignore_cleanup_errors=True) as folder,
        Turns(sides, folder, say, patience) as turns,
    ):
        path = os.path.join(folder, "images.npy")
        np.save(path, _make_images(image_size, batch_size))
        turns.start(Settings(image_size, batch_size, width_multiplier, threads, path)._asdict())
        for line in _descriptions(turns.descriptions):
            say(line)
        network = f"ResNet-18, {image_size} pixels, {batch_size} images"
        steps = turns.steps_for(STEP, _ROUND_SECONDS) if _can_compare(turns.descriptions) else 1
        for what, title, count in (
            (STEP, "training step on ready-made views", steps),
            (END_TO_END, "training end to end", max(steps, _STEPS_END_TO_END, 4 * threads)),
        ):
            if not _can_compare(turns.descriptions):
                break
            times = turns.times(what, count, seconds)
            rounds = min(map(len, times.values()), default=0)
            heading = f"{title}, {network}, {rounds} rounds of {count} steps"
            for line in _results(heading, times, batch_size):
                say(line)
            compared += _can_compare(times)
    if not compared:
        raise UserError(
            f"Expected {OURS} and a peer that train here; received: what the lines above say of "
            "each that failed. Mend one of them and try again."
        )


def _visible_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _make_images(image_size: int, batch_size: int) -> np.ndarray:
    """Returns noise, uint8 (N, size, size, 3): no side's speed depends on what images show."""
    shape = (image_size, image_size, 3)
    count = max(batch_size, min(_IMAGES, _IMAGE_BYTES // int(np.prod(shape))))
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def _can_compare(names: Mapping[str, Any]) -> bool:
    return OURS in names and len(names) > 1


def _descriptions(descriptions: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields a line a side: versions, device, threads, and how its parameters differ from ours."""
    ours = descriptions.get(OURS, {}).get("parameters")
    for name, said in descriptions.items():
        difference = ""
        if ours and name != OURS:
            more = said["parameters"] - ours
            unlike = "" if abs(more) <= _ALIKE * ours else ", another network"
            difference = f" ({more:+,}, {more / ours:+.3%}{unlike})" if more else ""
        yield (
            f"  {name}: {said['name']}, {said['versions']}, {said['device']}, {said['threads']} "
            f"threads, {said['parameters']:,} trainable parameters{difference}"
        )
    if len({said["device"] for said in descriptions.values()}) > 1:
        yield "  the sides run on different devices, which the ratios compare too"


def _results(heading: str, times: Mapping[str, np.ndarray], batch_size: int) -> Iterator[str]:
    """Yields a table, and this package's speed against each peer's, round by round."""
    if not times:
        return
    quartiles = {name: np.quantile(taken, [0.25, 0.5, 0.75]) for name, taken in times.items()}
    yield from table(heading, quartiles, batch_size, "images/s")
    if OURS not in times:
        return
    for name in (name for name in times if name != OURS):
        low, median, high = np.quantile(times[name] / times[OURS], [0.25, 0.5, 0.75])
        yield f"  {OURS} at {median:.2f} [{low:.2f}, {high:.2f}] times the speed of {name}"
