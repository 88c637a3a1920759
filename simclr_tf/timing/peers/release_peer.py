"""The side of the original release, from a checkout: its model, loss, metrics, LARS and tf.data.

Its `run.py` trains in a function inside `main`: the step here is made of the same parts in the
same order, without the linear head and the summaries.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from simclr_tf.timing.peers import protocol

if TYPE_CHECKING:
    import tensorflow as tf


def prepare(settings: dict[str, Any]) -> protocol.Prepared:
    """Imports the release and makes what it trains.

    Args:
        settings: See `Training`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from simclr_tf.timing.peers import tensorflow_side

    tensorflow_side.use_threads(settings["threads"])
    sys.path.insert(0, os.path.join(settings["release"], "tf2"))
    training = Training(importlib.import_module("run"), settings)
    name = f"release {_commit(settings['release'])}"
    return protocol.Prepared(
        tensorflow_side.describe(name, settings["threads"], training.model.trainable_variables),
        {protocol.STEP: training.step, protocol.END_TO_END: training.end_to_end},
    )


class Training:
    """The release's model, optimizer, metrics and pipeline, under its strategy.

    Args:
        release: Its module `run`.
        settings: See `measuring.Settings`; and `release`, the checkout's folder, and `global_bn`,
            the flag.
    """

    def __init__(self, release: Any, settings: dict[str, Any]) -> None:
        import tensorflow as tf

        from simclr_tf.timing.peers import tensorflow_side

        release.FLAGS(["run", *_flags(settings)])
        self._release, self._threads = release, settings["threads"]
        pair = tensorflow_side.ready_views(settings["batch_size"], settings["image_size"])
        self._views = tf.concat(pair, -1)
        # One device, as the other sides use.
        device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
        self._strategy = tf.distribute.MirroredStrategy([device])
        with self._strategy.scope():
            self.model = release.model_lib.Model(1)
            self.model(self._views[:2], training=False)
            schedule = release.model_lib.WarmUpAndCosineDecay(
                release.FLAGS.learning_rate, release.FLAGS.train_batch_size
            )
            self._optimizer = release.model_lib.build_optimizer(schedule)
            names = ("contrast_loss", "contrast_acc", "contrast_entropy", "decay", "total")
            self._means = {name: tf.keras.metrics.Mean(name) for name in names}
            self._last = tf.Variable(
                0.0,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
            self._data = _pipeline(release, self._strategy, settings)
        self._on_ready_views = tf.function(self._steps_on_ready_views)
        self._on_batches = tf.function(self._steps_on_batches)

    def step(self, steps: int) -> protocol.Timed:
        """Times steps on ready-made views."""
        self._release.FLAGS.use_blur = False  # the model blurs: read when the step is traced
        return protocol.timed(lambda count: self._take(self._on_ready_views, count), steps)

    def end_to_end(self, steps: int) -> protocol.Timed:
        """Times steps on views that `tf.data` makes meanwhile, and the model blurs."""
        self._release.FLAGS.use_blur = True
        step = partial(self._on_batches, iter(self._data))
        self._take(step, protocol.untimed(self._threads))
        return protocol.timed(lambda count: self._take(step, count), steps)

    def _take(self, step: Callable[[Any], object], count: int) -> float:
        import tensorflow as tf

        step(tf.constant(count))
        return float(self._last.numpy())

    def _steps_on_ready_views(self, steps: tf.Tensor) -> None:
        import tensorflow as tf

        for _ in tf.range(steps):
            self._strategy.run(self._train, (self._views,))

    def _steps_on_batches(self, batches: Any, steps: tf.Tensor) -> None:
        import tensorflow as tf

        for _ in tf.range(steps):
            self._strategy.run(self._train, (next(batches)[0],))

    def _train(self, views: tf.Tensor) -> None:
        """Takes a step on both views of a batch, (N, size, size, 6)."""
        import tensorflow as tf

        release, means = self._release, self._means
        with tf.GradientTape() as tape:
            embeddings, _ = self.model(views, training=True)
            loss, logits, labels = release.obj_lib.add_contrastive_loss(
                embeddings,
                hidden_norm=release.FLAGS.hidden_norm,
                temperature=release.FLAGS.temperature,
                strategy=self._strategy,
            )
            contrast = (means[f"contrast_{name}"] for name in ("loss", "acc", "entropy"))
            release.metrics.update_pretrain_metrics_train(*contrast, loss, logits, labels)
            decay = release.model_lib.add_weight_decay(self.model)
            means["decay"].update_state(decay)
            means["total"].update_state(loss + decay)
            minimized = (loss + decay) / self._strategy.num_replicas_in_sync
        variables = self.model.trainable_variables
        gradients = tape.gradient(minimized, variables)
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._last.assign(loss)


def _flags(settings: dict[str, Any]) -> list[str]:
    given = {
        "resnet_depth": 18,
        "width_multiplier": round(settings["width_multiplier"]),
        "image_size": settings["image_size"],
        "train_batch_size": settings["batch_size"],
        "temperature": settings["temperature"],
        "proj_out_dim": settings["dimensions"],
        "num_proj_layers": 3,
        "optimizer": "lars",
        "weight_decay": settings["weight_decay"],
        # Scaled by the batch there.
        "learning_rate": settings["learning_rate"] * 256 / settings["batch_size"],
        "warmup_epochs": 0,
        "train_steps": 10**6,
        "lineareval_while_pretraining": False,
        "use_tpu": False,
        "global_bn": settings["global_bn"],
    }
    return [f"--{name}={value}" for name, value in given.items()]


def _pipeline(release: Any, strategy: Any, settings: dict[str, Any]) -> Any:
    """Returns the release's training pipeline on images in memory, in place of a TFDS data set."""
    import numpy as np
    import tensorflow as tf

    images = np.load(settings["images"])

    def as_dataset(**options: object) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images), np.int64)))

    builder = SimpleNamespace(
        info=SimpleNamespace(features={"label": SimpleNamespace(num_classes=1)}),
        as_dataset=as_dataset,
    )
    return release.data_lib.build_distributed_dataset(
        builder, settings["batch_size"], True, strategy, None
    )


def _commit(folder: str) -> str:
    """Returns the checkout's commit, or a phrase where git can't say."""
    try:
        asked = subprocess.run(
            ["git", "-C", folder, "rev-parse", "--short", "HEAD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "of an unknown commit"
    return asked.stdout.strip() or "of an unknown commit"


if __name__ == "__main__":
    protocol.serve(prepare)
