"""Spoken-like words, synthesised from a seed, or clips of a TFDS data set."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from simclr_tf.datasets.tfds_builder import prepared_builder
from simclr_tf.errors import UserError

RATE = 8000  # samples a second, of synthesised words
_SECONDS = 0.4
# The first two formants of five vowels, in Hz.
_FORMANTS = {"a": (750, 1200), "e": (480, 1900), "i": (300, 2300), "o": (470, 850), "u": (320, 700)}
WORDS = ("ai", "ia", "oe", "eo", "ua", "au", "iu", "ui", "eao", "oae")
_BANDWIDTH = 110.0  # of a formant, in Hz
_PITCH = (85.0, 250.0)  # Hz
_SPEED = (0.5, 1.0)  # share of the clip that the word fills
_TRACT = (0.88, 1.14)  # a speaker's factor of all formants
_NOISE = (0.05, 0.5)  # its standard deviation, as a share of the word's


class Clips(NamedTuple):
    """Sounds of one length.

    Attributes:
        waves: float32 (N, samples), in [-1, 1] or so.
        labels: int64 (N,).
        rate: Samples a second.
    """

    waves: np.ndarray
    labels: np.ndarray
    rate: int


def make_words(count: int, seed: int) -> Clips:
    """Synthesises words of two or three vowels: harmonics of a random pitch, shaped by formants.

    Pairs of words, as "ai" and "ia", have the same vowels in another order. Pitch, its slope,
    speed, place in the clip, the speaker's formants, loudness and noise are random.

    Args:
        count: N.
        seed: Of all draws; fewer words are the beginning of more.

    Returns:
        0.4 seconds each, at 8,000 samples a second.

    Example:
        >>> make_words(100, seed=0).waves.shape
        (100, 3200)
    """
    samples = int(RATE * _SECONDS)
    waves = np.zeros((count, samples), np.float32)
    labels = np.zeros(count, np.int64)
    for index in range(count):
        random = np.random.RandomState((seed, index))
        labels[index] = random.randint(len(WORDS))
        waves[index] = _word(WORDS[labels[index]], samples, random)
    return Clips(waves, labels, RATE)


def _word(vowels: str, samples: int, random: np.random.RandomState) -> np.ndarray:
    length = int(samples * random.uniform(*_SPEED))
    start = random.randint(samples - length + 1)
    pitch = random.uniform(*_PITCH) * np.linspace(1.0, random.uniform(0.8, 1.2), length)
    tract = random.uniform(*_TRACT)
    loudness = random.uniform(0.3, 1.0)
    noise = random.uniform(*_NOISE)
    # Formants stay on a vowel, then glide to the next.
    places = np.linspace(0, len(vowels) - 1, length)
    places = np.floor(places) + np.clip((places % 1 - 0.25) / 0.5, 0, 1)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = np.arange(1, int(RATE / 2 / pitch.max()) + 1)[:, None]
    strength = np.zeros((len(harmonics), length))
    for formant, share in ((0, 1.0), (1, 0.6)):
        known = [tract * _FORMANTS[vowel][formant] for vowel in vowels]
        centre = np.interp(places, np.arange(len(vowels)), known)
        strength += share / (1 + ((harmonics * pitch - centre) / _BANDWIDTH) ** 2)
    sound = (strength * np.sin(harmonics * phase)).sum(0) * np.hanning(length) ** 0.5
    sound *= loudness / max(np.abs(sound).max(), 1e-6)
    wave = random.normal(0, noise * sound.std(), samples)
    wave[start : start + length] += sound
    return wave.astype(np.float32)


def read_clips(
    dataset: str, split: str, count: int, data_dir: str | None, seconds: float = 1.0
) -> Clips:
    """Reads labelled clips of a TFDS data set, such as `speech_commands`.

    What is not on disk yet is downloaded and prepared first.

    Args:
        dataset: Its name; it must have features `audio` and `label`.
        split: Name of a split.
        count: Clips at most, from the front.
        data_dir: Where prepared data lie or go; None: TFDS's own folder.
        seconds: Longer clips are cut at the end, shorter ones padded by silence.

    Raises:
        UserError: It is unknown, can't be prepared, has no such features or split, or no clip.

    Example:
        >>> read_clips("speech_commands", "train", 2000, data_dir=None)
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(dataset, data_dir and os.path.expanduser(data_dir), kinds="words")
    features = builder.info.features
    audio, label = (dict(features.items()).get(key) for key in ("audio", "label"))
    if not isinstance(audio, tfds.features.Audio) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f"Expected a data set with the features audio and label; received: {dataset!r} with "
            f"{', '.join(features)}. Choose another --dataset."
        )
    rate = int(audio.sample_rate or 16_000)
    samples = int(rate * seconds)
    if split not in builder.info.splits:
        raise UserError(
            f"Expected a data set with the split {split}; received: {dataset!r} with "
            f"{', '.join(builder.info.splits)}. Choose another --dataset."
        )
    data = builder.as_dataset(split=split, shuffle_files=False)
    waves, labels = [], []
    for example in tfds.as_numpy(data.take(count)):
        wave = np.asarray(example["audio"], np.float32).reshape(-1)[:samples] / 2.0**15
        waves.append(np.pad(wave, (0, samples - len(wave))))
        labels.append(int(example["label"]))
    if not waves:
        raise UserError(f"Expected clips in {dataset!r}, split {split!r}; received: none.")
    return Clips(np.stack(waves), np.array(labels), rate)
