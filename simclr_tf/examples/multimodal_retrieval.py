"""Pictures and captions: two encoders with one loss, and retrieval from either side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from tensorflow import keras

from simclr_tf.devices.process_state import isolated
from simclr_tf.evaluation.neighbours import nearest_by_cosine
from simclr_tf.examples.captions import LENGTH, SIDE, WORDS, Pairs
from simclr_tf.examples.pretraining import pretrain
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training.dual_encoder import DualEncoder

_WIDTH = 64
_AT = (1, 5)


class Recalls(NamedTuple):
    """Shares of queries whose own partner is among the k nearest, in [0, 1].

    Attributes:
        captions: Of pictures as queries, at 1 and at 5.
        pictures: Of captions as queries, at 1 and at 5.
    """

    captions: tuple[float, ...]
    pictures: tuple[float, ...]


def picture_encoder() -> keras.Model:
    """Returns a convolutional network: pictures (N, 24, 24, 3) to features (N, 128)."""
    images = keras.Input((SIDE, SIDE, 3), name="pictures")
    x = images
    for width in (32, 64, 64):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    # Flattened, not averaged: captions tell places.
    x = keras.layers.Dense(128, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(images, x)


def caption_encoder() -> keras.Model:
    """Returns a recurrent network: word ids (N, 10) to features (N, 64); padding is masked."""
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = keras.layers.Embedding(len(WORDS) + 1, 32, mask_zero=True)(ids)
    return keras.Model(ids, keras.layers.GRU(64)(x))


def compare(
    train: Pairs, test: Pairs, *, steps: int, batch_size: int, seed: int
) -> dict[str, Recalls]:
    """Trains both encoders on pairs; retrieves test partners with them, and with untrained ones.

    Args:
        train: Pairs to train on.
        test: Pairs to score on, all different.
        steps: Training steps.
        batch_size: Pairs a step.
        seed: Draws weights and order.

    Returns:
        Of `trained`, `untrained` and `chance`.

    Example:
        >>> compare(make_pairs("train", 500, 0), make_pairs("test", 50, 1, distinct=True),
        ...         steps=50, batch_size=64, seed=0)["trained"].pictures
    """
    with isolated(seed=seed):
        model = DualEncoder(
            picture_encoder(),
            caption_encoder(),
            ProjectionHead("linear", _WIDTH),
            ProjectionHead("linear", _WIDTH),
            seed=seed,
        )
        pair = (test.images, test.ids)
        untrained = recalls(*model.predict(pair, verbose=0))
        pretrain(model, (train.images, train.ids), steps=steps, batch_size=batch_size, seed=seed)
        trained = recalls(*model.predict(pair, verbose=0))
    by_chance = tuple(min(k / len(test.ids), 1.0) for k in _AT)
    return {
        "trained": trained,
        "untrained": untrained,
        "chance": Recalls(by_chance, by_chance),
    }


def recalls(first: np.ndarray, second: np.ndarray) -> Recalls:
    """Returns recall at 1 and at 5, from the first side to the second and back, by the cosine.

    Args:
        first: (N, d) embeddings; the partner of row i is row i of the other side.
        second: (N, d).

    Example:
        >>> recalls(np.eye(3), np.eye(3)).captions
        (1.0, 1.0)
    """
    found = []
    for queries, gallery in ((first, second), (second, first)):
        most = min(max(_AT), len(gallery))
        _, nearest = nearest_by_cosine(gallery, queries, most)
        right = nearest == np.arange(len(queries))[:, None]
        found.append(tuple(float(right[:, :k].any(axis=1).mean()) for k in _AT))
    return Recalls(*found)
