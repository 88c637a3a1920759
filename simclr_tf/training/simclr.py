"""SimCLR as a Keras model: two views, an encoder, a projection head, the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import batches_taken, register, replica_logs, serialize
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.images.pixel_values import to_float
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.losses.nt_xent import nt_xent
from simclr_tf.models.blocks import batch_that_counts
from simclr_tf.models.encoders import wrap_encoder
from simclr_tf.models.heads import ProjectionHead, linear_head, without_batch_norm
from simclr_tf.training import gradient_cache, padding
from simclr_tf.training.decay import decay_loss
from simclr_tf.training.fit_batch import unpack
from simclr_tf.training.gradients import current_learning_rate, loss_to_minimize, minimize
from simclr_tf.training.labels import targets
from simclr_tf.training.step_metrics import hits, update_evaluation
from simclr_tf.training.step_model import StepModel, count_rows
from simclr_tf.training.view_maker import serialize_augment, step_seed
from simclr_tf.typing import Batch, KerasConfig, Logs

_SETTINGS = (
    "temperature", "hidden_norm", "num_classes", "weight_decay", "projection_selector",
    "supervised_loss_weight", "supervised_batch_norm", "micro_batch_size", "seed", "value_range",
    "name",
)  # fmt: skip


@register
class SimCLR(StepModel):
    """Contrastive pretraining of an encoder, with an online linear evaluation beside it.

    Per step: two views of every image, encoder, projection head, NT-Xent over the views of all
    replicas. Behind a stop-gradient, a linear head learns the labels where there are any.

    `fit` takes `images` or `(images, labels)` in every form that Keras takes (`tf.data`, arrays,
    generators, `keras.utils.Sequence`): images uint8, uint16 or float in [0, 1], of shape (N,
    height, width, channels) (whatever encoder and augmentation take); labels class ids (N,),
    one-hot, or probabilities (N, num_classes), with which the linear head is trained (accuracy
    counts the largest). Ready-made views are passed as `((view1, view2), labels)`.

    Args:
        encoder: A Keras model or layer, images (N, h, w, c) to features (N, d); outputs of rank 4
            are averaged over space.
        projection_head: g(.), or None for a three-layer one of 128 dimensions (SimCLRv2).
        augment: A callable or layer from a batch of images to as many views. It is called once,
            with every image twice; it gets `seed` (int32, shape (2,)) and `training=True` if its
            signature takes them. None: the data set delivers views.
        temperature: tau of NT-Xent, above 0.
        hidden_norm: Whether z is scaled to length 1.
        num_classes: Classes of the linear head; None for no linear head.
        weight_decay: L2 penalty. With LARS, which decays the rest itself, it covers the linear head
            only; give both the same value.
        projection_selector: Layer of the projection head that the linear head reads (0: features).
        supervised_loss_weight: Weight of the linear head's loss, above 0. Behind the stop-gradient
            it scales the head's gradient alone, which with LARS and SGD acts as its learning rate:
            long features need less than 1 (SGD overshoots above about 8 / |h|^2).
        supervised_batch_norm: Whether the linear head reads features through batch norm without
            scale and offset: still linear, and learns faster where features are long or uneven.
        micro_batch_size: Images embedded at a time (both views of each), for batches whose
            activations do not fit into memory: gradient caching, see `training/gradient_cache.py`.
            It must divide a replica's batch. The gradient is that of the whole batch where an
            image's features do not depend on the other images; batch norm in the encoder normalises
            by the statistics of each micro-batch on its replica, and its moving averages take one
            step per micro-batch. The heads see the whole batch. Dropout in the encoder draws again
            in the second pass under Keras 2 (a warning says so), not under Keras 3. None: all at
            once.
        seed: Seeds the views of every step.
        value_range: (lowest, highest) of float images; images beyond it are refused (with a
            tolerance for the overshoot of bicubic resizing), with any augmentation; None: any
            finite values. It scales nothing, and uint8 and uint16 always become [0, 1].
            `SimCLRAugment` makes views in [0, 1] and accepts no wider range.
        **kwargs: As for `keras.Model`.

    Raises:
        UserError: A setting out of range, or data that does not fit the model.

    Source: SimCLR (arXiv:2002.05709) algorithm 1; SimCLRv2 (arXiv:2006.10029) section 2.

    Example:
        >>> model = SimCLR(ResNet(18, cifar_stem=True), augment=SimCLRAugment(32), num_classes=10)
        >>> model.compile(optimizer=LARS(0.3, weight_decay=1e-6))
        >>> model.fit(dataset_of_images_and_labels, epochs=100)
    """

    def __init__(
        self,
        encoder: keras.Model | keras.layers.Layer,
        projection_head: ProjectionHead | None = None,
        augment: Callable[..., tf.Tensor] | None = None,
        temperature: float = 0.1,
        hidden_norm: bool = True,
        num_classes: int | None = None,
        weight_decay: float = 0.0,
        projection_selector: int = 0,
        supervised_loss_weight: float = 1.0,
        supervised_batch_norm: bool = False,
        micro_batch_size: int | None = None,
        seed: int = 0,
        value_range: Sequence[float] | None = pixel_values.UNIT_RANGE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not temperature > 0:
            raise UserError(f"Expected temperature > 0; received: {temperature}.")
        if not supervised_loss_weight > 0:
            raise UserError(
                f"Expected supervised_loss_weight > 0; received: {supervised_loss_weight}."
            )
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(
                f"Expected micro_batch_size of at least 1, or None; received: {micro_batch_size}."
            )
        self.encoder = wrap_encoder(encoder)
        if micro_batch_size is not None:
            gradient_cache.warn_of_random_layers(self.encoder)
        self.projection_head = projection_head or ProjectionHead()
        if not self.projection_head.built:
            self.projection_head.build(self.encoder.output_shape)
        self.temperature = temperature
        self.hidden_norm = hidden_norm
        self.num_classes = num_classes
        self.weight_decay = weight_decay
        self.projection_selector = projection_selector
        self.supervised_loss_weight = supervised_loss_weight
        self.supervised_batch_norm = supervised_batch_norm
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        names = ["contrast_loss", "contrast_acc", "contrast_entropy", "weight_decay", "total_loss"]
        self.supervised_head = None
        if num_classes is not None:
            names += ["supervised_loss", "supervised_acc"]
            self.supervised_head = linear_head(
                num_classes,
                batch_norm=supervised_batch_norm,
                batch_norm_momentum=self.projection_head.batch_norm_momentum,
                synchronized=self.projection_head.synchronized,
            )
            width = self.encoder.output_shape[-1]
            width = self.projection_head.selected_width(width, projection_selector)
            self.supervised_head.build((None, width))
        self._finish(augment, names, evaluates=num_classes is not None, value_range=value_range)

    def with_plain_head(self) -> SimCLR:
        """Returns a model of the same layers whose linear head has no batch norm.

        Its logits are the same, since batch norm is linear in inference. This model is not changed;
        where its head has no batch norm, it is returned itself.

        Example:
            >>> simclr.with_plain_head().supervised_head.batch_norm is None
            True
        """
        head = self.supervised_head
        if head is None or head.batch_norm is None:
            return self
        settings = {**self._settings(), "supervised_batch_norm": False, "micro_batch_size": None}
        plain = SimCLR(self.encoder, self.projection_head, self.augment, **settings)
        norm = head.batch_norm
        variables = (head.kernel, head.bias, norm.moving_mean, norm.moving_variance)
        values = without_batch_norm(*(np.asarray(variable) for variable in variables))
        plain.supervised_head.set_weights(values)
        # Set afterwards: the constructor would warn about dropout again.
        plain.micro_batch_size = self.micro_batch_size
        return plain

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns features h, (N, d), of images (N, height, width, channels)."""
        return self.encoder(to_float(inputs), training=training)

    def views(self, inputs: Batch | tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
        """Returns both views of every image.

        Args:
            inputs: A batch of images, or the tuple (view1, view2).
            seed: int32, shape (2,).

        Returns:
            Float32 (2N, h, w, c) in [0, 1]: N first views, then N second views.
        """
        if isinstance(inputs, (tuple, list)):
            return tf.concat([to_float(view) for view in inputs], 0)
        return self._make_views(inputs, seed, copies=2)

    def train_step(self, data: Any) -> Logs:
        """One step of algorithm 1 on this replica's share of the batch."""
        data, mask = padding.split(data, self.micro_batch_size or 1)
        inputs, labels = unpack(data)
        learning_rate = current_learning_rate(self.optimizer)
        seed = step_seed(self.seed, batches_taken(self.optimizer))
        if self.num_classes is not None:
            labels = targets(labels, self.num_classes)
        count = count_rows(inputs, mask)
        with batch_that_counts(mask):
            gradients, results = self._gradients(inputs, labels, seed, count)
        minimize(self, gradients, self.trainable_variables)
        return replica_logs({**self._update(results, count), "learning_rate": learning_rate})

    def _gradients(
        self,
        inputs: Batch | tuple[tf.Tensor, tf.Tensor],
        labels: tf.Tensor | None,
        seed: tf.Tensor,
        count: replicas.ImageCount,
    ) -> tuple[list[tf.Tensor | None], Logs]:
        """Returns the gradient of each trainable variable, and the step's results."""

        def loss_of(features: tf.Tensor) -> tuple[tf.Tensor, Logs]:
            return self._loss_and_results(features, labels, count)

        variables = self.trainable_variables
        if self.micro_batch_size is not None:  # of the encoder: both heads see the whole batch
            batches = gradient_cache.cut(inputs, self._make_views, seed, self.micro_batch_size)
            return gradient_cache.gradients(batches, self.encoder, variables, loss_of)
        views = self.views(inputs, seed)
        with tf.GradientTape() as tape:
            scaled, results = loss_of(self.encoder(views, training=True))
        return tape.gradient(scaled, variables), results

    def _loss_and_results(
        self, features: tf.Tensor, labels: tf.Tensor | None, count: replicas.ImageCount
    ) -> tuple[tf.Tensor, Logs]:
        """Returns this replica's share of the loss to minimise, and the step's results."""
        hidden = self.projection_head.hidden_layers(features, training=True)
        results = self._contrast(hidden[-1], count.mask)
        loss = results["contrast_loss"]
        if self.supervised_head is not None:
            frozen = tf.stop_gradient(hidden[self.projection_selector])
            logits = self.supervised_head(frozen, training=True)
            both = tf.concat([labels, labels], 0)
            losses = supervised_loss(both, logits, per_example=True)
            results["supervised_loss"] = replicas.share_of_mean(losses, count, copies=2)
            right = hits(both, logits)
            results["supervised_acc"] = replicas.share_of_mean(right, count, copies=2)
            loss += self.supervised_loss_weight * results["supervised_loss"]
        results["weight_decay"] = decay_loss(self._decayed, self.weight_decay)
        results["total_loss"] = loss = loss + results["weight_decay"]
        return loss_to_minimize(self, loss), results

    def _contrast(self, embedding: tf.Tensor, mask: tf.Tensor | None) -> Logs:
        contrast = nt_xent(embedding, self.temperature, self.hidden_norm, mask=mask)
        return {
            "contrast_loss": contrast.loss,
            "contrast_acc": contrast.accuracy,
            "contrast_entropy": contrast.entropy,
        }

    def test_step(self, data: Any) -> Logs:
        """Accuracy of the linear head; without head or labels, the contrastive metrics."""
        data, mask = padding.split(data)
        inputs, labels = unpack(data)
        count = count_rows(inputs, mask)
        if self.num_classes is not None and labels is not None:
            hidden = self.projection_head.hidden_layers(self(inputs, training=False))
            logits = self.supervised_head(hidden[self.projection_selector])
            labels = targets(labels, self.num_classes)
            decay = decay_loss(self._decayed, self.weight_decay)
            return replica_logs(update_evaluation(self._eval_metrics, labels, logits, decay, count))
        views = self.views(inputs, step_seed(self.seed, 0))
        features = self.encoder(views, training=False)
        embedding = self.projection_head(features, training=False)
        return replica_logs(self._update(self._contrast(embedding, mask), count))

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        super()._check_call(call, form, labelled)
        by_head = call == "evaluate" and self.supervised_head is not None and labelled
        if call == "predict" or by_head:
            if form != "images":
                raise UserError(
                    f"Expected images, to {call} one by one; received: {form}. Pass arrays (N, "
                    "height, width, channels)."
                )
        elif self._make_views is None and form != "views":
            labels = ", or labels to evaluate the linear head"
            raise UserError(
                "Expected (view1, view2) as the images, since the model has no augmentation; "
                "received: one array. Pass augment=SimCLRAugment(...)"
                f"{labels if call == 'evaluate' and self.supervised_head is not None else ''}."
            )

    def get_config(self) -> KerasConfig:
        return {
            "encoder": serialize(self.encoder),
            "projection_head": serialize(self.projection_head),
            "augment": serialize_augment(self.augment),
            **self._settings(),
        }

    def _settings(self) -> KerasConfig:
        """Returns the arguments of `__init__` but encoder, projection head and augmentation."""
        return {name: getattr(self, name) for name in _SETTINGS}
