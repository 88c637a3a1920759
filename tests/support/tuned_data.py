"""Sees which data sets TensorFlow would tune while they are iterated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tensorflow as tf


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each data set that was iterated since the test began, in turn: whether it is tuned."""
    found: list[bool] = []
    iterate = tf.data.Dataset.__iter__

    def spied(data: tf.data.Dataset) -> Iterator[object]:
        found.append(data.options().autotune.enabled is not False)
        return iterate(data)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", spied)
    return found
