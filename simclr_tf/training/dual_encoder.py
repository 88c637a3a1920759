"""Two encoders, one for each side of a pair, and one loss between the sides, as in CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register, serialize
from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive_loss import ContrastiveLoss
from simclr_tf.models.encoders import wrap_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.training import gradient_cache, structures
from simclr_tf.training.simclr import SimCLR
from simclr_tf.training.view_maker import ViewMaker
from simclr_tf.typing import KerasConfig, Variables

_SETTINGS = (
    "temperature", "hidden_norm", "weight_decay", "weight_penalty", "micro_batch_size", "seed",
    "name",
)  # fmt: skip
_FURTHER = {"hidden_norm", "weight_decay", "weight_penalty", "seed", "name", "dtype", "trainable"}
_PAIRS = (
    "A pair comes as (first, second): fit((images, ids)), in a data set as ((images, ids),) or "
    "((images, ids), labels), since (a, b) is inputs and labels."
)


@register
class DualEncoder(SimCLR):
    """Two encoders and projection heads that bring both sides of a pair to the same place.

    The step is `SimCLR`'s, with the pair in place of two views: pictures and captions, sounds and
    their transcripts. Replicas, micro-batches, `.keras` files and callbacks work as there; there is
    no linear head and no memory. `predict` returns two arrays of embeddings, (N, d) each, scaled to
    length 1 unless `hidden_norm` is False; `tower` embeds one side alone. `evaluate` takes pairs as
    they are, without augmentation: `contrast_acc` is the share of the first side that is nearest to
    its own second one, among the batch.

    Args:
        encoder: Of the first side: a Keras model or layer to features (N, d).
        second_encoder: Of the second side.
        projection_head: Of the first side; None: one linear layer to 128 dimensions.
        second_projection_head: Of the second side, with the same `out_dim`.
        augment: A callable from a pair to a pair of the same rows; it gets `seed` and `training` as
            in `SimCLR`. None: pairs are used as they are.
        temperature: tau of the loss, above 0; 0.07 is where CLIP begins.
        loss: As for `SimCLR`.
        micro_batch_size: Pairs embedded at a time, as for `SimCLR`.
        **kwargs: `hidden_norm`, `weight_decay`, `weight_penalty` and `seed` as for `SimCLR`, and as
            for `keras.Model`.

    Inputs are taken as with `input_kind="any"` of `SimCLR`: nothing is scaled, so divide uint8
    images by 255.

    Raises:
        UserError: A setting out of range, heads of different sizes, or data that do not fit.

    Source: Radford et al. 2021 (arXiv:2103.00020), section 2.3 and figure 3.

    Example:
        >>> model = DualEncoder(image_encoder, text_encoder)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> model.fit((images, {"ids": ids, "mask": mask}), epochs=10)
        >>> pictures, captions = model.tower(0).predict(images), model.tower(1).predict(texts)
    """

    def __init__(
        self,
        encoder: keras.Model | keras.layers.Layer,
        second_encoder: keras.Model | keras.layers.Layer,
        projection_head: ProjectionHead | None = None,
        second_projection_head: ProjectionHead | None = None,
        augment: Callable[..., Any] | None = None,
        temperature: float = 0.07,
        loss: str | ContrastiveLoss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = "info_nce",
        micro_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        other = sorted(kwargs.keys() - _FURTHER)
        if other:
            raise UserError(
                f"Expected a DualEncoder without {other[0]}, which compares two sides alone; "
                f"received: {kwargs[other[0]]}. Leave it out."
            )
        heads = [
            given or ProjectionHead("linear") for given in (projection_head, second_projection_head)
        ]
        super().__init__(
            encoder,
            heads[0],
            augment,
            temperature=temperature,
            loss=loss,
            micro_batch_size=micro_batch_size,
            input_kind="any",
            **kwargs,
        )
        self.second_encoder = wrap_encoder(second_encoder, several_inputs=True)
        if micro_batch_size is not None:
            gradient_cache.warn_of_random_layers(self.second_encoder)
        self.second_projection_head = heads[1]
        if not self.second_projection_head.built:
            self.second_projection_head.build(self.second_encoder.output_shape)
        widths = [
            int(head.compute_output_shape(network.output_shape)[-1])
            for network, head in zip(self._encoders(), self._heads(), strict=True)
        ]
        if widths[0] != widths[1]:
            raise UserError(
                "Expected two projection heads of one size; received: "
                f"{widths[0]} and {widths[1]}. Pass the same out_dim to both."
            )
        pair = tuple(structures.structure_of(network) for network in self._encoders())
        self._set_untracked("_structure", pair)
        if augment is not None:
            self._set_untracked("_make_views", ViewMaker(augment, pair))

    def tower(self, side: int) -> keras.Model:
        """Returns a model from one side's inputs to its embeddings, (N, d); layers are shared.

        Args:
            side: 0: the first, 1: the second.

        Raises:
            UserError: Another number.

        Example:
            >>> captions = model.tower(1).predict({"ids": ids, "mask": mask})
        """
        if side not in (0, 1):
            raise UserError(f"Expected a side, 0 or 1; received: {side}.")
        network, head = self._encoders()[side], self._heads()[side]
        embedding = head(network.output)
        if self.hidden_norm:
            embedding = keras.layers.UnitNormalization(dtype="float32")(embedding)
        return keras.Model(network.input, embedding, name=f"tower_{side}")

    def call(self, inputs: Any, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the embeddings of both sides of pairs, (N, d) float32 each."""
        features = self._encoder_of_views()(inputs, training=bool(training))
        embedding = tf.cast(self._hidden_layers(features, bool(training))[-1], tf.float32)
        if self.hidden_norm:
            embedding = tf.math.l2_normalize(embedding, axis=-1)
        first, second = tf.split(embedding, 2)
        return first, second

    def views(self, inputs: Any, seed: tf.Tensor) -> Any:
        """Returns the pair, augmented where the model has an augmentation.

        Args:
            inputs: (first, second), N rows each.
            seed: int32, shape (2,).
        """
        if self._make_views is None:
            return self._evaluation_views(inputs)
        if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
            raise UserError(
                f"Expected a pair of inputs; received: {structures.describe(inputs)}. {_PAIRS}"
            )
        return self._make_views(inputs, seed, copies=1)

    def _evaluation_views(self, inputs: Any) -> Any:
        structures.check_fits(inputs, self._structure, advice=_PAIRS)
        return inputs

    def _encoders(self) -> tuple[keras.Model, keras.Model]:
        return self.encoder, self.second_encoder

    def _heads(self) -> tuple[ProjectionHead, ProjectionHead]:
        return self.projection_head, self.second_projection_head

    def _encoder_of_views(self) -> gradient_cache.FeatureMaker:
        return _SideBySide(self._encoders())

    def _hidden_layers(self, features: tf.Tensor, training: bool) -> list[tf.Tensor]:
        sides = zip(self._encoders(), self._heads(), tf.split(features, 2), strict=True)
        embeddings = [
            head(rows[:, : network.output_shape[-1]], training=training)
            for network, head, rows in sides
        ]
        return [tf.concat(embeddings, 0)]

    def _micro_batches(
        self, inputs: Any, seed: tf.Tensor, size: int
    ) -> gradient_cache.MicroBatches:
        pair = self.views(inputs, seed)
        rows = tf.nest.flatten(pair)[0]
        count = tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]
        return gradient_cache.MicroBatches([pair], lambda part: part, [False], count, size)

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        if form == "views":
            raise UserError(
                f"Expected one pair of inputs for each example to {call}; received: two. {_PAIRS}"
            )
        if call == "fit" and self.contrastive_loss.needs_labels and not labelled:
            super()._check_call(call, form, labelled)

    def get_config(self) -> KerasConfig:
        whole = super().get_config()
        kept = ("encoder", "projection_head", "augment", "loss", *_SETTINGS)
        return {
            **{name: whole[name] for name in kept},
            "second_encoder": serialize(self.second_encoder),
            "second_projection_head": serialize(self.second_projection_head),
        }


class _SideBySide:
    """Two encoders as one, from a pair to the features of both sides, (2N, d), d the larger width.

    The narrower features are filled up with zeros, which `DualEncoder` cuts off before its heads.
    """

    def __init__(self, encoders: tuple[keras.Model, keras.Model]) -> None:
        self._encoders = encoders

    @property
    def output_shape(self) -> tuple[None, int]:
        return None, max(int(network.output_shape[-1]) for network in self._encoders)

    @property
    def trainable_variables(self) -> Variables:
        return [v for network in self._encoders for v in network.trainable_variables]

    @property
    def non_trainable_variables(self) -> Variables:
        return [v for network in self._encoders for v in network.non_trainable_variables]

    def __call__(self, views: Any, training: bool) -> tf.Tensor:
        found = []
        for network, side in zip(self._encoders, views, strict=True):
            features = tf.cast(network(side, training=training), tf.float32)
            missing = self.output_shape[-1] - network.output_shape[-1]
            found.append(tf.pad(features, [[0, 0], [0, missing]]))
        return tf.concat(found, 0)
