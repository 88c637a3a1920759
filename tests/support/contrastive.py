"""NT-Xent and its gradient, on one device and on replicas; the release's five recorded cases."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from conftest import deviation

from simclr_tf.losses.nt_xent import nt_xent

CASES = range(5)


def views(n: int = 6, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((2 * n, d)).astype("float32")


def loss_and_gradient(hidden: np.ndarray, loss=nt_xent, **settings):
    x = tf.constant(hidden)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = loss(x, **settings)
    return output, tape.gradient(output.loss, x)


def settings_of(z, case):
    return {
        "temperature": float(z[f"{case}_temperature"]),
        "hidden_norm": bool(z[f"{case}_hidden_norm"]),
    }


def assert_equals_the_release(z, case, values, entropy_tolerance=1e-5):
    for name, value in values.items():
        tolerance = entropy_tolerance if name == "contrast_entropy" else 1e-5
        assert deviation(value, z[f"{case}_{name}"]) <= tolerance, name


def on_replicas(
    strategy, hidden, signature=None, sizes=None, loss=nt_xent, each_image=None, **settings
):
    """Returns per-replica outputs and the gradient of the mean loss, put together.

    `each_image` holds what the loss is given of each image, by the argument's name.
    """
    replicas = strategy.num_replicas_in_sync
    first, second = np.split(hidden, 2)
    n = len(first)
    ends = np.cumsum(sizes or [n // replicas] * replicas)
    parts = [
        np.concatenate([a, b])
        for a, b in zip(np.split(first, ends[:-1]), np.split(second, ends[:-1]), strict=True)
    ]

    def shared(parts):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    x = shared(parts)
    beside = {
        name: shared(np.split(values, ends[:-1])) for name, values in (each_image or {}).items()
    }

    def step(hidden, beside):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            output = loss(hidden, **beside, **settings)
            value = output.loss / replicas
        kept = {name: value for name, value in output._asdict().items() if value is not None}
        return kept, tape.gradient(value, hidden)

    @tf.function(input_signature=signature)
    def run(x):
        return strategy.run(step, args=(x, beside))

    outputs, gradients = run(x)
    outputs = {k: strategy.experimental_local_results(v) for k, v in outputs.items()}
    halves = [np.split(g, 2) for g in strategy.experimental_local_results(gradients)]
    gradient = np.concatenate([h[0] for h in halves] + [h[1] for h in halves])
    return outputs, gradient
