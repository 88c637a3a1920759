"""Log-mel spectrograms, and random views of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

MELS = 32
_WINDOW, _STEP = 0.025, 0.0125  # seconds
_LOWEST = 80.0  # Hz
_FLOOR = 1e-3  # added before the logarithm: digital silence has none
_ROWS = 256  # clips at a time

_SHIFT = 0.25  # of the clip, each way, in time
_BANDS = 2  # each way, in frequency: another speaker
_TIME_MASK, _MEL_MASK = 0.25, 0.2  # the longest, as shares
_LOUDNESS = 1.0  # of the standardised logarithm
_NOISE = 0.3


def log_mel(waves: np.ndarray, rate: int) -> np.ndarray:
    """Returns log-mel spectrograms, each of mean 0 and standard deviation 1.

    Args:
        waves: float32 (N, samples).
        rate: Samples a second.

    Returns:
        float32 (N, frames, 32): a frame each 12.5 ms, bands from 80 Hz to half the rate.

    Source: HTK's mel scale, as `tf.signal.linear_to_mel_weight_matrix`.

    Example:
        >>> log_mel(np.zeros([2, 8000], "float32"), rate=8000).shape
        (2, 79, 32)
    """
    window, step = round(_WINDOW * rate), round(_STEP * rate)
    points = 2 ** int(np.ceil(np.log2(window)))
    bands = tf.signal.linear_to_mel_weight_matrix(MELS, points // 2 + 1, rate, _LOWEST, rate / 2)
    parts = []
    for start in range(0, len(waves), _ROWS):
        spectra = tf.signal.stft(waves[start : start + _ROWS], window, step, points)
        logarithm = tf.math.log(tf.abs(spectra) @ bands + _FLOOR).numpy()
        parts.append(logarithm)
    found = np.concatenate(parts)
    found -= found.mean(axis=(1, 2), keepdims=True)
    return found / np.maximum(found.std(axis=(1, 2), keepdims=True), 1e-6)


class Drawn(NamedTuple):
    """The random parameters of N views.

    Attributes:
        shifts: (N, 2) int32, frames and bands.
        time_mask: (N, 2) float32, begin and length as shares of the clip.
        mel_mask: (N, 2), likewise of the bands.
        loudness: (N,).
        noise: (N, frames, bands).
    """

    shifts: tf.Tensor
    time_mask: tf.Tensor
    mel_mask: tf.Tensor
    loudness: tf.Tensor
    noise: tf.Tensor


def draw(shape: tf.Tensor, seed: tf.Tensor) -> Drawn:
    """Draws the parameters of views.

    Args:
        shape: (3,) of the spectrograms: N, frames, bands.
        seed: int32 (2,).
    """
    count, frames = shape[0], tf.cast(shape[1], tf.float32)

    def uniform(number: int, columns: int) -> tf.Tensor:
        own = seed + tf.constant([0, number << 24])
        return tf.random.stateless_uniform([count, columns], own, alg="philox")

    most = tf.stack([_SHIFT * frames, float(_BANDS)])
    shifts = tf.cast(tf.round((2 * uniform(1, 2) - 1) * most), tf.int32)
    masks = []
    for number, longest in ((2, _TIME_MASK), (3, _MEL_MASK)):
        place, length = tf.unstack(uniform(number, 2), axis=1)
        length *= longest
        masks.append(tf.stack([place * (1 - length), length], axis=1))
    loudness = _LOUDNESS * (2 * uniform(4, 1)[:, 0] - 1)
    own = seed + tf.constant([0, 5 << 24])
    noise = _NOISE * tf.random.stateless_normal(shape, own, alg="philox")
    return Drawn(shifts, masks[0], masks[1], loudness, noise)


def apply(spectrograms: tf.Tensor, drawn: Drawn) -> tf.Tensor:
    """Makes views of the drawn parameters.

    What a shift uncovers is the edge, repeated; what a mask covers is 0, the mean.

    Args:
        spectrograms: float32 (N, frames, bands).
        drawn: Of N views.

    Source: Masks: SpecAugment, Park et al. 2019 (arXiv:1904.08779), section 2.
    """
    shape = tf.shape(spectrograms)
    moved = spectrograms
    for axis in (1, 2):
        places = tf.range(shape[axis]) - drawn.shifts[:, axis - 1 : axis]
        places = tf.clip_by_value(places, 0, shape[axis] - 1)
        moved = tf.gather(moved, places, axis=axis, batch_dims=1)
    moved += drawn.loudness[:, None, None] + drawn.noise
    kept = []
    for axis, mask in ((1, drawn.time_mask), (2, drawn.mel_mask)):
        share = (tf.cast(tf.range(shape[axis]), tf.float32) + 0.5) / tf.cast(
            shape[axis], tf.float32
        )
        covered = (share >= mask[:, :1]) & (share < mask[:, :1] + mask[:, 1:])
        kept.append(tf.cast(~covered, tf.float32))
    return moved * kept[0][:, :, None] * kept[1][:, None, :]


def spectrogram_views(spectrograms: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns random views: shifted in time and frequency, masked, louder or softer, noisy.

    Args:
        spectrograms: float32 (N, frames, bands).
        seed: int32 (2,).

    Example:
        >>> SimCLR(encoder, augment=spectrogram_views, input_kind="any")
    """
    return apply(spectrograms, draw(tf.shape(spectrograms), seed))
