"""`.keras` files that anybody may have written: no code of theirs runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from mutated import cases, mutated
from tensorflow import keras

from simclr_tf.compat import KERAS_3
from simclr_tf.errors import UserError
from simclr_tf.models.encoder_weights import load_weights
from simclr_tf.models.keras_files import load_keras
from tf_hub_export.sources import load_model


def _touching(path: Path) -> Callable[[Any], Any]:
    """Returns a function that leaves a mark when it runs."""

    def run(x: Any, path: str = str(path)) -> Any:
        open(path, "w").close()
        return x

    return run


def _model(layer: keras.layers.Layer | None = None) -> keras.Model:
    images = keras.Input((4, 4, 3))
    x = keras.layers.Dense(4, name="dense")(keras.layers.Flatten()(images))
    return keras.Model(images, x if layer is None else layer(x))


def _saved(folder: Path, model: keras.Model, name: str = "x.keras") -> Path:
    model.save(folder / name)
    return folder / name


def _changed(path: Path, change: Callable[[str], str]) -> Path:
    """Rewrites the description in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = change(parts["config.json"].decode()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def _doors(path: Path) -> list[Callable[[], object]]:
    """Returns every way in which a user's file is loaded."""
    encoder = _model()
    return [
        lambda: load_keras(str(path)),
        lambda: load_model(str(path)),
        lambda: load_weights(encoder, "mine", str(path), None),
    ]


def test_an_ordinary_file_is_loaded(tmp_path: Path) -> None:
    path = _saved(tmp_path, _model(keras.layers.Activation("gelu")))
    images = np.ones((1, 4, 4, 3), "float32")
    np.testing.assert_allclose(load_keras(str(path))(images), keras.models.load_model(path)(images))
    for load in _doors(path):
        load()


@pytest.mark.parametrize("kind", ["zip", "hdf5 named .keras"])
def test_lambda_layers_are_refused(tmp_path: Path, kind: str) -> None:
    trap = tmp_path / "ran"
    model = _model(keras.layers.Lambda(_touching(trap), output_shape=(4,)))
    path = _saved(tmp_path, model, "x.keras" if kind == "zip" else "x.h5")
    if kind != "zip":
        path = path.rename(tmp_path / "x.keras")
    trap.unlink(missing_ok=True)  # building the model here ran it
    for load in _doors(path):
        with pytest.raises(ValueError) as caught:
            load()
        assert ("Lambda" if kind == "zip" else "no zip") in str(caught.value)
    assert not trap.exists()


def _activation(module: str, name: str) -> Callable[[str], str]:
    function = {"module": module, "class_name": "function", "config": name, "registered_name": name}

    def change(text: str) -> str:
        config = json.loads(text)
        dense = next(n for n in config["config"]["layers"] if n["config"]["name"] == "dense")
        dense["config"]["activation"] = function
        return json.dumps(config)

    return change


@pytest.mark.parametrize(
    "module, name",
    [("os", "system"), ("builtins", "exec"), ("subprocess", "run"), ("antigravity", "fly"),
     ("shutil", "rmtree"), ("numpy.no_such", "load")],
)  # fmt: skip
def test_functions_of_other_modules_are_refused(tmp_path: Path, module: str, name: str) -> None:
    path = _changed(_saved(tmp_path, _model()), _activation(module, name))
    for load in _doors(path):
        with pytest.raises(UserError, match=f"'{name}' of the module '{module}'"):
            load()


@pytest.mark.skipif(KERAS_3, reason="Keras 3 has no such layer")
def test_functions_of_tensorflow_that_write_are_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    images = keras.Input((4, 4, 3))
    model = keras.Model(images, tf.math.abs(images))
    path = _changed(_saved(tmp_path, model), lambda s: s.replace("math.abs", "io.write_file"))
    with pytest.raises(UserError, match="tf.io.write_file"):
        load_keras(str(path))


def test_a_registered_layer_of_the_user_is_loaded(tmp_path: Path) -> None:
    register = keras.utils.register_keras_serializable("tests_keras_files")

    @register
    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    path = _saved(tmp_path, _model(Doubled()))
    assert load_keras(str(path)).layers[-1].__class__ is Doubled


@pytest.mark.one_lane
@pytest.mark.parametrize("content", [b"", b"PK", b"[" * 100_000], ids=["empty", "cut", "nested"])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.keras"
    if content.startswith(b"["):
        path = _changed(_saved(tmp_path, _model()), lambda _: content.decode())
    else:
        path.write_bytes(content)
    for load in _doors(path)[1:]:
        with pytest.raises(UserError, match=r"x\.keras"):
            load()


_FILE = io.BytesIO()
with zipfile.ZipFile(_FILE, "w") as _archive:
    _archive.writestr("config.json", json.dumps({"class_name": "Dense", "config": {"units": 3}}))
    _archive.writestr("metadata.json", "{}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("small"), _model())


@pytest.mark.one_lane
def test_any_content(small: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.keras", small.read_bytes()

    @cases(0.05)
    @given(mutated(whole, _FILE.getvalue()))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load_model(str(path))
        except UserError as error:
            assert "x.keras" in str(error)

    check()
