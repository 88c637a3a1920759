"""What steps report: hits, running means, and evaluation metrics by the release's names."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices import replicas
from simclr_tf.losses.cross_entropy import multi_label_loss, supervised_loss
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


def multi_label_hits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the share of classes, of each row, that are answered right: float32 (N,).

    Args:
        labels: (N, classes), from 0 to 1; above a half is yes.
        logits: (N, classes); above 0 is yes.
    """
    same = tf.equal(labels > 0.5, logits > 0.0)
    return tf.reduce_mean(tf.cast(same, tf.float32), axis=-1)


def mean_metric(name: str) -> keras.metrics.Mean:
    """Returns a running mean. float32, as float16 could not count more than 65,504 images."""
    return keras.metrics.Mean(name=name, dtype="float32")


class MeanAveragePrecision(keras.metrics.Metric):
    """The mean over classes of the average precision, of scores in bins, in a fixed memory.

        AP = sum over thresholds n of (recall_n - recall_(n-1)) * precision_n

    Keras's own area under the precision-recall curve counts a class that no image is of as 0; here
    such a class does not count. Every replica adds what all of them have: the quotients are the
    same however often.

    Args:
        num_classes: C.
        bins: Of the scores of a class: two scores in one bin count as equal.
        name: Of the metric.
    """

    def __init__(self, num_classes: int, bins: int = 2048, name: str | None = None) -> None:
        super().__init__(name=name, dtype="float32")
        self.num_classes, self.bins = num_classes, bins
        self.counts = self.add_weight(
            name="counts", shape=(num_classes * bins, 2), initializer="zeros"
        )

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor | None = None
    ) -> None:
        """Adds rows.

        Args:
            labels: (N, C), from 0 to 1.
            logits: (N, C).
            mask: (N,) bool, which rows count; None: all.
        """
        # Half the logit: so that scores of rare classes don't all share the lowest bin.
        scores = tf.sigmoid(tf.cast(logits, tf.float32) / 2.0)
        place = tf.minimum(tf.cast(scores * self.bins, tf.int32), self.bins - 1)
        place += self.bins * tf.range(self.num_classes)
        weights = tf.stack([labels, 1.0 - labels], axis=-1)
        if mask is not None:
            weights = tf.where(mask[:, tf.newaxis, tf.newaxis], weights, 0.0)
        added = tf.math.unsorted_segment_sum(
            tf.reshape(weights, [-1, 2]), tf.reshape(place, [-1]), self.num_classes * self.bins
        )
        self.counts.assign_add(replicas.sum_over_replicas(added))

    def result(self) -> tf.Tensor:
        """Returns the mean average precision, a scalar; 0 before the first row."""
        counts = tf.reshape(tf.convert_to_tensor(self.counts), [self.num_classes, self.bins, 2])
        true, false = tf.unstack(counts[:, ::-1], axis=-1)  # the highest scores first
        found = tf.cumsum(true, axis=-1)
        precision = tf.math.divide_no_nan(found, found + tf.cumsum(false, axis=-1))
        positives = found[:, -1]
        average = tf.math.divide_no_nan(tf.reduce_sum(true * precision, axis=-1), positives)
        known = tf.cast(positives > 0, tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(average), tf.reduce_sum(known))

    def reset_state(self) -> None:
        self.counts.assign(tf.zeros_like(tf.convert_to_tensor(self.counts)))


def evaluation_metrics() -> dict[str, keras.metrics.Metric]:
    """Returns the metrics of an evaluation, by the release's names."""
    names = ("label_top_1_accuracy", "label_top_5_accuracy", "regularization_loss",
             "eval_supervised_loss")  # fmt: skip
    return {name: mean_metric(name) for name in names}


def multi_label_metrics(num_classes: int) -> dict[str, keras.metrics.Metric]:
    """Returns the metrics of an evaluation in which images are of several classes."""
    names = ("label_accuracy", "regularization_loss", "eval_supervised_loss")
    name = "label_mean_average_precision"
    means = {mean: mean_metric(mean) for mean in names}
    return {**means, name: MeanAveragePrecision(num_classes, name=name)}


def update_evaluation(
    metrics: dict[str, keras.metrics.Metric],
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
    add_shares(metrics, found, count)
    return evaluation_results(metrics)


def update_multi_label_evaluation(
    metrics: dict[str, keras.metrics.Metric],
    labels: tf.Tensor,
    logits: tf.Tensor,
    decay: tf.Tensor,
    count: replicas.ImageCount,
) -> Logs:
    """Adds a batch of labels and logits, (N, classes) each; returns the results."""
    found = {
        "label_accuracy": replicas.share_of_mean(multi_label_hits(labels, logits), count),
        "regularization_loss": decay,
        "eval_supervised_loss": replicas.share_of_mean(multi_label_loss(labels, logits), count),
    }
    add_shares(metrics, found, count)
    metrics["label_mean_average_precision"].update_state(labels, logits, count.mask)
    return evaluation_results(metrics)


def add_shares(
    metrics: dict[str, keras.metrics.Metric], found: Logs, count: replicas.ImageCount
) -> None:
    """Adds this replica's shares of means, by the names of their metrics."""
    for name, value in replicas.mean_of_shares(found).items():
        metrics[name].update_state(value, sample_weight=count.total)


def evaluation_results(metrics: dict[str, keras.metrics.Metric]) -> Logs:
    """Returns all results of an evaluation, with `supervised_loss` and `loss`."""
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
