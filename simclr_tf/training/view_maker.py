"""How a step calls an augmentation: with its own seed, and the arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from simclr_tf.augment import draws
from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import converted, serialize
from simclr_tf.images.pixel_values import to_float as as_float
from simclr_tf.training import structures
from simclr_tf.typing import KerasConfig


def step_seed(seed: int, step: int | tf.Variable) -> tf.Tensor:
    """Returns the int32 seed of shape (2,) of one step on one replica.

    It is the same on every kind of device, in a plain graph and under XLA.
    """
    # cast: Keras 3 counts steps in int32, Keras 2 in int64
    pair = tf.stack([tf.constant(seed, tf.int32), tf.cast(tf.convert_to_tensor(step), tf.int32)])
    context = tf.distribute.get_replica_context()
    replica = 0 if context is None else context.replica_id_in_sync_group
    return draws.fold_in(pair, replica)


def shared_seed(seed: int, step: int | tf.Variable) -> tf.Tensor:
    """Returns the int32 seed of shape (2,) of what all replicas draw alike in one step."""
    pair = tf.stack([tf.constant(seed, tf.int32), tf.cast(tf.convert_to_tensor(step), tf.int32)])
    return draws.fold_in(pair, -1)  # no replica's number


class ViewMaker:
    """Calls any augmentation, passing `seed` and `training` where its signature takes them.

    Args:
        augment: A callable or Keras layer from a batch of images to a batch of as many views.
        structure: What the encoder takes, for inputs of any kind, which reach the augmentation as
            they are; None: images.
    """

    def __init__(self, augment: Callable[..., Any], structure: structures.Structure = None) -> None:
        target = augment.call if isinstance(augment, keras.layers.Layer) else augment
        try:
            parameters = set(inspect.signature(target).parameters)
        except (TypeError, ValueError):  # some built-in callables have no signature
            parameters = set()
        self.augment = augment
        self.structure = structure
        self.takes_seed = "seed" in parameters
        self.takes_training = "training" in parameters
        # What others mean by that name is not known.
        self.takes_copies = isinstance(augment, SimCLRAugment) and "copies" in parameters

    def __call__(self, images: Any, seed: tf.Tensor, copies: int) -> Any:
        """Returns `copies` views of every image: (copies * N, h, w, channels), copy after copy.

        Inputs of any kind may have another structure than their views, which the encoder takes.

        Raises:
            UserError: Views of inputs of any kind that the encoder can't take.
        """
        if self.structure is None and not getattr(self.augment, "takes_source_images", False):
            # Only SimCLRAugment takes canvases and raw bytes; others get float images in [0, 1].
            images = as_float(images["image"] if isinstance(images, dict) else images)
        arguments: dict[str, object] = {"seed": seed} if self.takes_seed else {}
        if self.takes_copies:
            arguments["copies"] = copies
        elif copies > 1:
            images = tf.nest.map_structure(lambda x: tf.concat([x] * copies, 0), images)
        if self.takes_training:
            arguments["training"] = True
        views = converted(self.augment)(images, **arguments)
        if self.structure is not None:
            structures.check_fits(views, self.structure, "views of the augmentation")
        return views


def serialize_optional(part: object | None, what: str) -> KerasConfig | str | None:
    """Returns the config of a part of a model; None, with a warning, for one that can't be saved.

    Args:
        part: An augmentation or a loss; None gives None.
        what: Its name in the warning.
    """
    if part is None:
        return None
    try:
        return serialize(part)
    except Exception as error:  # a user's object may raise anything; save the weights anyway
        logging.warning("The %s is not saved: %s", what, error)
        return None
