"""Distillation: a student that learns a fine-tuned teacher's predictions on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import batches_taken, converted, register, replica_logs
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.models.blocks import batch_that_counts
from simclr_tf.models.processor_batch_norm import runs_here
from simclr_tf.training import padding
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.fit_batch import unpack
from simclr_tf.training.gradients import (
    current_learning_rate,
    loss_to_minimize,
    minimize,
    statistics_of,
)
from simclr_tf.training.labels import class_ids, targets
from simclr_tf.training.step_metrics import hits
from simclr_tf.training.step_model import count_rows
from simclr_tf.training.view_maker import step_seed
from simclr_tf.typing import KerasConfig, Logs


def distillation_loss(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """Cross-entropy between the softened probabilities of teacher and student, in float32.

    Args:
        teacher_logits: (N, C); no gradient flows into them.
        student_logits: (N, C).
        temperature: > 0; divides both logits.

    Returns:
        Scalar: the mean over N images of -sum over y of P_T(y | x) log P_S(y | x). Its least value
        is the entropy of the teacher's probabilities, not zero.

    Source: SimCLRv2 (arXiv:2006.10029) equation 2, as a mean.

    Example:
        >>> distillation_loss(tf.zeros([2, 4]), tf.zeros([2, 4]))  # log(4)
    """
    return tf.reduce_mean(distillation_losses(teacher_logits, student_logits, temperature))


def distillation_losses(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """Returns the terms of `distillation_loss`, one per image: float32 (N,)."""
    targets = tf.nn.softmax(tf.stop_gradient(tf.cast(teacher_logits, tf.float32)) / temperature)
    softened = tf.cast(student_logits, tf.float32) / temperature
    return supervised_loss(targets, softened, per_example=True)


@register
class Distiller(Classifier):
    """A classifier that is trained on a teacher's probabilities, and on labels where there are any.

    `fit` takes `images` or `(images, labels)` as `Classifier` does; a label of -1 means none. Rows
    of probabilities enter the loss as labels; their largest counts in the accuracy. Teacher and
    student see the same views. The loss is equation 3 of SimCLRv2 over the batch's N images,

        (1 - labels_weight) * mean over all images of the distillation loss
        + labels_weight * (sum over labelled images of the cross-entropy) / N,

    so that the paper's alpha is 1 - labels_weight. Evaluation needs labels, or the teacher.

    Args:
        encoder: As for `Classifier`: the student's.
        num_classes: Number of the teacher's classes.
        teacher: A Keras model or callable from images (N, h, w, c), float32 in [0, 1], to logits
            (N, num_classes), as `load_teacher` returns; it is not part of the model, nor saved with
            it. None: set it (`distiller.teacher = ...`) before `fit`.
        temperature: Softens both sides' probabilities; above 0.
        labels_weight: In [0, 1]; 0: no labels are used.
        **kwargs: As for `Classifier`, without label_smoothing and class_weights: a teacher's
            probabilities are smooth already.

    Raises:
        UserError: A setting out of range.

    Source: SimCLRv2 (arXiv:2006.10029) section 2, equations 2 and 3.

    Example:
        >>> teacher = load_teacher('finetuned/saved_model/100', image_size=32)
        >>> student = Distiller(ResNet(18, cifar_stem=True), teacher.num_classes, teacher)
        >>> student.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        >>> student.fit(dataset_of_images, epochs=100)
    """

    lowest_label = -1

    def __init__(
        self,
        encoder: keras.Model | keras.layers.Layer,
        num_classes: int,
        teacher: Callable[..., tf.Tensor] | None = None,
        temperature: float = 1.0,
        labels_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not temperature > 0:
            raise UserError(
                f"Expected temperature > 0; received: {temperature}. Pass one such as 1.0."
            )
        if not 0 <= labels_weight <= 1:
            raise UserError(
                f"Expected labels_weight in [0, 1]; received: {labels_weight}. 0 uses no labels."
            )
        if kwargs.get("label_smoothing") or kwargs.get("class_weights") is not None:
            raise UserError(
                "Expected a Distiller without label_smoothing and class_weights, which learns a "
                "teacher's probabilities; received: one of them. Give it to the teacher."
            )
        super().__init__(encoder, num_classes, **kwargs)
        self.temperature = temperature
        self.labels_weight = labels_weight
        # Untracked: the teacher's weights are not the student's.
        self._set_untracked("teacher", teacher)
        names = ("distill_loss", "teacher_agreement")
        more = {name: keras.metrics.Mean(name=name) for name in names}
        self._set_untracked("_train_metrics", {**more, **self._train_metrics})

    def __setattr__(self, name: str, value: object) -> None:
        if name == "teacher":
            self._set_untracked(name, value)
        else:
            super().__setattr__(name, value)

    def teacher_logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the teacher's logits, float32 (N, num_classes), without a gradient.

        Args:
            images: (N, height, width, channels), float32 in [0, 1].
        """
        if isinstance(self.teacher, keras.Model):
            with runs_here():
                logits = self.teacher(images, training=False)
        else:
            logits = converted(self.teacher)(images)
        return tf.stop_gradient(tf.cast(logits, tf.float32))

    def train_step(self, data: Any) -> Logs:
        """One step on this replica's share of the batch."""
        data, mask = padding.split(data)
        images, labels = unpack(data)
        count = count_rows(images, mask)
        learning_rate = current_learning_rate(self.optimizer)
        seed = step_seed(self.seed, batches_taken(self.optimizer))
        if self._make_views is not None:
            images = self._make_views(images, seed, copies=1)
        images = self._as_taken(images)
        teacher_logits = self.teacher_logits(images)
        before = statistics_of(self)
        with batch_that_counts(mask), tf.GradientTape() as tape:
            logits = self(images, training=True, **self._dropout(seed))
            loss, results = self._loss_and_parts(teacher_logits, logits, labels, count)
            decay = self._penalty()
            scaled = loss_to_minimize(self, loss + decay)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        step = minimize(self, gradients, variables, loss + decay, before)
        results = {**results, "weight_decay": decay, "total_loss": loss + decay}
        shown = self._update(results, count, step)
        if labels is not None:
            shown["supervised_acc"] = self._update_accuracy(labels, logits, mask)
        return replica_logs({**shown, "learning_rate": learning_rate})

    def _loss_and_parts(
        self,
        teacher_logits: tf.Tensor,
        logits: tf.Tensor,
        labels: tf.Tensor | None,
        count: replicas.ImageCount,
    ) -> tuple[tf.Tensor, Logs]:
        """Returns this replica's share of the loss without weight decay, and its parts."""
        losses = distillation_losses(teacher_logits, logits, self.temperature)
        distill = replicas.share_of_mean(losses, count)
        agreed = hits(tf.argmax(teacher_logits, -1), logits)
        results = {
            "distill_loss": distill,
            "teacher_agreement": replicas.share_of_mean(agreed, count),
        }
        if labels is None:
            return distill, results
        known = targets(labels, self.num_classes)
        if known.shape.rank == 1:
            losses = supervised_loss(tf.maximum(known, 0), logits, per_example=True)
            losses = tf.where(known >= 0, losses, 0.0)
        else:  # probabilities: every image has them
            losses = supervised_loss(known, logits, per_example=True)
        supervised = replicas.share_of_mean(losses, count)
        results["supervised_loss"] = supervised
        return (1 - self.labels_weight) * distill + self.labels_weight * supervised, results

    def _update_accuracy(
        self, labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor | None
    ) -> tf.Tensor:
        """Adds the labelled images of a batch to the running accuracy; returns it."""
        ids = class_ids(labels, self.num_classes)
        if mask is not None:
            ids = tf.where(mask, ids, -1)
        known = tf.cast(ids >= 0, tf.float32)
        right = hits(ids, logits)  # 0 where the label is -1
        right, known = tf.unstack(
            replicas.sum_over_replicas(tf.stack([tf.reduce_sum(right), tf.reduce_sum(known)]))
        )
        metric = self._train_metrics["supervised_acc"]
        metric.update_state(tf.math.divide_no_nan(right, known), sample_weight=known)
        return metric.result()

    def test_step(self, data: Any) -> Logs:
        """Accuracy on images and labels; on images alone, loss and agreement with the teacher."""
        element, mask = padding.split(data)
        images, labels = unpack(element)
        if labels is not None:
            return super().test_step(data)
        count = count_rows(images, mask)
        images = self._as_taken(images)
        with runs_here():
            logits = self(images, training=False)
        _, results = self._loss_and_parts(self.teacher_logits(images), logits, None, count)
        return replica_logs(self._update(results, count))

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        self._refuse_views(call, form)
        if self.teacher is None and (call == "fit" or (call == "evaluate" and not labelled)):
            raise UserError("Expected a teacher; received: None. Set distiller.teacher first.")
        if call == "fit" and self.labels_weight > 0 and not labelled:
            raise UserError(
                f"Expected (images, labels) for labels_weight={self.labels_weight}; received: "
                "images alone. Pass labels, or labels_weight=0."
            )

    def get_config(self) -> KerasConfig:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "labels_weight": self.labels_weight,
        }
