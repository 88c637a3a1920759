"""`.keras` files, which anybody may have written: what would run their code is refused."""

from __future__ import annotations

import builtins
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.files.json_files import parse_json

# Libraries whose classes and functions a file may name without their being imported already.
_LIBRARIES = {"keras", "keras_core", "keras_cv", "keras_hub", "tensorflow", "tf_keras",
              "simclr_tf", "tf_hub_export"}  # fmt: skip
_CONFIG, _LONGEST = "config.json", 1 << 26  # bytes
_LAMBDAS = ("Lambda", "__lambda__")
# TensorFlow's functions that read or write files, or run Python.
_REACHING_OUT = ("io.", "raw_ops.", "py_function", "numpy_function", "load_")


def load_keras(path: str) -> keras.Model:
    """Loads a model of a `.keras` file, without its optimizer and without running its code.

    Keras's own safe mode is not enough: Keras 2 takes an HDF5 file of this name for one of the old
    format, whose Lambda layers it runs; and it calls any function of any module that a file names.

    Args:
        path: The file.

    Raises:
        UserError: It could run code.
        Exception: Whatever a damaged or foreign file makes Keras raise.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip file, as .keras files are")
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(_CONFIG).file_size > _LONGEST:
            raise ValueError(f"its {_CONFIG} is longer than {_LONGEST} bytes")
        config = parse_json(archive.read(_CONFIG))
    for part in _parts(config):
        reason = _runs_code(part)
        if reason:
            raise UserError(
                f"Expected a model without code of its own in {path}; received: {reason}, which "
                "could do anything here. Replace it by a layer of Keras, or by a registered class "
                "that is imported before, and save the model again."
            )
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _parts(config: object) -> Iterator[dict[str, Any]]:
    """Yields every object in a file's description."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _runs_code(part: dict[str, Any]) -> str | None:
    """Returns what would run code, in words; None where nothing does."""
    name, module, config = (part.get(key) for key in ("class_name", "module", "config"))
    if not isinstance(name, str):
        return None
    if name.rpartition(">")[2].rpartition(".")[2] in _LAMBDAS:
        return "a Lambda layer"
    if name == "TFOpLambda" and isinstance(config, dict):
        function = str(config.get("function")).removeprefix("tf.").removeprefix("compat.v1.")
        if function.startswith(_REACHING_OUT):
            return f"a call of tf.{function}"
    named = str(config) if name == "function" else name
    if isinstance(module, str) and not _is_known(module, named):
        return f"{named!r} of the module {module!r}"
    return None


def _is_known(module: str, name: str) -> bool:
    """Returns whether a file may name this: of a library, or the user's own, imported by now."""
    if module == "builtins":  # Keras's word for functions that were registered
        return not hasattr(builtins, name)
    first = module.partition(".")[0]
    imported = module in sys.modules and first not in sys.stdlib_module_names
    return first in _LIBRARIES or imported
