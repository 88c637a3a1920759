"""Token ids with a padding mask, and encoders that take them as a dictionary, tuple or array."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.simclr import SimCLR

LENGTH, WORDS, CLASSES = 5, 11, 3


def token_encoder(kind: str = "dict") -> keras.Model:
    """Mean of the embeddings that the mask leaves; without batch norm, each row for itself.

    Args:
        kind: What it takes: `dict` {"ids", "mask"}, `tuple` (ids, mask), or `array` of ids.
    """
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    mask = keras.Input((LENGTH,), dtype="float32", name="mask")
    x = keras.layers.Embedding(WORDS, 6)(ids)
    if kind == "array":
        return keras.Model(ids, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    x = keras.layers.Dot(axes=1)([mask, x])
    inputs = {"ids": ids, "mask": mask} if kind == "dict" else (ids, mask)
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def tokens(count: int = 8, kind: str = "dict", seed: int = 0) -> Any:
    random = np.random.RandomState(seed)
    ids = random.randint(1, WORDS, (count, LENGTH)).astype("int32")
    mask = np.arange(LENGTH) < random.randint(2, LENGTH + 1, (count, 1))
    ids *= mask
    mask = mask.astype("float32")
    return {"dict": {"ids": ids, "mask": mask}, "tuple": (ids, mask), "array": ids}[kind]


def labels(count: int = 8) -> np.ndarray:
    return np.arange(count) % CLASSES


@keras.utils.register_keras_serializable(package="tests")
def drop_words(inputs: Any, seed: tf.Tensor) -> Any:
    """Replaces one of four ids by 0; takes and returns any of the three kinds."""

    def drop(ids: tf.Tensor) -> tf.Tensor:
        kept = tf.random.stateless_uniform(tf.shape(ids), seed, alg="philox") > 0.25
        return tf.where(kept, ids, 0)

    if isinstance(inputs, dict):
        return {**inputs, "ids": drop(inputs["ids"])}
    return (drop(inputs[0]), inputs[1]) if isinstance(inputs, tuple) else drop(inputs)


def token_model(kind: str = "dict", **settings: Any) -> SimCLR:
    defaults = {
        "projection_head": ProjectionHead(out_dim=4, num_layers=1),
        "augment": drop_words,
        "num_classes": CLASSES,
        "input_kind": "any",
    }
    return SimCLR(token_encoder(kind), **{**defaults, **settings})
