"""Data sets of TensorFlow Datasets as sources; prepared ones need no network."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from absl import logging

from simclr_tf.datasets.chosen_records import ChosenRecords
from simclr_tf.datasets.image_key import image_key
from simclr_tf.datasets.positions import flags_at, on_host, only_at
from simclr_tf.datasets.shuffling import random_order, shuffle_for_epoch
from simclr_tf.datasets.source import ImageSource, Key
from simclr_tf.datasets.splits import SplitRange, resolve_split
from simclr_tf.datasets.tfds_builder import prepared_builder
from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values, transparency, transparency_ops

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_READ_FILES_AT_ONCE = 16
_GUESSED_RECORD_BYTES = 100_000  # about an ImageNet JPEG, where the data set does not say


def open_tfds(
    dataset: str,
    split: str,
    *,
    data_dir: str | None = None,
    transparent: str = transparency.DEFAULT,
) -> TfdsSource:
    """Opens a TFDS data set; downloads and prepares it first if necessary.

    A version that is already prepared in `data_dir` is used as it is, also where the installed
    tensorflow-datasets has a newer one or none: that needs no network.

    Args:
        dataset: name, with config and version if wanted: `cifar10`, `imagenet2012_subset/1pct`.
        split: a split expression.
        data_dir: where prepared data lie or go; None is TFDS's own default.
        transparent: what shows through transparent pixels: white, black, keep or mean (see
            `transparency.composite`).

    Returns:
        A source of RGB images. It has labels if the data set has a class label.

    Raises:
        UserError: name, config or split are unknown, preparing fails, or there are no images.

    Example:
        >>> open_tfds("cifar10", "train[:80%]", data_dir="~/tensorflow_datasets")
    """
    builder = prepared_builder(dataset, os.path.expanduser(data_dir) if data_dir else None)
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    ranges = resolve_split(split, sizes, dataset=dataset)
    return TfdsSource(dataset, split, builder, ranges, transparent)


class TfdsSource(ImageSource):
    """Records of a prepared TFDS data set; a key is one serialised, undecoded record.

    Shuffling takes the files in an order drawn for the epoch, reads 16 of them at a time and
    shuffles their records through a buffer; where the buffer holds all records (it usually does:
    records are compressed images) the order is a uniform permutation.
    """

    num_examples: int  # never None here

    def __init__(
        self,
        dataset: str,
        split: str,
        builder: tfds.core.DatasetBuilder,
        ranges: list[SplitRange],
        transparent: str = transparency.DEFAULT,
    ) -> None:
        import tensorflow_datasets as tfds

        info = builder.info
        if info.file_format is not None and info.file_format.value != "tfrecord":
            raise UserError(
                f"Expected '{dataset}' to be prepared as tfrecord files; received: "
                f"{info.file_format.value}. Prepare it in another --data_dir."
            )
        self._image_key, self._label_key = _image_and_label_keys(dataset, info)
        image_shape = info.features[self._image_key].shape
        super().__init__(
            name=dataset,
            split=split,
            num_examples=sum(r.stop - r.start for r in ranges),
            image_shape=(image_shape[0], image_shape[1], 3),
        )
        wanted = {key: True for key in (self._image_key, self._label_key) if key is not None}
        # Other features, masks for example, are not even decoded.
        self._features = tfds.decode.PartialDecoding(wanted).extract_features(info.features)
        self._transparent = transparent
        # TFDS decodes to the number of channels that a data set declares. With three, the opacity
        # in the file is lost, so those files are decoded here. 16-bit and float images are encoded
        # by TFDS itself and are left to it.
        feature = info.features[self._image_key]
        self._decodes_files = (
            transparent != "keep"
            and feature.dtype == np.uint8
            and feature.encoding_format != "jpeg"
            and feature.shape[-1] in (1, 3, 4)
        )
        self._channels = 1 if feature.shape[-1] == 1 else 3
        self._labels: np.ndarray | None = None  # int64 (N,), once they are read
        self._shown: tf.Tensor | None = None  # bool (N,): labels that are not hidden
        splits = [info.splits[r.name] for r in ranges]
        stored = sum(s.num_bytes or 0 for s in splits) // sum(s.num_examples for s in splits)
        self._record_bytes = stored or _GUESSED_RECORD_BYTES
        self._files = _files_of(info, ranges)
        if self._label_key is not None:
            alone = tfds.decode.PartialDecoding({self._label_key: True})
            self._label_feature = alone.extract_features(info.features)
            self._use_labels(info.features[self._label_key])

    def _use_labels(self, feature: tfds.features.ClassLabel) -> None:
        first = next(iter(self.ordered_keys().take(1).map(self._features.deserialize_example)))
        if int(first[self._label_key]) < 0:
            # As in stl10/unlabelled and the test split of imagenet2012: -1 stands for "not given".
            logging.info("'%s' gives no labels for split %s.", self.name, self.split)
            return
        self.num_classes = feature.num_classes
        self.class_names = list(feature.names or map(str, range(feature.num_classes)))

    def ordered_keys(self) -> tf.data.Dataset:
        """Returns the records in the order of the files."""
        return tf.data.Dataset.from_tensor_slices(self._files).flat_map(self._read)

    def shuffled_keys(self, epoch: tf.Tensor, seed: int, buffer_bytes: int) -> tf.data.Dataset:
        """Returns the records shuffled through a buffer of at most `buffer_bytes`."""
        names = self._files[0]
        order = random_order(len(names), seed, epoch)
        files = tf.data.Dataset.from_tensor_slices(
            tuple(tf.gather(values, order) for values in self._files)
        )
        records = files.interleave(
            self._read,
            cycle_length=min(_READ_FILES_AT_ONCE, len(names)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        buffer = max(1, min(self.num_examples, buffer_bytes // self._record_bytes))
        return shuffle_for_epoch(records, buffer, seed, epoch)

    def decode(
        self, key: Key, *, min_side: int | None = None, replace_bad: bool = False
    ) -> dict[str, tf.Tensor]:
        """Decodes one record to RGB: grey repeated, 16 bits scaled to 8, opacity composited."""
        del min_side, replace_bad  # TFDS has checked the images when it prepared them
        record, shown = (key["record"], key["shown"]) if isinstance(key, dict) else (key, None)
        if self._decodes_files:
            import tensorflow_datasets as tfds

            as_files = {self._image_key: tfds.decode.SkipDecoding()}
            features = self._features.deserialize_example(record, decoders=as_files)
            file = features[self._image_key]
            image = transparency_ops.decode_encoded(file, self._channels, self._transparent)
        else:
            features = self._features.deserialize_example(record)
            image = features[self._image_key]
        image = pixel_values.checked(image)
        if image.dtype == tf.uint16:
            image = tf.cast((tf.cast(image, tf.int32) * 255 + 32767) // 65535, tf.uint8)
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        if image.shape[-1] == 4:
            image = transparency_ops.composite(image, self._transparent)
        image = image[..., :3]
        image = tf.ensure_shape(image, self.image_shape)
        example = {"image": image, "size": tf.shape(image)[:2], "ok": tf.constant(True)}
        if self.labelled:
            label = tf.cast(features[self._label_key], tf.int64)
            example["label"] = label if shown is None else tf.where(shown, label, -1)
        return example

    def _read(
        self, path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor, first: tf.Tensor
    ) -> tf.data.Dataset:
        """Returns the keys of one file."""
        records = tf.data.TFRecordDataset(path).skip(skip).take(take)
        if self._shown is None:
            return records
        shown = tf.data.Dataset.from_tensor_slices(self._shown[first : first + take])
        pairs = tf.data.Dataset.zip((records, shown))
        return pairs.map(lambda record, flag: {"record": record, "shown": flag})

    def _read_labels(self) -> np.ndarray:
        """Reads all records once, at the first call, and decodes no image."""
        if self._labels is not None:
            return self._labels
        logging.info("Reading the %d labels of '%s' ...", self.num_examples, self.name)

        def label_of(record: tf.Tensor) -> tf.Tensor:
            example = self._label_feature.deserialize_example(record)
            return tf.cast(example[self._label_key], tf.int64)

        labels = self.ordered_keys().map(label_of, tf.data.AUTOTUNE, deterministic=True)
        self._labels = np.fromiter(untuned(labels).prefetch(1024).as_numpy_iterator(), np.int64)
        return self._labels

    def image_key(self, *said: object) -> str | None:
        """Returns a checksum of the files, of which records are taken, and how they are decoded."""
        names, *numbers = self._files
        places = [each.numpy().tolist() for each in numbers]
        return image_key((*said, names, places, self._image_key, self._transparent), names)

    def subset(self, positions: np.ndarray) -> ChosenRecords:
        """Returns a source of only the records at these positions, which it keeps in memory."""
        whole = copy.copy(self)
        whole._shown = None  # the chosen records keep their own flags
        chosen = ChosenRecords(whole, positions, self._record_bytes)
        if self._shown is not None:
            return chosen.hide_labels(np.flatnonzero(self._shown.numpy()[positions]))
        return chosen

    def hide_labels(self, shown: np.ndarray) -> TfdsSource:
        """Returns a source of the same records whose labels are -1 but at these positions."""
        hidden = copy.copy(self)
        flags = flags_at(shown, self.num_examples)
        if self._shown is not None:  # what is hidden already stays hidden
            flags &= self._shown.numpy()
        hidden._labels = only_at(self.read_labels(), shown)
        hidden._shown = on_host(flags)
        return hidden


def _files_of(
    info: tfds.core.DatasetInfo, ranges: list[SplitRange]
) -> tuple[list[str], tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the files of ranges: paths; int64 records to skip, to take, and taken before."""
    # Absolute ranges such as 'train[3:8]', of which TFDS finds the files.
    slices = [f"{r.name}[{r.start}:{r.stop}]" for r in ranges]
    files = [f for part in slices for f in info.splits[part].file_instructions]
    takes = np.array([f.take for f in files], np.int64)
    return (
        [os.fspath(f.filename) for f in files],
        tf.constant([f.skip for f in files], tf.int64),
        tf.constant(takes),
        tf.constant(np.cumsum(takes) - takes),
    )


def _image_and_label_keys(dataset: str, info: tfds.core.DatasetInfo) -> tuple[str, str | None]:
    """Returns the feature names that `as_supervised` stands for; None for a missing label."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items()) if hasattr(info.features, "items") else {}

    def holds(key: object, kind: type) -> bool:
        return isinstance(key, str) and isinstance(features.get(key), kind)

    supervised = tuple(info.supervised_keys or ())
    image_key, label_key = supervised[:2] if len(supervised) >= 2 else ("image", "label")
    image_key = image_key if holds(image_key, tfds.features.Image) else "image"
    if not holds(image_key, tfds.features.Image):
        raise UserError(
            f"Expected a data set of images; received: '{dataset}', whose features are "
            f"{', '.join(features)}."
        )
    return image_key, label_key if holds(label_key, tfds.features.ClassLabel) else None
