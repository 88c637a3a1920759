"""Weights of encoders: from a file, published ones, and what is said where they can't be had."""

from __future__ import annotations

import errno
import shutil
import socket
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from quick_networks import drawn_once, few_blocks
from tensorflow import keras
from tiny_models import images

from simclr_tf.errors import UserError
from simclr_tf.models import applications
from simclr_tf.models.encoders import make_encoder

__all__ = ["drawn_once", "few_blocks", "images"]  # fixtures

pytestmark = pytest.mark.usefixtures("few_blocks", "drawn_once")


def test_weights_from_a_file(images: np.ndarray, tmp_path: Path) -> None:
    source = make_encoder("mlp:8", image_size=32)
    path = str(tmp_path / "mlp.weights.h5")
    source.save_weights(path)
    again = make_encoder("mlp:8", image_size=32, weights=path)
    np.testing.assert_array_equal(again(images), source(images))
    with pytest.raises(UserError, match="fits the encoder mlp:9"):
        make_encoder("mlp:9", image_size=32, weights=path)
    with pytest.raises(UserError, match="not there"):
        make_encoder("mlp", image_size=32, weights=path + ".gone")


def published(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> None:
    """Puts `answer` in the place of Keras's download."""
    module = sys.modules[getattr(keras.applications, name).__module__]
    utils = getattr(module, "data_utils", None) or module.file_utils
    monkeypatch.setattr(utils, "get_file", answer)


@pytest.mark.slow
def test_published_weights_keep_what_keras_computes_from_them(
    images: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Keras adds a second rescaling when, and only when, weights are the published ones.
    path = str(tmp_path / "published.weights.h5")
    plain = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(None, None, 3)
    )
    (norm,) = applications.adaptive_normalizations(plain)
    applications.set_statistics(norm, np.array([0.4, 0.5, 0.6]), np.array([0.229, 0.224, 0.225]))
    plain.save_weights(path)
    published(monkeypatch, "EfficientNetB0", lambda *args, **kwargs: path)
    keras_own = keras.applications.EfficientNetB0(weights="imagenet", include_top=False)
    expected = tf.reduce_mean(keras_own(images * 255), [1, 2])
    ours = make_encoder("EfficientNetB0", image_size=32, weights="imagenet")
    np.testing.assert_allclose(ours(images), expected, rtol=1e-3, atol=1e-5)
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    np.testing.assert_allclose(again(images), expected, rtol=1e-3, atol=1e-5)


def network_failure() -> None:
    """As Keras raises it: a bare exception, the true one in its context."""
    try:
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))
    except urllib.error.URLError as error:
        raise Exception(f"URL fetch failure on https://a.org/b.h5: None -- {error.reason}")  # noqa: B904


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (None, r"no connection to https://a.org/b.h5 .*\. Connect to the internet once"),
        (OSError(errno.ENOSPC, "No space left on device", "keras/b.h5"), "Make room"),
        (PermissionError(errno.EACCES, "Permission denied", "keras"), "the permissions"),
        (ValueError("The auto file hash does not match the provided value of 0."), "delete it"),
        (OSError("Unable to open file (truncated file: eof = 5)"), "file is damaged"),
        (ImportError("Requires `kagglehub`", name="kagglehub"), "pip install kagglehub"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory"),
        (ZeroDivisionError("float division"), r"float division\. Or pass the path"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_published_weights_say_what_really_failed(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None, said: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        if failure is None:
            network_failure()
        raise failure

    published(monkeypatch, "EfficientNetB0", fail)
    with pytest.raises(UserError, match=said) as caught:
        make_encoder("EfficientNetB0", image_size=32, weights="imagenet")
    assert ("internet" in str(caught.value)) == (failure is None)


def test_weights_files_say_what_really_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, junk, cut = (str(tmp_path / f"{name}.weights.h5") for name in ("good", "junk", "cut"))
    make_encoder("mlp:8", image_size=32).save_weights(good)
    content = Path(good).read_bytes()
    Path(junk).write_bytes(b"no weights")
    Path(cut).write_bytes(content[: len(content) // 2])
    shutil.copy(good, tmp_path / "good.txt")
    for path, said in (
        (junk, "The file is damaged"),
        (cut, "The file is damaged"),
        (str(tmp_path), "which is a folder"),
        (good + ".gone", "which is not there"),
        (str(tmp_path / "good.txt"), r"\.weights\.h5, \.h5 or \.keras|The file is damaged"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            make_encoder("mlp:8", image_size=32, weights=path)
        assert "internet" not in str(caught.value) and "\n" not in str(caught.value)
    for name in ("mlp:9", "MobileNet"):
        with pytest.raises(UserError, match="another network|another version of Keras"):
            make_encoder(name, image_size=32, weights=good)
    monkeypatch.setenv("HOME", str(tmp_path))
    make_encoder("mlp:8", image_size=32, weights="~/good.weights.h5")
