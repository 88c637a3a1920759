"""Images kept in memory: each decoded once, in the same order, and counted before they are kept."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import N, folder, options, stream, take_labels
from peak_memory import last_number
from PIL import Image

from simclr_tf.datasets import cache, open_source, source_from_dataset
from simclr_tf.datasets.cache import in_memory
from simclr_tf.datasets.pipeline import evaluation_dataset, training_dataset
from simclr_tf.errors import UserError

__all__ = ["folder"]  # a fixture


def test_cache_decodes_each_image_once_and_keeps_the_order(folder):
    plain = open_source(folder, "all", eval_fraction=0.5)
    expected = take_labels(training_dataset(plain, **options()), 15)
    source = open_source(folder, "all", eval_fraction=0.5)
    decoded = []
    original, source._load = source._load, lambda *a: decoded.append(a[0]) or original(*a)
    data = training_dataset(source, **options(cache=True))
    np.testing.assert_array_equal(take_labels(data, 15), expected)
    assert sorted(decoded) == list(range(N))


def test_cached_stream_gives_whole_permutations():
    data = training_dataset(stream(), **options(cache=True, shuffle_buffer_bytes=1))
    labels = take_labels(data, N).reshape(2, N)
    assert [sorted(row) for row in labels.tolist()] == [list(range(N))] * 2
    assert labels[0].tolist() != labels[1].tolist()


def test_cache_leaves_unreadable_images_out(tmp_path):
    for i in range(4):
        noise = np.random.RandomState(i).randint(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    source = open_source(str(tmp_path), "all", eval_fraction=0.5)
    path = pathlib.Path(source.paths[2])
    broken = bytearray(path.read_bytes())
    broken[500:540] = bytes(40)
    path.write_bytes(broken)
    cached = in_memory(source)
    assert cached.num_examples == 3 and len(cached.bad_images) == 1
    assert in_memory(cached) is cached
    batches = list(evaluation_dataset(source, batch_size=2, image_size=20))
    assert [len(batch[0]) for batch in batches] == [2, 1]


def test_cache_that_cannot_fit():
    source = source_from_dataset(
        tf.data.Dataset.from_tensors(tf.zeros([9, 9, 3], tf.uint8)), num_examples=10**12
    )
    with pytest.raises(UserError, match="fit in memory .*Do not pass --cache_dataset"):
        training_dataset(source, **options(cache=True))
    with pytest.raises(UserError, match="known length to cache"):
        training_dataset(stream(known=False), **options(cache=True))


@pytest.mark.parametrize("dtype, channels", [("uint8", 1), ("uint8", 3), ("float32", 3)])
def test_memory_of_a_cache_is_counted_by_type_and_channels(
    dtype: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tf.zeros([10, 8, 8, channels], dtype)
    source = source_from_dataset(tf.data.Dataset.from_tensor_slices(images))
    held = images.numpy().nbytes + 10 * 128
    monkeypatch.setattr(cache, "available_memory", lambda: int(held / 0.8) - 2)
    with pytest.raises(UserError, match=r"80% of what is free\); received: 10 images that need"):
        in_memory(source)
    monkeypatch.setattr(cache, "available_memory", lambda: int(held / 0.8) + 2)
    assert in_memory(source).num_examples == 10


def test_memory_of_images_of_many_sizes_is_counted_as_they_come(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No size is known before an image is decoded: the count stops with both numbers."""
    source = open_source(folder, "all", eval_fraction=0.5)
    whole = in_memory(source)
    assert not whole.static_shape
    sizes = [whole.decode(i)["image"].numpy().nbytes + 128 for i in range(whole.num_examples)]
    monkeypatch.setattr(cache, "available_memory", lambda: int(sum(sizes) / 0.8) + 2)
    assert in_memory(source).num_examples == len(sizes)
    monkeypatch.setattr(cache, "available_memory", lambda: int(sum(sizes[:4]) / 0.8) + 2)
    with pytest.raises(UserError, match=f"received: 5 of {len(sizes)} images that take"):
        in_memory(source)


MEASURE = """
import tensorflow as tf
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.datasets import source_from_dataset

shape = [512, 512, 3]
images = tf.data.Dataset.range(200).map(
    lambda i: tf.ensure_shape(tf.fill(shape, tf.cast(i % 256, tf.uint8)), shape))

def read(count):
    source = source_from_dataset(images.take(count), num_examples=count)
    data = training_dataset(source, batch_size=2, image_size=512, seed=0, cache=True)
    for _ in zip(range(100), data):
        pass

read(2)
before = peak()
read(200)
print(100 * (peak() - before) * 1024 // (200 * 512 * 512 * 3))
"""


@pytest.mark.slow
@pytest.mark.one_lane
def test_a_cache_takes_the_memory_that_was_counted() -> None:
    """Not twice: neither while it is filled nor while tf.data reads it."""
    assert 80 < last_number(MEASURE) < 135
