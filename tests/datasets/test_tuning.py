"""Nothing is read with TensorFlow's tuner running, whose thread may end a minute late."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import SOURCES, folder, options, stream
from tensorflow import keras
from tuned_data import tuned

from simclr_tf.datasets import pipeline
from simclr_tf.datasets.cache import decoded_examples
from simclr_tf.datasets.tuning import untuned
from simclr_tf.examples.scene_training import outputs_of, train_on_scenes
from simclr_tf.features.extractor import feature_batches

__all__ = ["folder", "tuned"]


class Mean:
    """An extractor of one feature a channel."""

    image_size = (6, 6)

    def __call__(self, images):
        return tf.reduce_mean(images, axis=[1, 2]).numpy()


def test_elements_and_what_the_user_said_stay():
    data = tf.data.Dataset.range(9).map(lambda x: 2 * x, tf.data.AUTOTUNE).batch(2)
    assert untuned(data).options().autotune.enabled is False
    assert [list(x) for x in untuned(data)] == [list(x) for x in data]
    assert untuned(data).element_spec == data.element_spec
    assert untuned(data).cardinality() == data.cardinality()
    for choice in (True, False):
        said = tf.data.Options()
        said.autotune.enabled = choice
        chosen = data.with_options(said)
        assert untuned(chosen) is chosen


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "read",
    [
        lambda source: source.as_numpy(image_size=6),
        lambda source: next(iter(pipeline.training_dataset(source, **options()))),
        lambda source: list(pipeline.evaluation_dataset(source, batch_size=4, image_size=6)),
        lambda source: list(decoded_examples(source.subset(range(4)), canvas=6)),
        lambda source: list(feature_batches(source, Mean(), batch_size=4)),
    ],
    ids=["array", "training", "evaluation", "cache", "features"],
)
def test_sources_are_read_untuned(folder, kind, read, tuned):
    read(SOURCES[kind](folder))
    assert tuned and not any(tuned)


def test_labels_of_a_stream_are_read_untuned(tuned):
    stream().read_labels()
    assert tuned and not any(tuned)


def test_scenes_are_trained_and_seen_untuned(tuned):
    images = np.zeros([4, 2, 2, 3], np.uint8)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    train_on_scenes(model, "mse", images, np.zeros([4, 1]), steps=1, batch_size=2, seed=0)
    list(outputs_of(model, images, batch_size=2))
    assert len(tuned) >= 2 and not any(tuned)
