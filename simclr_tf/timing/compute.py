"""What `python -m simclr_tf.benchmark` measures: sides that alternate in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment, host_views
from simclr_tf.compat import KERAS_3, build_optimizer
from simclr_tf.devices import precision
from simclr_tf.devices.process_state import isolated
from simclr_tf.devices.processor import describe_cpu
from simclr_tf.losses.named import make_loss
from simclr_tf.losses.names import OPTIONS
from simclr_tf.losses.nt_xent import nt_xent
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.optim.lars import LARS
from simclr_tf.timing.baseline_step import DIMENSIONS, make_baseline_step
from simclr_tf.timing.peaks import Peaks, work_of
from simclr_tf.timing.tables import table
from simclr_tf.timing.turns import BATCHES, in_turn
from simclr_tf.training.simclr import SimCLR

NUM_CLASSES = 10
# As the release prepares ImageNet: sources are larger than the views by 10/7.
_SOURCE = 10 / 7


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
            lambda seed: augment(images, seed=seed, copies=2), jit_compile=jit_compile
        )
        return lambda: function(tf.constant([0, next(calls)]))

    def per_image(image: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        seed = tf.stack([tf.constant(0, tf.int64), number])
        return host_views(image, seed, image_size=image_size)

    data = tf.data.Dataset.from_tensor_slices(images).cache().repeat()
    data = tf.data.Dataset.zip((data, tf.data.Dataset.range(2**62)))
    data = data.map(per_image, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)

    def in_tf_data() -> tf.Tensor:
        # From start to end: a pipeline that runs while others are timed would look fast.
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
        Lines to print.
    """
    title = f"NT-Xent of {2 * images} embeddings of {DIMENSIONS} dimensions, with gradient"
    return table(title, in_turn(loss_sides(images), seconds), images, "images/s")


def loss_sides(images: int) -> dict[str, Callable[[], tf.Tensor]]:
    """Returns NT-Xent's gradient in its two forms, each with a name.

    Args:
        images: N; the loss compares 2N embeddings of 128 dimensions.
    """
    block = max(1, min(images, 2**20 // images))

    def in_blocks(size: int) -> Callable[[tf.Tensor], tf.Tensor]:
        return lambda x: nt_xent(x, block_size=size).loss

    return {
        "all at once": _with_gradient(in_blocks(0), images),
        f"blocks of {block}": _with_gradient(in_blocks(block), images),
    }


def losses(images: int, seconds: float) -> list[str]:
    """Every contrastive loss with its gradient, against NT-Xent.

    Args:
        images: N; the losses compare 2N embeddings of 128 dimensions.
        seconds: About how long each loss is timed.

    Returns:
        Lines to print.
    """
    labels = tf.constant(np.arange(images) % 10)

    def named(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
        made = make_loss(name)
        return lambda x: made(x, labels=labels).loss

    sides = {name: _with_gradient(named(name), images) for name in OPTIONS}
    title = f"losses of {2 * images} embeddings of {DIMENSIONS} dimensions, with gradient"
    return table(title, in_turn(sides, seconds), images, "images/s")


def _with_gradient(loss: Callable[[tf.Tensor], tf.Tensor], images: int) -> Callable[[], tf.Tensor]:
    """Returns what computes the gradient of a loss of 2N embeddings."""
    hidden = tf.constant(np.random.RandomState(0).randn(2 * images, DIMENSIONS).astype("float32"))

    @tf.function
    def step(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        return tape.gradient(value, x)

    return lambda: step(hidden)


def training_step(
    image_size: int,
    batch_size: int,
    seconds: float,
    width_multiplier: float = 1.0,
    mixed_precision: str = "none",
    jit_compile: bool = False,
) -> list[str]:
    """Images a second of a training step on ready-made views, beside a lean Keras step.

    Both sides train the same network; see `simclr_tf.timing.baseline_step`. The baseline is always
    float32; with mixed precision our step is timed in float32 too.

    Args:
        image_size: Side of the images in pixels.
        batch_size: Images a step; the network sees twice as many views.
        seconds: About how long each side is timed.
        width_multiplier: Width of the ResNet-18.
        mixed_precision: `none`, `bfloat16`, `float16` or `auto`, for our step.
        jit_compile: Whether our step is compiled by XLA.

    Returns:
        Lines to print, with the share of this machine's measured matmul peak.
    """
    random = np.random.RandomState(0)
    shape = (batch_size, image_size, image_size, 3)
    pair = tuple(tf.constant(random.rand(*shape).astype("float32")) for _ in range(2))
    labels = tf.constant(random.randint(0, NUM_CLASSES, batch_size))
    views = tf.concat(pair, 0)
    lines = [f"{describe_cpu()}; TensorFlow {tf.__version__}"]
    if mixed_precision == "auto":
        mixed_precision, reason = precision.choose()
        lines.append(f"--mixed_precision=auto: {mixed_precision} ({reason})")

    sides: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    # The batch norm of Keras 3 is not fused; the second row shows how much of the ratio that is.
    for fused in (False, True) if KERAS_3 else (False,):
        step, network = make_baseline_step(width_multiplier, image_size, NUM_CLASSES, fused)
        name = "lean Keras, float32" + (", fused batch norm" if fused else "")
        sides[name] = partial(step, views, labels)
        counts[name] = parameter_count(network)
    suffix = ", XLA" if jit_compile else ""
    model = None
    for each in dict.fromkeys(("none", mixed_precision)):
        model = make_simclr(width_multiplier, image_size, each)
        name = f"simclr_tf, {precision.policy_name(each)}{suffix}"
        sides[name] = tf.function(
            partial(model.train_step, (pair, labels)), jit_compile=jit_compile
        )
        counts[name] = parameter_count(model)
    times = in_turn(sides, seconds)

    title = f"training step, ResNet-18, {image_size} pixels, {batch_size} images"
    lines += table(title, times, batch_size, "images/s")
    listed = "; ".join(f"{side} {count:,}" for side, count in counts.items())
    lines.append(f"trainable parameters: {listed}")
    if mixed_precision != "none":
        in_float32 = times[f"simclr_tf, float32{suffix}"][1]
        lines.append(
            f"simclr_tf in {mixed_precision} at {in_float32 / times[name][1]:.2f} times the speed "
            "of simclr_tf in float32 (the baseline is float32)"
        )
    assert model is not None
    work = work_of(model.encoder, model.trainable_variables, image_size, 2 * batch_size)
    peaks = Peaks.measure(precision.policy_name(mixed_precision), seconds / 4)
    share = (work.forward.operations + work.backward.operations) / times[name][1] / peaks.operations
    lines.append(f"the encoder's products at {share:.0%} of the peak; {peaks.line()}")
    return lines


def make_simclr(
    width_multiplier: float,
    image_size: int,
    mixed_precision: str = "none",
    depth: int = 18,
    augment: SimCLRAugment | None = None,
) -> SimCLR:
    """Returns our side of `training_step`, compiled, in the given type."""
    with isolated(precision.policy_name(mixed_precision)):
        model = SimCLR(
            ResNet(depth, width_multiplier, cifar_stem=image_size <= 32),
            ProjectionHead(out_dim=DIMENSIONS),
            augment=augment,
            num_classes=NUM_CLASSES,
        )
        optimizer = LARS(0.1, weight_decay=1e-6)
        if mixed_precision == "float16":
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model.compile(optimizer=optimizer)
        build_optimizer(model.optimizer, model.trainable_variables)
    return model


def parameter_count(model: keras.Model) -> int:
    """Returns the number of trainable parameters."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
