"""Images as an evaluation sees them: resized or cropped, each once, in order."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import N, folder

from simclr_tf.datasets import InMemorySource, open_source
from simclr_tf.datasets.pipeline import evaluation_dataset

__all__ = ["folder"]  # a fixture


def test_evaluation_at_32_pixels_and_below_changes_nothing():
    source = open_source("mnist_5k", "test")
    batches = list(evaluation_dataset(source, batch_size=300, image_size=28))
    assert [len(images) for images, _ in batches] == [300, 300, 300, 100]
    images, labels = source.as_numpy()
    np.testing.assert_allclose(np.concatenate([b[0] for b in batches]), images / 255, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches]), labels)
    assert batches[0][0].dtype == tf.float32 and batches[0][1].dtype == tf.int64


def test_evaluation_resizes_small_images_of_another_size_without_cropping():
    images = np.zeros((1, 40, 40, 3), np.uint8)
    images[:, :2] = 255  # a border that the central crop would lose
    source = InMemorySource(images, None, name="x", split="test")
    (view,) = next(iter(evaluation_dataset(source, batch_size=1, image_size=20)))
    assert view.shape == (1, 20, 20, 3)
    assert view[0, 0].numpy().min() > 0.8 and 0 <= view.numpy().min() <= view.numpy().max() <= 1


def test_evaluation_above_32_pixels_crops_the_centre():
    images = np.zeros((1, 64, 64, 3), np.uint8)
    images[:, 4:60, 4:60] = 200  # exactly 0.875 of 64
    source = InMemorySource(images, None, name="x", split="test")
    (view,) = next(iter(evaluation_dataset(source, batch_size=1, image_size=56)))
    np.testing.assert_allclose(view, np.full((1, 56, 56, 3), 200 / 255), atol=1e-6)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("image_size", [16, 40])
def test_evaluation_of_mixed_sizes(folder, image_size, cache):
    source = open_source(folder, "all", eval_fraction=0.5)
    data = evaluation_dataset(source, batch_size=4, image_size=image_size, cache=cache)
    assert data.element_spec[0].shape.as_list() == [None, image_size, image_size, 3]
    for _ in range(2):
        seen = []
        for images, labels in data:
            expected = np.broadcast_to(labels.numpy()[:, None, None, None] * 20 / 255, images.shape)
            np.testing.assert_allclose(images, expected, atol=1e-5)
            seen += labels.numpy().tolist()
        assert sorted(seen) == list(range(N))
