"""Fine-tuning: a classifier on a pretrained encoder, all of it or from some block on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import batches_taken, register, replica_logs, serialize
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.images.pixel_values import to_float
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.models.blocks import batch_that_counts
from simclr_tf.models.encoders import wrap_encoder
from simclr_tf.models.endpoints import freeze_until
from simclr_tf.models.heads import ProjectionHead, linear_head
from simclr_tf.training import padding
from simclr_tf.training.decay import decay_loss
from simclr_tf.training.fit_batch import unpack
from simclr_tf.training.gradients import current_learning_rate, loss_to_minimize, minimize
from simclr_tf.training.labels import targets
from simclr_tf.training.step_metrics import hits, update_evaluation
from simclr_tf.training.step_model import StepModel, count_rows
from simclr_tf.training.view_maker import serialize_augment, step_seed
from simclr_tf.typing import KerasConfig, Logs


@register
class Classifier(StepModel):
    """An encoder, some layers of its projection head, and a linear head, trained on labels.

    `fit` takes `(images, labels)` in every form that Keras takes, images as for `SimCLR`. Labels
    are class ids (N,), one-hot rows, or probabilities (N, num_classes) (mixed or smoothed labels):
    the loss is the cross-entropy with them, accuracy counts the largest. Rows with several
    ones are refused.

    Args:
        encoder: A Keras model or layer, images (N, h, w, c) to features (N, d); usually the
            `encoder` of a trained `SimCLR`.
        num_classes: Number of classes.
        projection_head: The pretrained head, or None to start from the features.
        projection_selector: Layer of the projection head that the linear head reads: 0 the
            features, 1 the first hidden layer (SimCLRv2's choice), -1 the last.
        augment: A callable or layer from a batch of images to as many views; None: images are used
            as they are.
        fine_tune_after_block: -1 trains everything; k freezes the stem and the first k block
            groups, so that 4 leaves a ResNet's head only. Frozen batch norm runs in inference mode
            (as in the TF1 release and the papers; the TF2 release left it in training mode).
        zero_init_logits_layer: Whether the linear head starts at zero.
        weight_decay: L2 penalty; with LARS, which decays the rest itself, it covers the linear
            head only.
        seed: Seeds the augmentation of every step.
        value_range: Of float images, as for `SimCLR`.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = wrap_encoder(encoder)
        freeze_until(self.encoder, fine_tune_after_block)
        self.projection_head = projection_head or ProjectionHead(mode="none")
        if not self.projection_head.built:
            self.projection_head.build(self.encoder.output_shape)
        self.num_classes = num_classes
        self.projection_selector = projection_selector
        self.fine_tune_after_block = fine_tune_after_block
        self.zero_init_logits_layer = zero_init_logits_layer
        self.weight_decay = weight_decay
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
        self._finish(augment, names, evaluates=True, value_range=value_range)

    def reset_head(self) -> None:
        """Sets the linear head to zero."""
        for variable in (self.supervised_head.kernel, self.supervised_head.bias):
            variable.assign(tf.zeros(variable.shape, variable.dtype))

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns logits, (N, num_classes), of images (N, height, width, channels)."""
        features = self.encoder(to_float(inputs), training=training)
        in_training = training and self._projection_trains
        hidden = self.projection_head.hidden_layers(features, training=in_training)
        return self.supervised_head(hidden[self.projection_selector])

    def train_step(self, data: Any) -> Logs:
        """One supervised step on this replica's share of the batch."""
        data, mask = padding.split(data)
        images, labels = unpack(data)
        labels = targets(labels, self.num_classes)
        count = count_rows(images, mask)
        learning_rate = current_learning_rate(self.optimizer)
        if self._make_views is not None:
            seed = step_seed(self.seed, batches_taken(self.optimizer))
            images = self._make_views(images, seed, copies=1)
        with batch_that_counts(mask), tf.GradientTape() as tape:
            logits = self(images, training=True)
            losses = supervised_loss(labels, logits, per_example=True)
            loss = replicas.share_of_mean(losses, count)
            decay = decay_loss(self._decayed, self.weight_decay)
            scaled = loss_to_minimize(self, loss + decay)
        variables = self.trainable_variables
        minimize(self, tape.gradient(scaled, variables), variables)
        results = {
            "supervised_loss": loss,
            "supervised_acc": replicas.share_of_mean(hits(labels, logits), count),
            "weight_decay": decay,
            "total_loss": loss + decay,
        }
        return replica_logs({**self._update(results, count), "learning_rate": learning_rate})

    def test_step(self, data: Any) -> Logs:
        """Accuracy on images and labels."""
        data, mask = padding.split(data)
        images, labels = unpack(data)
        labels = targets(labels, self.num_classes)
        logits = self(images, training=False)
        decay = decay_loss(self._decayed, self.weight_decay)
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
            raise UserError(
                f"Expected images, for a classifier; received: {form}. Pass arrays (N, height, "
                "width, channels)."
            )

    def get_config(self) -> KerasConfig:
        return {
            "encoder": serialize(self.encoder),
            "num_classes": self.num_classes,
            "projection_head": serialize(self.projection_head),
            "projection_selector": self.projection_selector,
            "augment": serialize_augment(self.augment),
            "fine_tune_after_block": self.fine_tune_after_block,
            "zero_init_logits_layer": self.zero_init_logits_layer,
            "weight_decay": self.weight_decay,
            "seed": self.seed,
            "value_range": self.value_range,
            "name": self.name,
        }
