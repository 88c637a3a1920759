"""Pretrained beside from scratch: two networks that begin alike but for the encoder."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.examples import detection, segmentation
from simclr_tf.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("half_as_deep")


@pytest.mark.parametrize(
    ("task", "train"), [(segmentation, "train_segmenter"), (detection, "train_detector")]
)
def test_both_networks_begin_alike_but_for_the_encoder(
    task: ModuleType, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained first, and scored as pretrained, is the encoder that was given."""
    if task is detection:
        pytest.importorskip("pycocotools")
    keras.utils.set_random_seed(0)
    encoder = ResNet(18, 0.125, cifar_stem=True)
    kernel = encoder.trainable_variables[0]
    kernel.assign(2 * tf.convert_to_tensor(kernel))  # as if trained
    begun: list[list[np.ndarray]] = []

    def trained(model: keras.Model, *data: Any, steps: int, batch_size: int, seed: int) -> None:
        assert (steps, batch_size, seed) == (3, 2, 0)
        begun.append(model.get_weights())

    monkeypatch.setattr(task, train, trained)
    task.compare(encoder, 10, scenes=2, test_scenes=2, steps=3, batch_size=2, seed=0)
    pretrained, fresh = begun
    assert len(pretrained) == len(fresh) > 60
    unlike = [
        number
        for number, (ours, theirs) in enumerate(zip(pretrained, fresh, strict=True))
        if not np.array_equal(ours, theirs)
    ]
    assert len(unlike) == 1
    np.testing.assert_array_equal(pretrained[unlike[0]], 2 * fresh[unlike[0]])
    np.testing.assert_array_equal(pretrained[unlike[0]], np.asarray(kernel))
