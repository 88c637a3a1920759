"""Ten images that are told apart by their pixels, in memory, in files and in a stream."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from simclr_tf.datasets import InMemorySource, open_source, source_from_dataset

N = 10


def numbered(n=N, side=6, labels=True):
    """Images whose every pixel, and label, is their index."""
    ids = np.arange(n)
    images = np.broadcast_to(ids[:, None, None, None], (n, side, side, 3)).astype(np.uint8)
    return InMemorySource(
        images, ids if labels else None, name="numbered", split="train",
        num_classes=n if labels else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten grey PNG files of mixed sizes whose every pixel is 20 * their label."""
    root = tmp_path_factory.mktemp("images")
    for i in range(N):
        (root / f"class{i}").mkdir()
        value = (20 * i,) * 3
        Image.new("RGB", (20 + 3 * i, 30 - i), value).save(root / f"class{i}" / "a.png")
    return str(root)


def stream(n=N, known=True):
    """The numbered images through a user's tf.data: no random access."""
    source = numbered(n)
    data = source.ordered_keys().map(
        lambda key: (source.decode(key)["image"], source.decode(key)["label"])
    )
    if not known:
        data = data.filter(lambda *_: True)
    return source_from_dataset(data, num_classes=n)


def take_labels(data, batches):
    return np.concatenate([batch[-1].numpy() for batch in data.take(batches)])


def options(**changes):
    return {"batch_size": 2, "image_size": 6, "seed": 0, **changes}


SOURCES = {
    "memory": lambda folder: numbered(),
    "folder": lambda folder: open_source(folder, "all", eval_fraction=0.5),
    "stream": lambda folder: stream(),
}
