"""Chosen records of a data set that is read in sequence, kept in memory for every epoch."""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf
from absl import logging

from simclr_tf.datasets.positions import flags_at, keep_flagged, on_host
from simclr_tf.datasets.source import ImageSource, IndexedSource
from simclr_tf.datasets.tuning import untuned
from simclr_tf.devices.memory import in_words, machine_memory
from simclr_tf.errors import UserError


class ChosenRecords(IndexedSource):
    """Chosen records, undecoded; they are read in one pass when the first of them is asked for.

    Args:
        whole: The data set; its keys are serialised records, scalar strings.
        positions: int64 (n,), ascending: which, in the fixed order.
        record_bytes: About how large one is.

    Raises:
        UserError: They would take more than half of this machine's memory.

    Example:
        >>> ChosenRecords(open_tfds("cifar10", "train"), np.arange(0, 50_000, 100), 2_000)
    """

    def __init__(self, whole: ImageSource, positions: np.ndarray, record_bytes: int) -> None:
        super().__init__(
            name=whole.name,
            split=whole.split,
            num_examples=len(positions),
            num_classes=whole.num_classes,
            class_names=whole.class_names,
            image_shape=whole.image_shape,
        )
        need, have = len(positions) * record_bytes, machine_memory()
        if have is not None and need > have / 2:
            raise UserError(
                f"Expected the chosen images of '{whole.name}' to fit in half of this machine's "
                f"memory ({in_words(have / 2)}); received: {len(positions)} of about "
                f"{in_words(need)}. Choose fewer, or a split such as train[:10%]."
            )
        self._whole, self._positions, self._record_bytes = whole, positions, record_bytes
        self._records: tf.Tensor | None = None
        self._shown: tf.Tensor | None = None  # bool (n,): labels that are not hidden

    def _load(self) -> tf.Tensor:
        # tf.data may be tracing a function now: this must run outside of it.
        with tf.init_scope(), tf.device("CPU:0"):
            if self._records is None:
                logging.info("Reading %d records of '%s' ...", self.num_examples, self.name)
                records = keep_flagged(self._whole.ordered_keys(), flags_at(self._positions))
                held = list(untuned(records).prefetch(64).as_numpy_iterator())
                self._records = tf.constant(held, tf.string)
        return self._records

    def decode(
        self, key: tf.Tensor, *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Decodes the record with index `key`, as the whole data set does."""
        record = tf.gather(self._load(), key)
        example = self._whole.decode(record, min_side=min_side, replace_bad=replace_bad)
        if self._shown is not None:
            example["label"] = tf.where(tf.gather(self._shown, key), example["label"], -1)
        return example

    def _read_labels(self) -> np.ndarray:
        labels = self._whole.read_labels()[self._positions]
        return labels if self._shown is None else np.where(self._shown.numpy(), labels, -1)

    def image_key(self, *said: object) -> str | None:
        """Returns a checksum of the whole data set's files and of which records are chosen."""
        return self._whole.image_key(*said, self._positions.tolist())

    def subset(self, positions: np.ndarray) -> ChosenRecords:
        """Returns a source of some of these records, which are not read again."""
        chosen = ChosenRecords(self._whole, self._positions[positions], self._record_bytes)
        with tf.device("CPU:0"):
            for name in ("_records", "_shown"):
                values = getattr(self, name)
                setattr(chosen, name, None if values is None else tf.gather(values, positions))
        return chosen

    def hide_labels(self, shown: np.ndarray) -> ChosenRecords:
        """Returns a source of the same records whose labels are -1 but at these positions."""
        self._require_labels()
        hidden = copy.copy(self)
        flags = flags_at(shown, self.num_examples)
        if self._shown is not None:  # what is hidden already stays hidden
            flags &= self._shown.numpy()
        hidden._shown = on_host(flags)
        return hidden
