"""Speech: an encoder of spectrograms, trained without labels, beside the untrained one."""

from __future__ import annotations

import numpy as np
from tensorflow import keras

from simclr_tf.examples.frozen import Labelled, compare_features
from simclr_tf.examples.sounds import Clips
from simclr_tf.examples.spectrograms import log_mel, spectrogram_views

_TEMPERATURE = 0.2


def spectrogram_encoder(frames: int, bands: int) -> keras.Model:
    """Returns convolutions over time: spectrograms (N, frames, bands) to features (N, 128)."""
    inputs = keras.Input((frames, bands), name="spectrogram")
    x = inputs
    for width, stride in ((64, 2), (96, 2), (128, 2)):
        x = keras.layers.Conv1D(width, 5, stride, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))


def compare(
    train: Clips, test: Clips, *, labelled: int, steps: int, batch_size: int, seed: int
) -> dict[str, float]:
    """Pretrains on clips without labels; scores features by logistic regression on a few labels.

    Args:
        train: Clips to train on; labels of `labelled` of them are used afterwards.
        test: Clips to score on, as long as the others.
        labelled: Clips that logistic regression learns from.
        steps: Training steps.
        batch_size: Clips a step.
        seed: Draws weights, order, views and the labelled clips.

    Returns:
        Accuracy on the test clips, in [0, 1], of `pretrained`, `untrained` and `spectrograms`.

    Raises:
        UserError: Too few labelled clips.

    Example:
        >>> compare(make_words(500, 0), make_words(100, 1), labelled=50, steps=20, batch_size=32,
        ...         seed=0)["pretrained"]
    """
    known, unknown = (Labelled(log_mel(c.waves, c.rate), c.labels) for c in (train, test))
    return compare_features(
        lambda: spectrogram_encoder(*known.inputs.shape[1:]),
        ("spectrograms", np.asarray),
        known,
        unknown,
        labelled=labelled,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        augment=spectrogram_views,
        temperature=_TEMPERATURE,
    )
