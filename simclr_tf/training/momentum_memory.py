"""A memory of earlier batches for the contrastive loss: a momentum encoder, and a queue.

The momentum encoder is a copy of encoder and projection head that no gradient reaches; after each
step its weights move a little towards theirs. It embeds both views of each image; the encoder's are
compared with these. The queue keeps its latest embeddings of first views, which are negatives of
later batches: they are many, and made by networks that differ little. In its batch norm it uses the
statistics of the batch.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import deserialize, raw_variable, serialize, update_everywhere
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive_loss import Memory
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training import gradient_cache
from simclr_tf.training.gradients import counter


class MomentumMemory:
    """Momentum encoder and queue; make it in the strategy's scope.

    Args:
        encoder: Built; the one that is trained, whose weights are followed.
        projection_head: Likewise.
        size: Embeddings that are kept, at least 1.
        momentum: Share of its weights that the momentum encoder keeps in a step, in [0, 1).

    Raises:
        UserError: A value out of range, or an encoder that Keras can't copy.

    Source: He et al. 2020 (arXiv:1911.05722), section 3.2 and algorithm 1; both views are queries,
    and the batch's other images negatives too, as Chen et al. 2021 (arXiv:2104.02057), algorithm 1.
    SimCLRv2 (arXiv:2006.10029), section 2, has such a memory.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projection_head: ProjectionHead,
        size: int,
        momentum: float,
    ) -> None:
        if size < 1:
            raise UserError(f"Expected memory_size of at least 1, or 0 for none; received: {size}.")
        if not 0 <= momentum < 1:
            raise UserError(
                f"Expected 0 <= memory_momentum < 1; received: {momentum}. Pass one such as 0.999."
            )
        self.size = size
        self.momentum = momentum
        self.encoder = _copy(encoder, encoder.input_shape)
        self.projection_head = _copy(projection_head, encoder.output_shape)
        # Paired once: what is frozen later is no longer among the trainable.
        self._followed = [
            (raw_variable(old), raw_variable(new))
            for slow, fast in ((self.encoder, encoder), (self.projection_head, projection_head))
            for old, new in zip(slow.trainable_variables, fast.trainable_variables, strict=True)
        ]
        width = int(projection_head.compute_output_shape(encoder.output_shape)[-1])
        only = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.queue = tf.Variable(
            tf.zeros([size, width]), trainable=False, aggregation=only, name="memory_queue"
        )
        # How many embeddings were ever stored: the place of the next, and which are there.
        self.stored = counter()
        self.steps = counter()

    def variables(self) -> dict[str, tf.Variable]:
        """Returns all that a checkpoint keeps, by name."""
        found = {"queue": self.queue, "stored": self.stored, "steps": self.steps}
        for part in ("encoder", "projection_head"):
            for index, variable in enumerate(getattr(self, part).variables):
                found[f"{part}_{index}"] = raw_variable(variable)
        return found

    def compared_with(self, current: tf.Tensor, own: tf.Tensor) -> Memory:
        """Returns what the views of a step are compared with.

        Args:
            current: (2N, d), what `embed` made of them.
            own: (2N, d), what the encoder itself made of them: in the first step these stand for
                `current`, as weights may have been loaded after this was made.
        """
        places = tf.range(self.size, dtype=tf.int64)
        own = tf.stop_gradient(tf.cast(own, tf.float32))
        current = tf.where(self.steps > 0, current, own)
        return Memory(tf.convert_to_tensor(self.queue), places < self.stored, current)

    def embed(self, views: Any) -> tf.Tensor:
        """Returns embeddings, (N, d) float32, of N views as the encoder takes them."""
        features = self.encoder(views, training=True)
        embedding = self.projection_head(features, training=True)
        return tf.stop_gradient(tf.cast(embedding, tf.float32))

    def embed_in_micro_batches(self, batches: gradient_cache.MicroBatches) -> tf.Tensor:
        """Returns embeddings, (2N, d) float32, of the views of a batch that is cut."""

        def encode(views: tf.Tensor) -> tf.Tensor:
            return tf.cast(self.encoder(views, training=True), tf.float32)

        features = gradient_cache.embed_all(batches, encode, self.encoder.output_shape[-1])
        embedding = self.projection_head(features, training=True)
        return tf.stop_gradient(tf.cast(embedding, tf.float32))

    def follow(self, keys: tf.Tensor, mask: tf.Tensor | None, taken: tf.Tensor | None) -> None:
        """Stores a batch's embeddings and moves the weights; call it after the step.

        The first step only copies the weights: they may have been loaded after this was made.

        Args:
            keys: (2N, d), what `embed` made of this replica's images; first views are stored.
            mask: (N,) bool, False for images that only fill up; None: all count.
            taken: Bool scalar, False where the step was skipped and nothing may change; None: True.
        """
        keys, _ = tf.split(keys, 2)
        if mask is not None:
            keys = tf.boolean_mask(keys, mask)
        if replicas.several():
            keys = tf.distribute.get_replica_context().all_gather(keys, axis=0)
        keys = tf.stop_gradient(keys)[-self.size :]
        count = tf.shape(keys, out_type=tf.int64)[0]
        places = (self.stored + tf.range(count)) % self.size
        queue = tf.tensor_scatter_nd_update(
            tf.convert_to_tensor(self.queue), places[:, tf.newaxis], keys
        )
        taken = tf.constant(True) if taken is None else taken
        stores = taken & (self.steps > 0)
        count = tf.where(stores, count, 0)
        kept = tf.where(self.steps > 0, self.momentum, 0.0)
        kept = tf.where(taken, kept, 1.0)
        updates = [
            (self.queue, tf.where(stores, queue, self.queue)),
            (self.stored, self.stored + count),
            (self.steps, self.steps + tf.cast(taken, tf.int64)),
        ]
        for old, new in self._followed:
            share = tf.cast(kept, new.dtype)
            updates.append((old, share * old + (1 - share) * new))
        update_everywhere(updates)


def _copy(layer: keras.layers.Layer, input_shape: tuple[int | None, ...]) -> keras.layers.Layer:
    """Returns a layer of the same kind and weights."""
    try:
        copy = deserialize(serialize(layer))
    except Exception as error:  # a user's layer may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            "Expected an encoder that Keras can copy, for memory_size above 0; received: "
            f"{type(layer).__name__} ({reason}). Give it get_config, register it with "
            "keras.utils.register_keras_serializable(), or pass memory_size=0."
        ) from error
    if not copy.built:
        copy.build(input_shape)
    copy.set_weights(layer.get_weights())
    return copy
