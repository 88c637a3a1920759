"""What steps report: hits, running means, and evaluation metrics by the release's names."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices import replicas
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.training.labels import class_ids
from simclr_tf.typing import Logs


def hits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for each row whose largest logit is the label's, else 0.0: float32 (N,).

    Args:
        labels: Class ids (N,), or probabilities (N, classes), of which the largest counts.
        logits: (N, classes).
    """
    same = tf.argmax(logits, -1, output_type=tf.int32) == class_ids(labels, logits.shape[-1])
    return tf.cast(same, tf.float32)


def mean_metric(name: str) -> keras.metrics.Mean:
    """Returns a running mean. float32, as float16 could not count more than 65,504 images."""
    return keras.metrics.Mean(name=name, dtype="float32")


def evaluation_metrics() -> dict[str, keras.metrics.Mean]:
    """Returns the metrics of an evaluation, by the release's names."""
    names = ("label_top_1_accuracy", "label_top_5_accuracy", "regularization_loss",
             "eval_supervised_loss")  # fmt: skip
    return {name: mean_metric(name) for name in names}


def update_evaluation(
    metrics: dict[str, keras.metrics.Mean],
    labels: tf.Tensor,
    logits: tf.Tensor,
    decay: tf.Tensor,
    count: replicas.ImageCount,
) -> Logs:
    """Adds a batch of labels (N,) or (N, classes) and logits (N, classes); returns the results."""
    logits = tf.cast(logits, tf.float32)
    in_top_5 = tf.math.in_top_k(class_ids(labels, logits.shape[-1]), logits, 5)
    losses = supervised_loss(labels, logits, per_example=True)
    found = {
        "label_top_1_accuracy": replicas.share_of_mean(hits(labels, logits), count),
        "label_top_5_accuracy": replicas.share_of_mean(tf.cast(in_top_5, tf.float32), count),
        "regularization_loss": decay,
        "eval_supervised_loss": replicas.share_of_mean(losses, count),
    }
    for name, value in replicas.mean_of_shares(found).items():
        metrics[name].update_state(value, sample_weight=count.total)
    results = {name: metric.result() for name, metric in metrics.items()}
    results["supervised_loss"] = results.pop("eval_supervised_loss")
    loss = results["supervised_loss"] + results["regularization_loss"]
    return {**results, "loss": loss}


def with_loss(logs: Logs) -> Logs:
    """Returns logs with `loss`, the name that Keras's callbacks expect.

    It is `total_loss`, or in an evaluation without labels, which has no weight decay,
    `contrast_loss` or `distill_loss`.
    """
    names = ("total_loss", "contrast_loss", "distill_loss")
    return {**logs, "loss": next(logs[name] for name in names if name in logs)}
