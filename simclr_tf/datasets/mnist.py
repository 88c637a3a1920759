"""mnist_5k: the digits shipped in the package, so that the first command needs no download."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_tf.datasets.in_memory import InMemorySource
from simclr_tf.datasets.splits import resolve_split

NAME = "mnist_5k"
_FILE = pathlib.Path(__file__).with_name("mnist_5k.npz")


def open_mnist_5k(split: str) -> InMemorySource:
    """Opens the embedded digits: 4,000 for 'train' and 1,000 for 'test', 28x28, as RGB.

    The arrays are already in random order, so a slice such as `train[:80%]` holds every class.

    Args:
        split: a split expression over 'train' and 'test'.

    Returns:
        A source with ten classes; images uint8 (28, 28, 3), the grey value in each channel.

    Raises:
        UserError: the split is unknown or empty.

    Example:
        >>> open_mnist_5k("train[80%:]").num_examples
        800
    """
    with np.load(_FILE) as file:
        arrays = {key: file[key] for key in file.files}
    sizes = {name: len(arrays[f"{name}_labels"]) for name in ("train", "test")}
    ranges = resolve_split(split, sizes, dataset=NAME)
    grey = np.concatenate([arrays[f"{r.name}_images"][r.start : r.stop] for r in ranges])
    labels = np.concatenate([arrays[f"{r.name}_labels"][r.start : r.stop] for r in ranges])
    return InMemorySource(
        np.repeat(grey[..., None], 3, axis=-1),
        labels,
        name=NAME,
        split=split,
        num_classes=10,
        class_names=[str(digit) for digit in range(10)],
    )
