"""The memory of a step: against sums by hand, and against what processes were measured to hold."""

from __future__ import annotations

import pytest
import shallow
from peak_memory import last_number
from tensorflow import keras

from simclr_tf.compat import build_optimizer
from simclr_tf.models.recipe import Recipe
from simclr_tf.optim.lars import LARS
from simclr_tf.training.footprint import Footprint, footprint, trace_encoder
from simclr_tf.training.from_recipe import build_model

pytestmark = pytest.mark.usefixtures("half_as_deep")


def held(encoder: str, images: int, micro: int = 0, **settings: object) -> Footprint:
    recipe = Recipe(encoder, resnet_depth=18, num_classes=10, **settings)
    model = build_model(recipe)
    model.compile(optimizer=LARS(0.1))
    build_optimizer(model.optimizer, model.trainable_variables)
    memory = trace_encoder(model.encoder, recipe.image_size)
    size = recipe.image_size
    return footprint(model, memory, image_size=size, images=images, micro_batch_size=micro)


def test_a_layer_by_hand() -> None:
    model = build_model(Recipe("mlp:16", image_size=8))
    per_view = trace_encoder(model.encoder, 8).per_view
    # For the backward pass: what batch norm read and what ReLU gave; then the gradient of that.
    assert per_view.kept == (16 + 16 + 16) * 4
    assert per_view.largest == 16 * 4


def test_what_a_layer_reads_is_kept_once() -> None:
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(images)
    both = keras.layers.Add()([x, keras.layers.Conv2D(4, 1, use_bias=False)(x)])
    encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(both))
    # The convolution in the middle reads the first one's output; sum and mean keep nothing.
    kept = 8 * 8 * 4 * 4
    features = 4 * 4
    assert trace_encoder(encoder, 8).per_view.kept <= kept + 2 * features


def test_parts_by_hand() -> None:
    found = held("mlp:16", images=32, image_size=8, proj_out_dim=8, num_proj_layers=2)
    weights = 192 * 16 + 32 + 16 * 16 + 32 + 16 * 8 + 8 + 16 * 10 + 10
    statistics = 2 * (16 + 16 + 8)
    assert found.gradients == 4 * weights and found.variables == 4 * (weights + statistics)
    assert found.slots >= 4 * weights  # and a step counter
    assert found.batch == 32 * 192 and found.views == 64 * 192 * 4
    assert found.gathered == 0 and found.total > found.activations


@pytest.mark.one_lane
def test_micro_batches_hold_the_activations_of_one() -> None:
    settings = {"image_size": 32, "width_multiplier": 0.25}
    plain, micro = held("resnet", 64, **settings), held("resnet", 256, 64, **settings)
    assert plain.activations <= micro.activations < 1.1 * plain.activations
    assert micro.gradients == 2 * plain.gradients


def test_half_the_bytes_in_bfloat16() -> None:
    sizes = []
    for policy in ("float32", "mixed_bfloat16"):
        before = keras.mixed_precision.global_policy()
        keras.mixed_precision.set_global_policy(policy)
        try:
            encoder = build_model(Recipe("mlp:64,64", image_size=8)).encoder
        finally:
            keras.mixed_precision.set_global_policy(before)
        sizes.append(trace_encoder(encoder, 8).per_view.largest)
    assert sizes[0] == 64 * 4 and sizes[1] < sizes[0] * 2


TRAIN = """
import os
import numpy as np, tensorflow as tf
from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.models.recipe import Recipe
from simclr_tf.optim.lars import LARS
from simclr_tf.training.from_recipe import build_model
images = int(sys.argv[1])
recipe = Recipe(resnet_depth=18, width_multiplier=0.25, image_size=32, num_classes=10)
model = build_model(recipe, augment=SimCLRAugment(32, augmentations="crop"))
model.compile(optimizer=LARS(0.1))
batch = np.zeros((images, 32, 32, 3), "uint8"), np.zeros(images, "int32")
model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
print(peak())
"""


@pytest.mark.one_lane
@pytest.mark.slow
def test_the_estimate_is_near_the_measured_growth() -> None:
    """A batch against one of two images: TensorFlow itself and the variables are in both."""
    program = shallow.SETTING + TRAIN
    measured = 1024 * (last_number(program, 192) - last_number(program, 2))
    settings = {"image_size": 32, "width_multiplier": 0.25}
    estimated = held("resnet", 192, **settings).total - held("resnet", 2, **settings).total
    assert 0.75 < estimated / measured < 1.25, (estimated, measured)
