"""Which type a network computes in: the fastest on this machine, and how slow another one is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices.process_state import isolated
from simclr_tf.devices.processor import describe_cpu, multiplies_fast

_IMAGES = 8  # enough to keep two cores busy, few enough for any memory
_SECONDS = 6.0
_ROUNDS = 3
_SLOWER = 0.9  # a smaller difference is within the noise of so short a measurement


class Choice(NamedTuple):
    """The fastest type and why.

    Attributes:
        mixed_precision: `none`, `bfloat16` or `float16`, as the setting of that name.
        reason: One phrase for people.
    """

    mixed_precision: str
    reason: str


class Slowdown(NamedTuple):
    """How fast a type is compared with float32.

    Attributes:
        ratio: Its speed over that of float32; below 1 it is slower.
        images: How many images were measured with.
        seconds: What the measurement took.
    """

    ratio: float
    images: int
    seconds: float


def policy_name(mixed_precision: str) -> str:
    """Returns Keras's name: `none` -> `float32`, `bfloat16` -> `mixed_bfloat16`."""
    return "float32" if mixed_precision == "none" else f"mixed_{mixed_precision}"


def fastest_policy(use_tpu: bool = False) -> str:
    """Returns the Keras policy that is fastest on this machine; see `choose`.

    Args:
        use_tpu: Whether a TPU that TensorFlow is not connected to yet will be used.

    Example:
        >>> keras.mixed_precision.set_global_policy(fastest_policy())
    """
    return policy_name(choose(use_tpu).mixed_precision)


def choose(use_tpu: bool = False) -> Choice:
    """Returns the type that is fastest on this machine, with the reason.

    TPU: bfloat16. GPU, by its compute capability: from 8.0 bfloat16, from 7.0 float16, else
    float32; of several the oldest decides, and one that reports no capability gets float32.
    Processor: bfloat16 if it has instructions for it (amx_bf16, avx512_bf16), else float32.

    Args:
        use_tpu: Whether a TPU that TensorFlow is not connected to yet will be used.

    Example:
        >>> choose().mixed_precision
        'none'
    """
    if use_tpu or tf.config.list_physical_devices("TPU"):
        return Choice("bfloat16", "TPU")
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        oldest = min(details, key=_capability)
        capability = _capability(oldest)
        name = oldest.get("device_name", "GPU")
        if capability == (0, 0):
            return Choice("none", f"{name} tells no compute capability")
        chosen = "bfloat16" if capability >= (8, 0) else "float16"
        chosen = chosen if capability >= (7, 0) else "none"
        return Choice(chosen, f"{name}, compute capability {'.'.join(map(str, capability))}")
    return Choice("bfloat16" if multiplies_fast("bfloat16") else "none", describe_cpu())


def resolve(mixed_precision: str, earlier: str | None, use_tpu: bool = False) -> tuple[str, str]:
    """Returns the type that a run computes in, and the line that says why `auto` chose it.

    A run keeps its type: resumed on another machine, `auto` goes on with its first choice.

    Args:
        mixed_precision: The setting: `auto`, or a type that is returned as it is.
        earlier: The type of the run that is resumed; None for a new one.
        use_tpu: Whether a TPU that TensorFlow is not connected to yet will be used.

    Example:
        >>> resolve("auto", earlier="bfloat16")[0]
        'bfloat16'
    """
    if mixed_precision != "auto":
        return mixed_precision, ""
    picked, reason = choose(use_tpu)
    if earlier is None:
        return picked, f"--mixed_precision=auto: {picked}, the fastest here ({reason})."
    line = f"--mixed_precision=auto: {earlier}, as this run began"
    if picked != earlier:
        line += f"; a new run would take {picked} here ({reason})"
    return earlier, f"{line}."


def may_be_slow(mixed_precision: str, use_tpu: bool = False) -> bool:
    """Returns whether a type may be slower than float32: on processors without support for it."""
    if mixed_precision == "none" or use_tpu:
        return False
    devices = tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
    return not devices and not multiplies_fast(mixed_precision)


def measure_slowdown(
    make_encoder: Callable[[], keras.Model], mixed_precision: str, image_shape: tuple[int, ...]
) -> Slowdown:
    """Times two or three steps of an encoder, forward and backward, in a type and in float32.

    The steps of the two types alternate and run eagerly: tracing a graph would take longer. It ends
    after about six seconds, or after one step of each if those take longer.

    Args:
        make_encoder: Makes a new network, under the current policy.
        mixed_precision: `bfloat16` or `float16`.
        image_shape: (height, width, channels).

    Example:
        >>> measure_slowdown(lambda: ResNet(18, cifar_stem=True), "bfloat16", (32, 32, 3)).ratio
        0.9
    """
    start = time.perf_counter()
    images = tf.constant(np.random.RandomState(0).rand(_IMAGES, *image_shape).astype("float32"))
    steps = {}
    for name in ("none", mixed_precision):
        with isolated(policy_name(name)):
            steps[name] = _step(make_encoder(), images)
    times: dict[str, list[float]] = {name: [] for name in steps}
    first = True  # this step also chooses kernels and allocates: it counts only if none follows
    while first or (
        len(times[mixed_precision]) < _ROUNDS and time.perf_counter() - start < _SECONDS
    ):
        for name, step in steps.items():
            times[name].append(step())
        if first and time.perf_counter() - start < _SECONDS:
            times = {name: [] for name in steps}
        first = False
    # The fastest step: other programs can only make one slower.
    ratio = min(times["none"]) / min(times[mixed_precision])
    return Slowdown(ratio, _IMAGES, time.perf_counter() - start)


def slowdown_line(mixed_precision: str, measured: Slowdown) -> str | None:
    """Returns the line that warns of a slow type; None where it is about as fast as float32."""
    if measured.ratio >= _SLOWER:
        return None
    return (
        f"Warning: --mixed_precision={mixed_precision} runs at {measured.ratio:.2f} times the "
        f"speed of float32 here (this encoder's step on {measured.images} images, measured in "
        f"{measured.seconds:.1f} s; {describe_cpu()}). --mixed_precision=none is faster."
    )


def _capability(details: dict[str, Any]) -> tuple[int, ...]:
    return tuple(details.get("compute_capability") or (0, 0))


def _step(encoder: keras.Model, images: tf.Tensor) -> Callable[[], float]:
    variables = encoder.trainable_variables

    def step() -> float:
        start = time.perf_counter()
        with tf.GradientTape() as tape:
            features = encoder(images, training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(features, tf.float32)))
        # Reading one number of each gradient waits until it is computed.
        for gradient in tape.gradient(loss, variables):
            if gradient is not None:
                np.asarray(tf.reshape(gradient, [-1])[:1])
        return time.perf_counter() - start

    return step
