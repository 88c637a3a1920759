"""What both sides on TensorFlow do: this package's and the release's, on Keras 2 or 3."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterable
from typing import Any

import tensorflow as tf


def use_threads(count: int) -> None:
    """Sets how many threads operations use; before the first one."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def describe(name: str, threads: int, variables: Iterable[tf.Variable]) -> dict[str, Any]:
    """Returns what the parent prints of a side.

    Args:
        name: Of the library, with its version.
        threads: That operations use.
        variables: Those that are trained.
    """
    # `tf.keras` is `keras`, or with TF_USE_LEGACY_KERAS `tf_keras`; it tells no version itself.
    package = tf.keras.layers.Layer.__module__.partition(".")[0]
    keras = f"{importlib.import_module(package).__version__}"
    keras += "" if package == "keras" else f" ({package})"
    python = platform.python_version()
    return {
        "name": name,
        "versions": f"TensorFlow {tf.__version__}, Keras {keras}, Python {python}",
        "device": "GPU" if tf.config.list_physical_devices("GPU") else "CPU",
        "threads": threads,
        "parameters": sum(variable.shape.num_elements() for variable in variables),
    }


def ready_views(batch_size: int, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two views of a batch, (N, size, size, 3) float32 in [0, 1) each."""
    shape = (2, batch_size, image_size, image_size, 3)
    first, second = tf.unstack(tf.random.stateless_uniform(shape, seed=(0, 0), alg="philox"))
    return first, second
