"""What `python -m simclr_tf.benchmark` measures. Two sides are timed in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment import SimCLRAugment, host_views
from simclr_tf.heads import ProjectionHead
from simclr_tf.losses import nt_xent
from simclr_tf.model import SimCLR
from simclr_tf.optimizers import LARS
from simclr_tf.process_state import isolated, policy_name
from simclr_tf.resnet import ResNet

_DIMENSIONS = 128
BATCHES = 8  # enough that starting a pipeline does not count
# As the release's users prepare ImageNet: sources larger than the views by 10/7.
_SOURCE = 10 / 7


def in_turn(sides: dict[str, Callable[[], Any]], seconds: float) -> dict[str, np.ndarray]:
    """Times several functions A B C A B C ..., so that a machine's changes of speed meet all.

    Args:
        sides: Name -> function; what it returns is waited for.
        seconds: About how long each function is timed in all; at least three rounds are.

    Returns:
        Name -> quartiles of the seconds of one call, after one call that is not counted.
    """
    for function in sides.values():
        wait_for(function())
    times: dict[str, list[float]] = {name: [] for name in sides}
    while min(len(t) for t in times.values()) < 3 or sum(map(sum, times.values())) < seconds * len(
        sides
    ):
        for name, function in sides.items():
            start = time.perf_counter()
            wait_for(function())
            times[name].append(time.perf_counter() - start)
    return {name: np.quantile(t, [0.25, 0.5, 0.75]) for name, t in times.items()}


def wait_for(result: Any) -> None:
    """Returns once all tensors of a structure are there."""
    for tensor in tf.nest.flatten(result):
        if tf.is_tensor(tensor):
            # One number: copying a batch of views off the device is not what is timed.
            np.asarray(tf.reshape(tensor, [-1])[:1])


def augmentation(image_size: int, batch_size: int, seconds: float) -> list[str]:
    """Pairs of views a second: per image in `tf.data`, and in the forms of `SimCLRAugment`.

    Images are in memory: nothing is decoded.

    Args:
        image_size: Side of the views; sources have that side up to 32 pixels, 10/7 of it above.
        batch_size: Images a batch.
        seconds: About how long each form is timed.

    Returns:
        Lines to print.
    """
    source = image_size if image_size <= 32 else round(image_size * _SOURCE)
    shape = (batch_size, source, source, 3)
    images = tf.constant(np.random.RandomState(0).randint(0, 256, shape).astype("uint8"))
    calls = iter(range(10**9))

    def batched(augment: SimCLRAugment, jit_compile: bool = False) -> Callable[[], tf.Tensor]:
        function = tf.function(
            lambda seed: augment(tf.concat([images, images], 0), seed=seed), jit_compile=jit_compile
        )
        return lambda: function(tf.constant([0, next(calls)]))

    def per_image(image: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        seed = tf.stack([tf.constant(0, tf.int64), number])
        return host_views(image, seed, image_size=image_size)

    data = tf.data.Dataset.from_tensor_slices(images).cache().repeat()
    data = tf.data.Dataset.zip((data, tf.data.Dataset.range(2**62)))
    data = data.map(per_image, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)

    def in_tf_data() -> tf.Tensor:
        # From start to end: a pipeline that goes on while others are timed would look fast.
        return [views for views, _ in data.take(BATCHES)][-1]

    times = in_turn(
        {
            "per image in tf.data": in_tf_data,
            "batched": batched(SimCLRAugment(image_size, jit_compile=False)),
            "batched, XLA": batched(SimCLRAugment(image_size), jit_compile=True),
            "for processors": batched(SimCLRAugment(image_size, jit_compile=True)),
        },
        seconds,
    )
    times["per image in tf.data"] /= BATCHES
    title = f"two views of {image_size} pixels from {source}, batches of {batch_size}"
    return table(title, times, batch_size, "pairs/s")


def loss(images: int, seconds: float) -> list[str]:
    """NT-Xent with its gradient: all similarities at once against blocks.

    Args:
        images: N; the loss compares 2N embeddings of 128 dimensions.
        seconds: About how long each form is timed.

    Returns:
        Lines to print; memory is what similarities and their gradient take at once, by count.
    """
    hidden = tf.constant(np.random.RandomState(0).randn(2 * images, _DIMENSIONS).astype("float32"))

    def side(block_size: int) -> Callable[[], tf.Tensor]:
        @tf.function
        def step(x: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = nt_xent(x, block_size=block_size).loss
            return tape.gradient(value, x)

        return lambda: step(hidden)

    block = max(1, min(images, 2**20 // images))
    times = in_turn({"all at once": side(0), f"blocks of {block}": side(block)}, seconds)
    title = f"NT-Xent of {2 * images} embeddings of {_DIMENSIONS} dimensions, with gradient"
    return table(title, times, images, "images/s")


def training_step(
    image_size: int,
    batch_size: int,
    seconds: float,
    width_multiplier: float = 1.0,
    mixed_precision: str = "none",
    jit_compile: bool = False,
) -> list[str]:
    """Images a second of a whole training step, views made already, beside a lean Keras step.

    Args:
        image_size: Side of the images in pixels.
        batch_size: Images a step; the network sees twice as many views.
        seconds: About how long each side is timed.
        width_multiplier: Of the ResNet-18 with the stem for small images.
        mixed_precision: `none` or `bfloat16`, for our step.
        jit_compile: Whether our step is compiled by XLA.

    Returns:
        Lines to print, with the share of this machine's measured matmul peak.
    """
    random = np.random.RandomState(0)
    shape = (batch_size, image_size, image_size, 3)
    pair = tuple(tf.constant(random.rand(*shape).astype("float32")) for _ in range(2))
    labels = tf.constant(random.randint(0, 10, batch_size))
    with isolated("float32"):
        baseline = _lean_step(width_multiplier, image_size)
    views = tf.concat(pair, 0)
    policy = policy_name(mixed_precision)
    with isolated(policy):
        model = SimCLR(
            ResNet(18, width_multiplier, cifar_stem=image_size <= 32),
            ProjectionHead(),
            num_classes=10,
        )
        model.compile(optimizer=LARS(0.1, weight_decay=1e-6))
        model.optimizer.build(model.trainable_variables)
        ours = tf.function(lambda: model.train_step((pair, labels)), jit_compile=jit_compile)
        name = f"simclr_tf, {policy}" + (", XLA" if jit_compile else "")
        times = in_turn({"lean Keras, float32": lambda: baseline(views), name: ours}, seconds)
    title = f"training step, ResNet-18, {image_size} pixels, {batch_size} images"
    lines = table(title, times, batch_size, "images/s")
    work = 3 * 2 * batch_size * _forward_flops(model.encoder, image_size)
    peak = _matmul_peak(seconds / 2)
    share = work / times[name][1] / peak
    lines.append(f"convolutions at {share:.0%} of the measured matmul peak, {peak / 1e9:.0f} GF/s")
    return lines


def table(title: str, times: dict[str, np.ndarray], count: int, unit: str) -> list[str]:
    """One line a side: medians, in brackets the middle half; ratios are to the first side."""
    first = next(iter(times.values()))[1]
    width = max(len(name) for name in times)
    lines = [title]
    for name, (low, median, high) in times.items():
        lines.append(
            f"  {name:{width}}  {count / median:10.1f} {unit}  {median * 1e3:9.1f} ms "
            f"[{low * 1e3:.1f}, {high * 1e3:.1f}]  ratio {first / median:.2f}"
        )
    return lines


def _lean_step(width_multiplier: float, image_size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a contrastive step as one writes it with Keras layers alone: the baseline."""

    def conv(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    images = keras.Input((image_size, image_size, 3))
    x = conv(images, int(64 * width_multiplier), *((3, 1) if image_size <= 32 else (7, 2)))
    x = keras.layers.ReLU()(x)
    if image_size > 32:
        x = keras.layers.MaxPooling2D(3, 2, padding="same")(x)
    for group in range(4):
        filters = int(64 * 2**group * width_multiplier)
        for index in range(2):
            strides = 2 if group and not index else 1
            shortcut = conv(x, filters, 1, strides) if not index else x
            x = keras.layers.ReLU()(conv(x, filters, 3, strides))
            x = keras.layers.ReLU()(keras.layers.Add()([conv(x, filters, 3), shortcut]))
    x = features = keras.layers.GlobalAveragePooling2D()(x)
    for units in (features.shape[-1], features.shape[-1], _DIMENSIONS):
        if units == _DIMENSIONS:
            x = keras.layers.Dense(units, use_bias=False)(x)
        else:
            x = keras.layers.Dense(units, use_bias=False)(x)
            x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    model = keras.Model(images, x)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(views: tf.Tensor) -> tf.Tensor:
        rows = views.shape[0]
        with tf.GradientTape() as tape:
            z = tf.math.l2_normalize(model(views, training=True), axis=1)
            logits = tf.matmul(z, z, transpose_b=True) / 0.1 - 1e9 * tf.eye(rows)
            labels = (tf.range(rows) + rows // 2) % rows
            value = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            )
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    return step


def _forward_flops(encoder: keras.Model, image_size: int) -> float:
    """Returns the floating-point operations of an encoder's convolutions for one image."""
    sizes = keras.Model(
        encoder.input,
        [layer.output for layer in encoder.layers if isinstance(layer, keras.layers.Conv2D)],
    )(tf.zeros([1, image_size, image_size, 3]))
    kernels = [x.kernel for x in encoder.layers if isinstance(x, keras.layers.Conv2D)]
    return float(
        sum(
            2 * np.prod(kernel.shape) * output.shape[1] * output.shape[2]
            for kernel, output in zip(kernels, sizes, strict=True)
        )
    )


def _matmul_peak(seconds: float, side: int = 2048) -> float:
    """Returns float32 operations a second of a large matrix product."""
    matrix = tf.ones([side, side])
    product = tf.function(lambda: tf.matmul(matrix, matrix))
    return 2 * side**3 / in_turn({"matmul": product}, seconds)["matmul"][1]
