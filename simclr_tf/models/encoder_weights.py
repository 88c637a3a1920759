"""Initial weights of an encoder: published by Keras, or from a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.files.load_failures import explain
from simclr_tf.models.applications import (
    adaptive_normalizations,
    donor_statistics,
    set_statistics,
)
from simclr_tf.models.keras_files import load_keras


def load_weights(
    encoder: keras.Model, name: str, weights: str, donor: Callable[[str], keras.Model] | None
) -> None:
    """Fills an encoder from published weights or a file.

    Args:
        encoder: As `make_encoder` builds it.
        name: Name of the encoder, for errors.
        weights: `imagenet`, or the path of a `.weights.h5`, `.h5` or `.keras` file.
        donor: From `imagenet` or a path to the network as its library builds it, with weights;
            None: there are no published weights.

    Raises:
        UserError: No such weights, or they do not fit.
    """
    if weights == "imagenet":
        _load_published(encoder, name, donor)
    else:
        _load_file(encoder, name, weights, donor)


def _load_published(
    encoder: keras.Model, name: str, donor: Callable[[str], keras.Model] | None
) -> None:
    if donor is None:
        raise UserError(
            f"Expected weights=None or a file for the encoder {name!r}; received: 'imagenet'. "
            "It has no weights published by Keras; a network of keras.applications has."
        )
    if encoder.input_shape[-1] != 3:
        raise UserError(
            "Expected 3 channels for published weights; "
            f"received: {encoder.input_shape[-1]}. Pass weights=None."
        )
    try:
        _copy(donor("imagenet"), encoder)
    except Exception as error:  # of a download, a file or a network: `explain` tells which
        failure = explain(error)
        raise UserError(
            f"Expected the published weights of {name}; received: {failure.reason}. "
            f"{failure.advice} Or pass the path of a weights file.".replace("  ", " ")
        ) from error


def _load_file(
    encoder: keras.Model, name: str, weights: str, donor: Callable[[str], keras.Model] | None
) -> None:
    path = os.path.expanduser(weights)
    if not os.path.isfile(path):
        found = "is a folder" if os.path.isdir(path) else "is not there"
        raise UserError(
            f"Expected weights to be 'imagenet' or a file; received: {weights!r}, which {found}. "
            "Correct the path; a checkpoint or an export is named by --checkpoint."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one per layer; the error below says it once
            if path.endswith(".keras"):
                _copy(load_keras(path), encoder)
            else:
                encoder.load_weights(path)
        return
    except UserError:
        raise
    except Exception as error:
        reason, failure = error, explain(error)
    # The file may be of the network as Keras builds it, with other layer names.
    if donor is not None and failure.kind in ("shapes", "generation", "format", "unknown"):
        try:
            _copy(donor(path), encoder)
            return
        except Exception as error:
            reason, failure = error, explain(error)
    advice = failure.advice or "Pass the file of this very network, saved without its top."
    raise UserError(
        f"Expected a weights file that fits the encoder {name}; received: {weights!r}: "
        f"{failure.reason}. {advice}"
    ) from reason


def _copy(donor: keras.Model, encoder: keras.Model) -> None:
    """Copies weights, and makes EfficientNet normalise its input as the donor does."""
    encoder.set_weights(donor.get_weights())
    norms = adaptive_normalizations(encoder)
    if not norms:
        return
    mean, variance = donor_statistics(donor)
    for norm in norms:
        set_statistics(norm, mean, variance)
