"""Fine-tuning: a classifier on a pretrained encoder, all of it or from some block on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment import draws
from simclr_tf.compat import batches_taken, register, replica_logs, serialize
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.models.blocks import batch_that_counts
from simclr_tf.models.encoders import wrap_encoder
from simclr_tf.models.endpoints import freeze_until
from simclr_tf.models.heads import ProjectionHead, linear_head
from simclr_tf.models.processor_batch_norm import runs_here
from simclr_tf.training import padding, structures
from simclr_tf.training.decay import check_penalty
from simclr_tf.training.fit_batch import unpack
from simclr_tf.training.gradients import (
    current_learning_rate,
    loss_to_minimize,
    minimize,
    statistics_of,
)
from simclr_tf.training.labels import check_class_weights, targets
from simclr_tf.training.step_metrics import hits, update_evaluation
from simclr_tf.training.step_model import StepModel, count_rows
from simclr_tf.training.view_maker import serialize_optional, step_seed
from simclr_tf.typing import KerasConfig, Labels, Logs

# Folded into a step's seed; its views fold in numbers from 0 on.
_DROPOUT = -2


@register
class Classifier(StepModel):
    """An encoder, some layers of its projection head, and a linear head, trained on labels.

    `fit` takes `(images, labels)` in every form that Keras takes, images as for `SimCLR`. Labels
    are class ids (N,), one-hot rows, or probabilities (N, num_classes) (mixed or smoothed labels):
    the loss is the cross-entropy with them, accuracy counts the largest. Rows with several
    ones are refused: `MultiLabelClassifier` takes them.

    Args:
        encoder: A Keras model or layer, images (N, h, w, c) to features (N, d); usually the
            `encoder` of a trained `SimCLR`.
        num_classes: Number of classes.
        projection_head: The pretrained head, or None to start from the features.
        projection_selector: Layer of the projection head that the linear head reads: 0 the
            features, 1 the first hidden layer (SimCLRv2's choice), -1 the last.
        augment: A callable or layer from a batch of images to as many views; None: images are used
            as they are.
        fine_tune_after_block: -1 trains everything but what is frozen already, such as by another
            classifier of this encoder; k freezes the stem and the first k block groups, so that 4
            leaves a ResNet's head only. Frozen batch norm runs in inference mode
            (as in the TF1 release and the papers; the TF2 release left it in training mode).
        zero_init_logits_layer: Whether the linear head starts at zero.
        weight_decay: L2 penalty; with LARS, which decays the rest itself, it covers the linear
            head only.
        weight_penalty: What weight_decay weighs: `l2`, `smooth_l1`, or `decoupled` from the
            gradient (SGD and Adam); see `training/decay.py`.
        label_smoothing: In [0, 1): share of the loss that is against uniform probabilities.
        class_weights: Factors of the loss, one for each class, such as `balanced_weights` gives;
            None: 1.
        head_dropout: In [0, 1): share of the features that the linear head does not see in a step.
        seed: Seeds augmentation and dropout of every step.
        value_range: Of float images, as for `SimCLR`.
        input_kind: `images` or `any`, as for `SimCLR`.
        **kwargs: As for `keras.Model`.

    Raises:
        UserError: A setting out of range.

    Source: SimCLR section 4.2 and appendix B.8; SimCLRv2 section 2 and figure 5.

    Example:
        >>> classifier = Classifier(simclr.encoder, num_classes=10, fine_tune_after_block=4)
        >>> classifier.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
        >>> classifier.fit(dataset_of_images_and_labels, epochs=10)
    """

    def __init__(
        self,
        encoder: keras.Model | keras.layers.Layer,
        num_classes: int,
        projection_head: ProjectionHead | None = None,
        projection_selector: int = 0,
        augment: Callable[..., tf.Tensor] | None = None,
        fine_tune_after_block: int = -1,
        zero_init_logits_layer: bool = False,
        weight_decay: float = 0.0,
        seed: int = 0,
        value_range: Sequence[float] | None = pixel_values.UNIT_RANGE,
        weight_penalty: str = "l2",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        head_dropout: float = 0.0,
        input_kind: str = "images",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        structures.check_input_kind(input_kind)
        check_penalty(weight_penalty)
        for name, share in (("label_smoothing", label_smoothing), ("head_dropout", head_dropout)):
            if not 0 <= share < 1:
                raise UserError(f"Expected 0 <= {name} < 1; received: {share}. Pass 0.1 or so.")
        self.encoder = wrap_encoder(encoder, several_inputs=input_kind != "images")
        freeze_until(self.encoder, fine_tune_after_block)
        self.projection_head = projection_head or ProjectionHead(mode="none")
        if not self.projection_head.built:
            self.projection_head.build(self.encoder.output_shape)
        self.num_classes = num_classes
        self.projection_selector = projection_selector
        self.fine_tune_after_block = fine_tune_after_block
        self.zero_init_logits_layer = zero_init_logits_layer
        self.weight_decay = weight_decay
        self.weight_penalty = weight_penalty
        self.label_smoothing = label_smoothing
        self.class_weights = check_class_weights(class_weights, num_classes)
        self.head_dropout = head_dropout
        self.seed = seed
        self.supervised_head = linear_head(num_classes)
        width = self.encoder.output_shape[-1]
        width = self.projection_head.selected_width(width, projection_selector)
        self.supervised_head.build((None, width))
        if zero_init_logits_layer:
            self.reset_head()
        # With a frozen encoder, projection layers run in training mode only where the linear head
        # reads them: otherwise they keep their statistics, as in the TF1 release.
        trains = self.encoder.trainable_variables or projection_selector != 0
        object.__setattr__(self, "_projection_trains", bool(trains))
        names = ("supervised_loss", "supervised_acc", "weight_decay", "total_loss")
        self._finish(augment, names, True, value_range=value_range, input_kind=input_kind)

    def unread_layers(self) -> list[keras.layers.Layer]:
        head = self.projection_head
        return head.dense_layers[self.projection_selector % (head.depth + 1) :]

    def reset_head(self) -> None:
        """Sets the linear head to zero."""
        for variable in (self.supervised_head.kernel, self.supervised_head.bias):
            variable.assign(tf.zeros(variable.shape, variable.dtype))

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns logits, (N, num_classes), of images (N, height, width, channels).

        Args:
            inputs: Images, or other inputs as `input_kind` says.
            training: Whether batch norm uses and moves batch statistics.
            dropout_seed: Int32 (2,), draws what the linear head does not see; None: it sees all.
        """
        features = self.encoder(self._as_taken(inputs), training=training)
        in_training = training and self._projection_trains
        hidden = self.projection_head.hidden_layers(features, training=in_training)
        seen = hidden[self.projection_selector]
        if dropout_seed is not None and self.head_dropout:
            kept = draws.uniform(dropout_seed, tf.shape(seen)) >= self.head_dropout
            seen = tf.where(kept, seen / (1.0 - self.head_dropout), tf.zeros_like(seen))
        return self.supervised_head(seen)

    def train_step(self, data: Any) -> Logs:
        """One supervised step on this replica's share of the batch."""
        data, mask = padding.split(data)
        images, labels = unpack(data)
        labels = self._targets(labels)
        count = count_rows(images, mask)
        learning_rate = current_learning_rate(self.optimizer)
        seed = step_seed(self.seed, batches_taken(self.optimizer))
        if self._make_views is not None:
            images = self._make_views(images, seed, copies=1)
        before = statistics_of(self)
        with batch_that_counts(mask), tf.GradientTape() as tape:
            logits = self(images, training=True, **self._dropout(seed))
            loss = replicas.share_of_mean(self._losses_of(labels, logits), count)
            decay = self._penalty()
            scaled = loss_to_minimize(self, loss + decay)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        step = minimize(self, gradients, variables, loss + decay, before)
        results = {
            "supervised_loss": loss,
            "supervised_acc": replicas.share_of_mean(self._hits(labels, logits), count),
            "weight_decay": decay,
            "total_loss": loss + decay,
        }
        return replica_logs({**self._update(results, count, step), "learning_rate": learning_rate})

    # What labels mean; a classifier of several classes at once has others.

    def _targets(self, labels: Labels) -> tf.Tensor:
        return targets(labels, self.num_classes)

    def _losses_of(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return supervised_loss(labels, logits, True, self.label_smoothing, self.class_weights)

    def _hits(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return hits(labels, logits)

    def _dropout(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the argument of `call` that switches dropout on; none where there is none."""
        return {"dropout_seed": draws.fold_in(seed, _DROPOUT)} if self.head_dropout else {}

    def test_step(self, data: Any) -> Logs:
        """Accuracy on images and labels."""
        data, mask = padding.split(data)
        images, labels = unpack(data)
        labels = self._targets(labels)
        with runs_here():
            logits = self(images, training=False)
        decay = self._penalty()
        count = count_rows(images, mask)
        return replica_logs(update_evaluation(self._eval_metrics, labels, logits, decay, count))

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        super()._check_call(call, form, labelled)
        self._refuse_views(call, form)
        if call == "evaluate" and not labelled:
            raise UserError(
                "Expected (images, labels) to evaluate a classifier; received: images alone. Pass "
                "labels, or call predict."
            )

    def _refuse_views(self, call: str, form: str) -> None:
        if form == "views" or (form == "canvas" and (call != "fit" or self.augment is None)):
            what, shape = "images", "arrays (N, height, width, channels)"
            if self._structure is not None:
                what, shape = "inputs", structures.describe(self._structure)
            raise UserError(f"Expected {what}, for a classifier; received: {form}. Pass {shape}.")

    def get_config(self) -> KerasConfig:
        return {
            "encoder": serialize(self.encoder),
            "num_classes": self.num_classes,
            "projection_head": serialize(self.projection_head),
            "projection_selector": self.projection_selector,
            "augment": serialize_optional(self.augment, "augmentation"),
            "fine_tune_after_block": self.fine_tune_after_block,
            "zero_init_logits_layer": self.zero_init_logits_layer,
            "weight_decay": self.weight_decay,
            "weight_penalty": self.weight_penalty,
            "label_smoothing": self.label_smoothing,
            "class_weights": self.class_weights,
            "head_dropout": self.head_dropout,
            "seed": self.seed,
            "value_range": self.value_range,
            "input_kind": self.input_kind,
            "name": self.name,
        }
