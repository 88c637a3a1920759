"""Prepared TFDS data sets of a few images, made on the spot and offline."""

from __future__ import annotations

import numpy as np

SIZE = 23


def make_builder(
    set_name, *, channels=3, size=(9, 11), labels="class", dtype=np.uint8, config=None
):
    """Returns a TFDS builder class that is registered nowhere: reading must work from files."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = set_name
            VERSION = tfds.core.Version("1.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                features = {"image": tfds.features.Image(shape=(*size, channels), dtype=dtype)}
                if labels is not None:
                    features["label"] = tfds.features.ClassLabel(names=["x", "y", "z"])
                features["note"] = tfds.features.Text()
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label") if labels is not None else None,
                )

            def _split_generators(self, manager):
                return {
                    "train": self._generate_examples(range(SIZE)),
                    "test": self._generate_examples(range(100, 107)),
                }

            def _generate_examples(self, values):
                for value in values:
                    shape = tuple(side or 5 + value % 3 for side in size)
                    pixel = value * (257 if dtype == np.uint16 else 1)
                    example = {"image": np.full((*shape, channels), pixel, dtype), "note": "n"}
                    if labels is not None:
                        example["label"] = -1 if labels == "missing" else value % 3
                    yield value, example

    return Builder


def prepare(tmp_path, name, *, config=None, file_format=None, **options):
    import tensorflow_datasets as tfds

    builder_class = make_builder(name, config=config, **options)
    builder = builder_class(data_dir=str(tmp_path), config=config, file_format=file_format)
    writer = tfds.download.DownloadConfig(num_shards=4)
    builder.download_and_prepare(download_config=writer)
