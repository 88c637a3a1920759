"""Small models, their data, weights and optimizers: what is trained on both devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from release import set_weights_by_rule
from setting import Setting, make_encoder, pictures
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.compat import raw_variable
from simclr_tf.devices.precision import policy_name
from simclr_tf.devices.process_state import isolated
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.lars import LARS
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

CLASSES = 10
PIXELS = 32


def make_simclr(setting: Setting, **options: Any) -> SimCLR:
    """Returns a small SimCLR that makes its views."""
    return SimCLR(
        make_encoder(setting.sizes.widths[1]),
        ProjectionHead(num_layers=setting.sizes.head_layers),
        augment=SimCLRAugment(PIXELS, augmentations=setting.sizes.augmentations),
        temperature=0.5,
        num_classes=CLASSES,
        weight_decay=1e-4,
        **options,
    )


def make_half(setting: Setting, mixed_precision: str = "float16") -> SimCLR:
    """Returns it under mixed precision."""
    with isolated(policy_name(mixed_precision)):
        return make_simclr(setting)


def scaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns an optimizer with float16's loss scale, so low that no step is left out."""
    return keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=256.0)


def make_classifier(setting: Setting) -> Classifier:
    """Returns a small classifier that trains all of its weights."""
    return Classifier(
        make_encoder(setting.sizes.widths[1]),
        CLASSES,
        augment=SimCLRAugment(PIXELS, augmentations="crop,flip"),
        weight_decay=1e-4,
    )


def lars() -> keras.optimizers.Optimizer:
    # Kernels move by a thousandth in a step, not by the release's hundred-thousandth, which
    # float32 could hardly tell from rounding.
    return LARS(0.003, weight_decay=1e-4, eeta=0.1)


def nesterov() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.001, momentum=0.9, nesterov=True)


def gradient_step() -> keras.optimizers.Optimizer:
    """Returns an optimizer whose step is the gradient."""
    return keras.optimizers.SGD(1.0)


def data_set(setting: Setting, steps: int) -> tf.data.Dataset:
    """Returns some batches of images of bytes, and their labels."""
    count = setting.sizes.images
    images = pictures(steps * count, PIXELS, seed=3)
    labels = np.random.RandomState(4).randint(0, CLASSES, steps * count)
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    return data.batch(count, drop_remainder=True)


def set_weights(model: Any) -> None:
    """Sets weights by rule, so that few of the network's ReLUs stand at their threshold.

    Those that do are open on one device and shut on another. With the rule alone, weights that
    differ by 1e-6 have gradients that differ by 3e-3, and after five steps by half; raised offsets
    make 1e-5 and 1e-4 of it.
    """
    set_weights_by_rule(model)
    for path, variable in model_variables(model).items():
        if path.endswith("beta"):
            variable.assign(tf.convert_to_tensor(raw_variable(variable)) + 2.0)
