"""Several classes in one image: a classifier that answers yes or no for each."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from simclr_tf.compat import register, replica_logs
from simclr_tf.losses.cross_entropy import multi_label_loss
from simclr_tf.models.processor_batch_norm import runs_here
from simclr_tf.training import padding
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.fit_batch import Rules, unpack
from simclr_tf.training.labels import multi_label_targets
from simclr_tf.training.step_metrics import (
    multi_label_hits,
    multi_label_metrics,
    update_multi_label_evaluation,
)
from simclr_tf.training.step_model import count_rows
from simclr_tf.typing import Labels, Logs


@register
class MultiLabelClassifier(Classifier):
    """A `Classifier` of images that are of several classes at once, or of none.

    Labels are rows (N, num_classes) of zeros and ones, or of probabilities of each class; any
    number of ones is right. The loss is the binary cross-entropy, averaged over the classes.
    `supervised_acc` is the share of right answers at a probability of a half; `evaluate` gives
    `label_accuracy`, the same, and `label_mean_average_precision`: the mean over those classes that
    some image is of, from scores in 2,048 bins: near to scikit-learn's
    `average_precision_score(rows, classifier.predict(images))`, which takes every score for itself
    (tests: within 0.003).

    Args:
        encoder: As for `Classifier`.
        num_classes: Number of classes.
        label_smoothing: e in [0, 1): labels y become (1 - e) y + e / 2.
        class_weights: Factors of the classes' terms in the loss; None: 1.
        **kwargs: As for `Classifier`.

    Raises:
        UserError: A setting out of range.

    Source: as for `Classifier`. Average precision is scikit-learn's, without interpolation.

    Example:
        >>> classifier = MultiLabelClassifier(simclr.encoder, num_classes=20)
        >>> classifier.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        >>> classifier.fit(images, rows_of_zeros_and_ones)
        >>> classifier.evaluate(test_images, test_rows, return_dict=True)
    """

    def __init__(self, encoder: Any, num_classes: int, **kwargs: Any) -> None:
        super().__init__(encoder, num_classes, **kwargs)
        self._set_untracked("_eval_metrics", multi_label_metrics(num_classes))

    def rules(self, call: str) -> Rules:
        rules = super().rules(call)
        if rules.labels is None:
            return rules
        return rules._replace(labels=rules.labels._replace(several=True))

    def _targets(self, labels: Labels) -> tf.Tensor:
        return multi_label_targets(labels)

    def _losses_of(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return multi_label_loss(labels, logits, self.label_smoothing, self.class_weights)

    def _hits(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return multi_label_hits(labels, logits)

    def test_step(self, data: Any) -> Logs:
        """Accuracy and average precision on images and rows of labels."""
        data, mask = padding.split(data)
        images, labels = unpack(data)
        labels = self._targets(labels)
        with runs_here():
            logits = self(images, training=False)
        decay = self._penalty()
        count = count_rows(images, mask)
        return replica_logs(
            update_multi_label_evaluation(self._eval_metrics, labels, logits, decay, count)
        )
