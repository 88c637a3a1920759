"""A model as one TFLite (LiteRT) file, for phones and small machines."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from simclr_tf.errors import UserError

FILE = "model.tflite"
SIGNATURE = "serving_default"


def write_tflite(
    function: tf.types.experimental.GenericFunction,
    variables: list[tf.Variable],
    path: str,
    precision: str,
) -> None:
    """Converts a function to a TFLite file.

    Args:
        function: A `tf.function` with an input signature of one argument, `images`, to a dict of
            tensors; their names are those of the file's signature.
        variables: The variables that the function reads.
        path: File to write.
        precision: `float32`; `float16`: weights in float16, computed in the runtime's choice of
            type (float32 on CPUs); `int8`: weights in 8 bits, activations quantised by their range
            at run time (dynamic range quantisation, which needs no images).

    Raises:
        UserError: TFLite lacks an operation of the network.

    Example:
        >>> write_tflite(tf.function(f, input_signature=[spec]), variables, 'model.tflite', 'int8')
    """
    holder = tf.Module()
    holder.held = variables
    with tempfile.TemporaryDirectory() as folder, _stderr_kept() as said:
        # Through a SavedModel: only then does the file keep the names of its outputs.
        tf.saved_model.save(holder, folder, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            content = converter.convert()
        except Exception as error:  # several classes, with messages of many lines
            text = f"{error}\n{said()}"
            found = re.search("(TF Select ops|Custom ops): .*|error: .*", text)
            reason = found[0] if found else text.strip().splitlines()[0]
            raise UserError(
                f"Expected a network that TFLite can express; received: one that it can't "
                f"({reason[:300]}). Export it as saved_model or onnx."
            ) from error
    with open(path, "wb") as file:
        file.write(content)


def run_tflite(path: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a TFLite file by name.

    Args:
        path: What `write_tflite` wrote.
        images: float32 (N, height, width, channels).
    """
    return open_tflite(path)(images)


def open_tflite(path: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a TFLite file as a function from images to outputs by name, on one thread.

    Args:
        path: What `write_tflite` wrote.
    """
    runner = _interpreter(path).get_signature_runner(SIGNATURE)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with _stderr_kept():
            return dict(runner(images=images))

    return run


def prepare_tflite(path: str, images: np.ndarray) -> Callable[[], None]:
    """Returns a function that computes the outputs of these images, and does nothing else, to time.

    Args:
        path: What `write_tflite` wrote.
        images: float32 (N, height, width, channels).
    """
    interpreter = _interpreter(path)
    (taken,) = interpreter.get_input_details()
    with _stderr_kept():
        interpreter.resize_tensor_input(taken["index"], images.shape)
        interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], images)
    invoke: Callable[[], None] = interpreter.invoke
    return invoke


def _interpreter(path: str) -> tf.lite.Interpreter:
    with warnings.catch_warnings(), _stderr_kept():
        # TensorFlow from 2.18 on recommends ai-edge-litert, but still has the interpreter.
        warnings.filterwarnings("ignore", message="(?s).*tf.lite.Interpreter is deprecated")
        return tf.lite.Interpreter(path, num_threads=1)


@contextlib.contextmanager
def _stderr_kept() -> Iterator[Callable[[], str]]:
    """Redirects what the converter's C++ code prints: summaries of no use to the user.

    Yields a function that returns the text so far.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)

        def said() -> str:
            kept.seek(0)
            return kept.read().decode("utf-8", "replace")

        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
