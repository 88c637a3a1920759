"""This package's side: `SimCLR` with LARS; end to end `fit`, which makes views on the device."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.timing.peers import protocol

if TYPE_CHECKING:
    import tensorflow as tf

    from simclr_tf.training.simclr import SimCLR
    from simclr_tf.typing import Logs


def prepare(settings: dict[str, Any]) -> protocol.Prepared:
    """Makes the model, ready-made views and the pipeline.

    Args:
        settings: See `measuring.Settings`.
    """
    start_tensorflow()
    import tensorflow as tf

    import simclr_tf
    from simclr_tf.timing.peers import tensorflow_side

    threads = settings["threads"]
    tensorflow_side.use_threads(threads)
    model = _model(settings)
    views = tensorflow_side.ready_views(settings["batch_size"], settings["image_size"])
    train_step = tf.function(model.train_step)
    data = _pipeline(settings)

    def step(steps: int) -> float:
        for _ in range(steps):
            logs = train_step((views,))
        return float(logs["contrast_loss"])

    def end_to_end(steps: int) -> protocol.Timed:
        return _timed_fit(model, data, protocol.untimed(threads), steps)

    name = f"simclr_tf {simclr_tf.__version__}"
    return protocol.Prepared(
        tensorflow_side.describe(name, threads, model.trainable_variables),
        {protocol.STEP: partial(protocol.timed, step), protocol.END_TO_END: end_to_end},
    )


def _timed_fit(model: SimCLR, data: tf.data.Dataset, untimed: int, steps: int) -> protocol.Timed:
    """Times the last steps of a call of `fit`."""
    from tensorflow import keras

    ended: dict[int, float] = {}
    losses: list[float] = []

    def note(number: int, logs: Logs) -> None:
        if number + 1 in (untimed, untimed + steps):
            losses.append(float(logs["contrast_loss"]))  # once the step is done
            ended[number + 1] = time.perf_counter()

    callback = keras.callbacks.LambdaCallback(on_batch_end=note)
    model.fit(data, steps_per_epoch=untimed + steps, shuffle=False, callbacks=[callback], verbose=0)
    return protocol.Timed(ended[untimed + steps] - ended[untimed], losses[-1])


def _model(settings: dict[str, Any]) -> SimCLR:
    from simclr_tf.augment.layer import SimCLRAugment
    from simclr_tf.compat import build_optimizer
    from simclr_tf.devices.strategy import accelerated
    from simclr_tf.models.heads import ProjectionHead
    from simclr_tf.models.resnet import ResNet
    from simclr_tf.optim.lars import LARS
    from simclr_tf.training.simclr import SimCLR

    size = settings["image_size"]
    model = SimCLR(
        ResNet(18, settings["width_multiplier"], cifar_stem=size <= 32),
        ProjectionHead(out_dim=settings["dimensions"]),
        # As runs of many steps have it.
        augment=SimCLRAugment(size, jit_compile=None if accelerated() else True),
        temperature=settings["temperature"],
        weight_decay=settings["weight_decay"],
    )
    optimizer = LARS(settings["learning_rate"], 0.9, weight_decay=settings["weight_decay"])
    model.compile(optimizer=optimizer)
    build_optimizer(model.optimizer, model.trainable_variables)
    return model


def _pipeline(settings: dict[str, Any]) -> tf.data.Dataset:
    import numpy as np

    from simclr_tf.datasets.in_memory import InMemorySource
    from simclr_tf.datasets.pipeline import training_dataset

    images = np.load(settings["images"])
    return training_dataset(
        InMemorySource(images, None, name="images of the benchmark", split="train"),
        batch_size=settings["batch_size"],
        image_size=settings["image_size"],
        seed=0,
    )


if __name__ == "__main__":
    protocol.serve(prepare)
