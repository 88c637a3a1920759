"""Finds a data set of TensorFlow Datasets by name, and prepares it if necessary."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

from absl import logging

from simclr_tf.errors import UserError
from simclr_tf.files.load_failures import explain

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Kinds of failure that keep a data set with a valid name from being opened.
_MACHINE = ("network", "refused", "certificate", "forbidden", "disk", "package", "memory")


def is_tfds_name(dataset: str) -> bool:
    """Returns whether TFDS knows the name before the first `/` or `:`; asks no network."""
    import tensorflow_datasets as tfds

    name = dataset.split("/")[0].split(":")[0]
    return name in tfds.list_builders(with_community_datasets=False)


def prepared_builder(
    dataset: str,
    data_dir: str | None,
    kinds: str = "mnist_5k, a folder, list or table of images",
) -> tfds.core.DatasetBuilder:
    """Returns a builder whose data are on disk; downloads and prepares them if necessary.

    Args:
        dataset: Name, with config and version if wanted.
        data_dir: Where prepared data lie or go; None: TFDS's own folder.
        kinds: What else the name could have been, for errors.

    Raises:
        UserError: The name is unknown, or the data can't be prepared.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        pass  # not prepared yet
    except Exception as error:  # TFDS raises many kinds for a name that it cannot parse
        raise _unopened(dataset, error) from error
    try:
        builder = tfds.builder(dataset, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(dataset.split("/")[0].split(":")[0], known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(
            f"Expected {kinds}, or the name of a TensorFlow Datasets data set; received: "
            f"'{dataset}', which is none of them.{hint}"
        ) from error
    except Exception as error:
        raise _unopened(dataset, error) from error
    if not builder.info.splits:
        _prepare(builder, dataset, data_dir)
    return builder


def _prepare(builder: tfds.core.DatasetBuilder, dataset: str, data_dir: str | None) -> None:
    """Downloads and prepares a data set."""
    logging.info("Preparing '%s' in %s", dataset, builder.data_dir)
    try:
        builder.download_and_prepare()
    except Exception as error:  # no network, no space, a moved file, archives to fetch by hand ...
        by_hand = ""
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            by_hand = (
                "; its archives must be fetched by hand and put into "
                f"{os.path.join(data_dir or '~/tensorflow_datasets', 'downloads', 'manual')}"
            )
        failure = explain(error, cache=data_dir or "~/tensorflow_datasets")
        advice = failure.advice
        if not advice or by_hand or failure.kind in ("network", "refused", "certificate"):
            advice = (
                'On a machine with network run python -c "import tensorflow_datasets as tfds; '
                f"tfds.builder('{dataset}', data_dir='DIR').download_and_prepare()\", copy DIR "
                "here and pass --data_dir=DIR."
            )
        raise UserError(
            f"Expected '{dataset}' to be prepared or downloadable; received: {failure.reason}"
            f"{by_hand}. {advice}"
        ) from error


def _unopened(dataset: str, error: Exception) -> UserError:
    failure = explain(error)
    # For a name that TFDS cannot parse there is no advice, only its message.
    advice = f" {failure.advice}" if failure.kind in _MACHINE else ""
    return UserError(
        "Expected a TensorFlow Datasets name such as cifar10 or imagenet2012_subset/1pct; "
        f"received: '{dataset}' ({failure.reason}).{advice}"
    )
