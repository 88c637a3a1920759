"""Several views per image are those of the batch repeated, which nothing needs to hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.training.view_maker import ViewMaker

SEED = (5, 6)
NAMES = "crop,flip,color"


class Darker(SimCLRAugment):
    """A user's subclass that has its own `apply`, as it was before there were copies."""

    def apply(self, images: Any, params: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return super().apply(images, params) / 2.0


class Brighter(SimCLRAugment):
    """A user's subclass that has its own `call`."""

    def call(self, inputs: Any, seed: Any = None, training: bool = True) -> tf.Tensor:
        return tf.sqrt(super().call(inputs, seed=seed, training=training) + 1e-3)


def inputs_of(count: int, canvas: bool) -> Any:
    draw = np.random.RandomState(count)
    images = tf.constant(draw.randint(0, 256, (count, 12, 10, 3)), tf.uint8)
    if not canvas:
        return images
    return {"image": images, "size": tf.constant(draw.randint(9, 30, (count, 2)), tf.int32)}


def repeated(inputs: Any, copies: int) -> Any:
    return tf.nest.map_structure(lambda x: tf.concat([x] * copies, 0), inputs)


# Our own indices; the step below gets copies on both lanes.
@pytest.mark.one_lane
@settings(max_examples=10, deadline=None)
@given(
    count=st.integers(1, 5),
    copies=st.integers(1, 4),
    canvas=st.booleans(),
    kind=st.sampled_from([SimCLRAugment, Darker]),
)
def test_copies_are_the_batch_repeated(
    count: int, copies: int, canvas: bool, kind: type[SimCLRAugment]
) -> None:
    inputs, augment = inputs_of(count, canvas), kind(8, augmentations=NAMES)
    views = augment(inputs, seed=SEED, copies=copies)
    assert views.shape == (copies * count, 8, 8, 3)
    np.testing.assert_array_equal(views, augment(repeated(inputs, copies), seed=SEED))


@pytest.mark.parametrize("kind", [SimCLRAugment, Brighter, Darker, "callable"])
def test_a_step_gets_views_of_the_batch_repeated(kind: Any) -> None:
    """By whichever way an augmentation makes them, and one view of each image too."""
    layer = None if kind == "callable" else kind(8, augmentations=NAMES)

    def noise(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return images + tf.random.stateless_normal(tf.shape(images), seed)

    augment: Callable[..., tf.Tensor] = layer or noise
    inputs, make = inputs_of(3, canvas=layer is not None), ViewMaker(augment)
    for copies in (1, 2):
        views = make(inputs, tf.constant(SEED), copies)
        whole = repeated(inputs, copies)
        expected = augment(whole if layer else tf.cast(whole, tf.float32) / 255.0, seed=SEED)
        np.testing.assert_allclose(views, expected, atol=1e-6)
        assert len(np.unique(views.numpy().round(4), axis=0)) == 3 * copies


@pytest.mark.parametrize("count", [5, pytest.param(None, marks=pytest.mark.one_lane)])
def test_views_for_processors(count: int | None) -> None:
    """With a last part that is too long (ten views in a number of parts), and of any batch."""
    augment = SimCLRAugment(8, augmentations="crop,flip", jit_compile=True)
    spec = tf.TensorSpec([count, 12, 10, 3], tf.uint8)
    views = tf.function(lambda x: augment(x, seed=SEED, copies=2), input_signature=[spec])
    images = inputs_of(5, canvas=False)
    expected = SimCLRAugment(8, augmentations="crop,flip")(repeated(images, 2), seed=SEED)
    np.testing.assert_allclose(views(images), expected, atol=2e-4)
    assert augment._compiled is not None
