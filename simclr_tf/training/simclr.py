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
from simclr_tf.losses.contrastive_loss import ContrastiveLoss
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.losses.named import make_loss
from simclr_tf.models.blocks import batch_that_counts
from simclr_tf.models.encoders import wrap_encoder
from simclr_tf.models.heads import ProjectionHead, linear_head, without_batch_norm
from simclr_tf.models.processor_batch_norm import runs_here
from simclr_tf.training import gradient_cache, padding, structures
from simclr_tf.training.decay import check_penalty
from simclr_tf.training.fit_batch import Rules, unpack
from simclr_tf.training.gradients import (
    current_learning_rate,
    loss_to_minimize,
    minimize,
    statistics_of,
)
from simclr_tf.training.labels import (
    ANY_CLASSES,
    LabelRule,
    check_class_weights,
    class_ids,
    targets,
)
from simclr_tf.training.momentum_memory import MomentumMemory
from simclr_tf.training.step_metrics import hits, update_evaluation
from simclr_tf.training.step_model import StepModel, count_rows
from simclr_tf.training.view_maker import serialize_optional, shared_seed, step_seed
from simclr_tf.typing import KerasConfig, Logs

_SETTINGS = (
    "temperature", "hidden_norm", "num_classes", "weight_decay", "projection_selector",
    "supervised_loss_weight", "supervised_batch_norm", "micro_batch_size", "memory_size",
    "memory_momentum", "weight_penalty", "class_weights", "seed", "value_range", "input_kind",
    "name",
)  # fmt: skip


@register
class SimCLR(StepModel):
    """Contrastive pretraining of an encoder, with an online linear evaluation beside it.

    Per step: two views of every image, encoder, projection head, NT-Xent or another contrastive
    loss over the views of all replicas. Behind a stop-gradient, a linear head learns the labels
    where there are any.

    `fit` takes `images` or `(images, labels)` in every form that Keras takes (`tf.data`, arrays,
    generators, `keras.utils.Sequence`): images uint8, uint16 or float in [0, 1], of shape (N,
    height, width, channels) (whatever encoder and augmentation take); labels class ids (N,),
    one-hot, or probabilities (N, num_classes), with which the linear head is trained (accuracy
    counts the largest). Ready-made views are passed as `((view1, view2), labels)`.

    Other inputs (token ids, spectrograms, several tensors with a padding mask): `input_kind="any"`
    and an encoder that takes them. See docs/modalities.md.

    Args:
        encoder: A Keras model or layer, images (N, h, w, c) to features (N, d); outputs of rank 4
            are averaged over space.
        projection_head: g(.), or None for a three-layer one of 128 dimensions (SimCLRv2).
        augment: A callable or layer from a batch of images to as many views. It is called once,
            with every image twice; it gets `seed` (int32, shape (2,)) and `training=True` if its
            signature takes them. None: the data set delivers views.
        temperature: tau of the loss, above 0.
        hidden_norm: Whether z is scaled to length 1.
        loss: A name of `losses/names.py` (`nt_xent`, `dcl`, ...), a `ContrastiveLoss`, which has a
            temperature of its own, or a function of two embeddings (of first and of second views,
            (M, d) each, of all replicas) that returns a scalar or M losses.
        num_classes: Classes of the linear head; None for no linear head.
        weight_decay: L2 penalty. With LARS, which decays the rest itself, it covers the linear head
            only; give both the same value.
        weight_penalty: What weight_decay weighs: `l2`, `smooth_l1`, or `decoupled` from the
            gradient (SGD and Adam); see `training/decay.py`.
        projection_selector: Layer of the projection head that the linear head reads (0: features).
        supervised_loss_weight: Weight of the linear head's loss, above 0. Behind the stop-gradient
            it scales the head's gradient alone, which with LARS and SGD acts as its learning rate:
            long features need less than 1 (SGD overshoots above about 8 / |h|^2).
        class_weights: Factors of the linear head's loss, one for each class; None: 1.
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
        memory_size: Embeddings of earlier batches that are further negatives, for small batches; 0:
            none. They come from a momentum encoder, a copy whose weights follow the encoder's, and
            with whose embeddings of the batch the encoder's are compared too. Take fewer than an
            epoch has images, or images meet themselves. `.keras` files keep neither.
        memory_momentum: Share of its weights, in [0, 1), that the momentum encoder keeps in a step.
        seed: Seeds the views of every step.
        value_range: (lowest, highest) of float images; images beyond it are refused (with a
            tolerance for the overshoot of bicubic resizing), with any augmentation; None: any
            finite values. It scales nothing, and uint8 and uint16 always become [0, 1].
            `SimCLRAugment` makes views in [0, 1] and accepts no wider range.
        input_kind: `images`, or `any`: inputs reach augmentation and encoder as they are, as
            numbers of any type (floats must be finite), in one array or in a dictionary or tuple of
            arrays with N rows each. The augmentation gets that structure with every row twice, and
            returns what the encoder takes. A pair of two such structures is two views; a tuple
            alone comes from a data set as `((ids, mask),)`, since `(a, b)` is inputs and labels.
        **kwargs: As for `keras.Model`.

    Raises:
        UserError: A setting out of range, or data that does not fit the model.

    Source: SimCLR (arXiv:2002.05709) algorithm 1; SimCLRv2 (arXiv:2006.10029) section 2; momentum
    encoder and queue: He et al. 2020 (arXiv:1911.05722), section 3.

    Example:
        >>> model = SimCLR(ResNet(18, cifar_stem=True), augment=SimCLRAugment(32), num_classes=10)
        >>> model.compile(optimizer=LARS(0.3, weight_decay=1e-6))
        >>> model.fit(dataset_of_images_and_labels, epochs=100)
        >>> model = SimCLR(text_encoder, augment=drop_words, input_kind="any")
    """

    def __init__(
        self,
        encoder: keras.Model | keras.layers.Layer,
        projection_head: ProjectionHead | None = None,
        augment: Callable[..., Any] | None = None,
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
        loss: str | ContrastiveLoss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = "nt_xent",
        memory_size: int = 0,
        memory_momentum: float = 0.999,
        weight_penalty: str = "l2",
        class_weights: Sequence[float] | None = None,
        input_kind: str = "images",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        structures.check_input_kind(input_kind)
        # Not `loss`, which `compile` sets.
        self._set_untracked("contrastive_loss", make_loss(loss, temperature, hidden_norm))
        if not supervised_loss_weight > 0:
            raise UserError(
                f"Expected supervised_loss_weight > 0; received: {supervised_loss_weight}."
            )
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(
                f"Expected micro_batch_size of at least 1, or None; received: {micro_batch_size}."
            )
        self.encoder = wrap_encoder(encoder, several_inputs=input_kind != "images")
        if micro_batch_size is not None:
            gradient_cache.warn_of_random_layers(self.encoder)
        self.projection_head = projection_head or ProjectionHead()
        if not self.projection_head.built:
            self.projection_head.build(self.encoder.output_shape)
        self.temperature = self.contrastive_loss.temperature
        self.hidden_norm = self.contrastive_loss.hidden_norm
        self.num_classes = num_classes
        check_penalty(weight_penalty)
        self.weight_decay = weight_decay
        self.weight_penalty = weight_penalty
        if class_weights is not None and num_classes is None:
            raise UserError(
                "Expected num_classes with class_weights, which are of the linear head; received: "
                "None. Pass both."
            )
        self.class_weights = check_class_weights(class_weights, num_classes or 0)
        self.projection_selector = projection_selector
        self.supervised_loss_weight = supervised_loss_weight
        self.supervised_batch_norm = supervised_batch_norm
        self.micro_batch_size = micro_batch_size
        self.memory_size = memory_size
        self.memory_momentum = memory_momentum
        self.seed = seed
        memory = None
        if memory_size:
            if not self.contrastive_loss.takes_memory:
                raise UserError(
                    "Expected memory_size=0 with this loss, which takes no further negatives; "
                    f"received: {memory_size}. Pass 0, or another loss."
                )
            memory = MomentumMemory(
                self.encoder, self.projection_head, memory_size, memory_momentum
            )
        self._set_untracked("memory", memory)
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
        evaluates = num_classes is not None
        self._finish(augment, names, evaluates, value_range=value_range, input_kind=input_kind)

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
        plainly = {"supervised_batch_norm": False, "micro_batch_size": None, "memory_size": 0}
        settings = {**self._settings(), **plainly, "loss": self.contrastive_loss}
        plain = SimCLR(self.encoder, self.projection_head, self.augment, **settings)
        norm = head.batch_norm
        variables = (head.kernel, head.bias, norm.moving_mean, norm.moving_variance)
        values = without_batch_norm(*(np.asarray(variable) for variable in variables))
        plain.supervised_head.set_weights(values)
        # Set afterwards: the constructor would warn about dropout again.
        plain.micro_batch_size = self.micro_batch_size
        return plain

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Returns features h, (N, d), of images (N, height, width, channels) or other inputs."""
        return self.encoder(self._as_taken(inputs), training=training)

    def views(self, inputs: Any, seed: tf.Tensor) -> Any:
        """Returns both views of every image.

        Args:
            inputs: A batch of images or of other inputs, or the tuple (view1, view2).
            seed: int32, shape (2,).

        Returns:
            Float32 (2N, h, w, c) in [0, 1], or of other inputs what the encoder takes: N first
            views, then N second views.
        """
        if self._are_views(inputs):
            return structures.joined([self._as_taken(view) for view in inputs])
        return self._make_views(inputs, seed, copies=2)

    def _evaluation_views(self, inputs: Any) -> Any:
        """Returns the views whose contrastive metrics `evaluate` reports."""
        return self.views(inputs, step_seed(self.seed, 0))

    def _are_views(self, inputs: Any) -> bool:
        if self._structure is not None:
            return structures.are_views(inputs, self._structure)
        return isinstance(inputs, (tuple, list))

    def train_step(self, data: Any) -> Logs:
        """One step of algorithm 1 on this replica's share of the batch."""
        data, mask = padding.split(data, self.micro_batch_size or 1)
        inputs, labels = unpack(data)
        learning_rate = current_learning_rate(self.optimizer)
        seed = step_seed(self.seed, batches_taken(self.optimizer))
        if self.num_classes is not None:
            labels = targets(labels, self.num_classes)
        count = count_rows(inputs, mask)
        before = statistics_of(self)
        with batch_that_counts(mask):
            gradients, results, keys = self._gradients(inputs, labels, seed, count)
        loss = results["total_loss"]
        step = minimize(self, gradients, self.trainable_variables, loss, before)
        if self.memory is not None:
            self.memory.follow(keys, mask, step.taken)
        return replica_logs({**self._update(results, count, step), "learning_rate": learning_rate})

    def _gradients(
        self,
        inputs: Any,
        labels: tf.Tensor | None,
        seed: tf.Tensor,
        count: replicas.ImageCount,
    ) -> tuple[list[tf.Tensor | None], Logs, tf.Tensor | None]:
        """Returns the gradient of each trainable variable, the step's results, and the momentum
        encoder's embeddings, (2N, d), where there is one.
        """

        variables, memory = self.trainable_variables, self.memory
        keys = None

        def loss_of(features: tf.Tensor) -> tuple[tf.Tensor, Logs]:
            return self._loss_and_results(features, labels, count, keys)

        encoder = self._encoder_of_views()
        if self.micro_batch_size is not None:  # of the encoder: both heads see the whole batch
            batches = self._micro_batches(inputs, seed, self.micro_batch_size)
            if memory is not None:
                keys = memory.embed_in_micro_batches(batches)
            return *gradient_cache.gradients(batches, encoder, variables, loss_of), keys
        views = self.views(inputs, seed)
        if memory is not None:
            keys = memory.embed(views)
        with tf.GradientTape() as tape:
            scaled, results = loss_of(encoder(views, training=True))
        return tape.gradient(scaled, variables), results, keys

    def _micro_batches(
        self, inputs: Any, seed: tf.Tensor, size: int
    ) -> gradient_cache.MicroBatches:
        are_views = self._are_views(inputs)
        return gradient_cache.cut(inputs, self._make_views, seed, size, are_views, self._as_taken)

    def _encoder_of_views(self) -> gradient_cache.FeatureMaker:
        """Returns the network from all that `views` returns to features, (2N, d)."""
        return self.encoder

    def _hidden_layers(self, features: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Returns what the projection head makes of features of views, (2N, d), layer by layer."""
        return self.projection_head.hidden_layers(features, training=training)

    def _loss_and_results(
        self,
        features: tf.Tensor,
        labels: tf.Tensor | None,
        count: replicas.ImageCount,
        keys: tf.Tensor | None,
    ) -> tuple[tf.Tensor, Logs]:
        """Returns this replica's share of the loss to minimise, and the step's results."""
        hidden = self._hidden_layers(features, training=True)
        seed = shared_seed(self.seed, batches_taken(self.optimizer))
        results = self._contrast(hidden[-1], count.mask, labels, seed, keys)
        loss = results["contrast_loss"]
        if self.supervised_head is not None:
            frozen = tf.stop_gradient(hidden[self.projection_selector])
            logits = self.supervised_head(frozen, training=True)
            both = tf.concat([labels, labels], 0)
            losses = supervised_loss(both, logits, True, class_weights=self.class_weights)
            results["supervised_loss"] = replicas.share_of_mean(losses, count, copies=2)
            right = hits(both, logits)
            results["supervised_acc"] = replicas.share_of_mean(right, count, copies=2)
            loss += self.supervised_loss_weight * results["supervised_loss"]
        results["weight_decay"] = self._penalty()
        results["total_loss"] = loss = loss + results["weight_decay"]
        return loss_to_minimize(self, loss), results

    def _contrast(
        self,
        embedding: tf.Tensor,
        mask: tf.Tensor | None,
        labels: tf.Tensor | None,
        seed: tf.Tensor,
        keys: tf.Tensor | None = None,
    ) -> Logs:
        loss = self.contrastive_loss
        classes = None
        if loss.needs_labels and labels is not None:
            classes = class_ids(labels, self.num_classes or 0)
        memory = None
        if self.memory is not None and keys is not None:
            memory = self.memory.compared_with(keys, embedding)
        contrast = loss(embedding, labels=classes, mask=mask, memory=memory, seed=seed)
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
            with runs_here():
                hidden = self.projection_head.hidden_layers(self(inputs, training=False))
            logits = self.supervised_head(hidden[self.projection_selector])
            labels = targets(labels, self.num_classes)
            decay = self._penalty()
            return replica_logs(update_evaluation(self._eval_metrics, labels, logits, decay, count))
        views = self._evaluation_views(inputs)
        with runs_here():
            features = self._encoder_of_views()(views, training=False)
        embedding = self._hidden_layers(features, training=False)[-1]
        contrast = self._contrast(embedding, mask, labels, shared_seed(self.seed, 0))
        return replica_logs(self._update(contrast, count))

    def rules(self, call: str) -> Rules:
        rules = super().rules(call)
        headless = self.supervised_head is None
        if call == "fit" and headless and self.contrastive_loss.needs_labels:
            return rules._replace(labels=LabelRule(ANY_CLASSES, lowest=-1))
        return rules

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        super()._check_call(call, form, labelled)
        if call == "fit" and self.contrastive_loss.needs_labels and not labelled:
            raise UserError(
                "Expected (images, labels), since the loss compares classes; received: images "
                "alone. Pass labels, or another loss."
            )
        by_head = call == "evaluate" and self.supervised_head is not None and labelled
        if call == "predict" or by_head:
            if form in ("views", "canvas"):
                what, shape = "images", "arrays (N, height, width, channels)"
                if self._structure is not None:
                    what, shape = "inputs", structures.describe(self._structure)
                raise UserError(
                    f"Expected {what}, to {call} one by one; received: {form}. Pass {shape}."
                )
        elif self._make_views is None and form == "inputs":
            raise UserError(
                "Expected (view1, view2) as the inputs, since the model has no augmentation, each "
                f"as the encoder takes it, {structures.describe(self._structure)}; received: one "
                "batch, or another structure. Pass augment=..., a function of the inputs."
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
            "augment": serialize_optional(self.augment, "augmentation"),
            "loss": serialize_optional(self.contrastive_loss, "loss"),
            **self._settings(),
        }

    def _settings(self) -> KerasConfig:
        """Returns the arguments of `__init__` but encoder, head, augmentation and loss."""
        return {name: getattr(self, name) for name in _SETTINGS}
