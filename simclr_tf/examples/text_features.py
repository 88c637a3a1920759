"""Text: a small transformer of sentences, trained without labels, beside bag-of-words."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.examples.frozen import Labelled, compare_features
from simclr_tf.examples.sentences import LENGTH, MASKED, WORDS, Sentences

_WIDTH = 64
_HEADS = 2
_DROPOUT = 0.1  # draws anew for each view, as in SimCSE
_SHARE_MASKED = 0.3
_TEMPERATURE = 0.1


@register
class Positions(keras.layers.Layer):
    """Adds a learned vector to each position: (N, length, d) to the same shape."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.vectors = self.add_weight(
            name="vectors", shape=tuple(input_shape[1:]), initializer="random_normal"
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + tf.cast(tf.convert_to_tensor(self.vectors), inputs.dtype)


def sentence_encoder() -> keras.Model:
    """Returns one transformer block and a mean over words: {"ids", "mask"} to features (N, 64)."""
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    mask = keras.Input((LENGTH,), dtype="float32", name="mask")
    x = Positions()(keras.layers.Embedding(len(WORDS) + 2, _WIDTH)(ids))
    x = keras.layers.Dropout(_DROPOUT)(x)
    seen = keras.layers.RepeatVector(LENGTH)(mask)  # (N, from, to): which words a word may see
    attended = keras.layers.MultiHeadAttention(_HEADS, _WIDTH // _HEADS)(x, x, attention_mask=seen)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attended]))
    hidden = keras.layers.Dense(_WIDTH)(keras.layers.Dense(2 * _WIDTH, activation="relu")(x))
    hidden = keras.layers.Dropout(_DROPOUT)(hidden)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, hidden]))
    total = keras.layers.Dot(axes=1)([mask, x])  # of the words, without padding
    return keras.Model({"ids": ids, "mask": mask}, keras.layers.UnitNormalization()(total))


def masked_words(inputs: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Replaces three of ten words by the masked word.

    Args:
        inputs: {"ids": int32 (N, length), "mask": float32 (N, length)}.
        seed: int32 (2,).

    Example:
        >>> SimCLR(sentence_encoder(), augment=masked_words, input_kind="any")
    """
    ids = inputs["ids"]
    chosen = tf.random.stateless_uniform(tf.shape(ids), seed, alg="philox") < _SHARE_MASKED
    return {**inputs, "ids": tf.where(chosen & (inputs["mask"] > 0), MASKED, ids)}


def bag_of_words(ids: np.ndarray) -> np.ndarray:
    """Returns how often each word occurs, float32 (N, words)."""
    counts = np.zeros((len(ids), len(WORDS) + 2), np.float32)
    np.add.at(counts, (np.arange(len(ids))[:, None], ids), 1.0)
    return counts[:, 2:]


def compare(
    train: Sentences, test: Sentences, *, labelled: int, steps: int, batch_size: int, seed: int
) -> dict[str, float]:
    """Pretrains on sentences without topics; scores features by logistic regression on a few.

    Args:
        train: Sentences to train on; topics of `labelled` of them are used afterwards.
        test: Sentences to score on.
        labelled: Sentences that logistic regression learns from.
        steps: Training steps.
        batch_size: Sentences a step.
        seed: Draws weights, order, views and the labelled sentences.

    Returns:
        Accuracy of the topic on the test sentences, in [0, 1], of `pretrained`, `untrained` and
        `bag-of-words`.

    Raises:
        UserError: Too few labelled sentences.

    Source: Dropout in the encoder as a view: Gao et al. 2021, SimCSE (arXiv:2104.08821), section 3.

    Example:
        >>> compare(make_sentences(500, 0), make_sentences(100, 1), labelled=60, steps=20,
        ...         batch_size=64, seed=0)["pretrained"]
    """
    return compare_features(
        sentence_encoder,
        ("bag-of-words", lambda inputs: bag_of_words(inputs["ids"])),
        Labelled(train.inputs(), train.topics),
        Labelled(test.inputs(), test.topics),
        labelled=labelled,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        augment=masked_words,
        temperature=_TEMPERATURE,
        loss="info_nce",
    )
