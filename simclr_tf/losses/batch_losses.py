"""Losses of a whole batch at once: the generalised contrastive loss, and a user's function.

Each replica computes the loss of all replicas' embeddings. The gather sends the gradients back, so
that N replicas take the step of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from simclr_tf.compat import converted, deserialize, register, serialize
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.losses.all_views import AllViews, gather_views
from simclr_tf.losses.blocks import MASKED, Blocks, State
from simclr_tf.losses.contrastive_loss import Batch, ContrastiveLoss, check_choice
from simclr_tf.losses.contrastive_output import ContrastiveOutput, entropies, hits
from simclr_tf.losses.names import PRIORS
from simclr_tf.typing import KerasConfig


class BatchLoss(ContrastiveLoss):
    """A contrastive loss of the embeddings of all images. Subclasses give `batch_loss`."""

    def batch_loss(self, first: tf.Tensor, second: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the loss, a scalar.

        Args:
            first: (M, d) float32, of the first views of all replicas' images, scaled.
            second: (M, d), of the second views.
            seed: Int32 (2,), the same on each replica.
        """
        raise NotImplementedError

    def output(self, batch: Batch) -> ContrastiveOutput:
        first, second = self._embeddings(batch.hidden)
        everyone = gather_views(first, second, batch.mask)
        count = everyone.image_count(batch.mask)
        seed = tf.zeros([2], tf.int32) if batch.seed is None else batch.seed
        loss = self.batch_loss(
            _that_count(everyone.first, everyone), _that_count(everyone.second, everyone), seed
        )
        block_size = batch.block_size or everyone.default_block_size(first)
        if isinstance(block_size, int):  # 0: all in one block
            block_size = block_size or tf.shape(first)[0]
        hit, entropy = _figures(first / self.temperature, everyone, block_size)
        return ContrastiveOutput(
            loss=loss,  # the mean over replicas of what each of them computes
            logits_ab=None,
            labels=everyone.places,
            accuracy=replicas.share_of_mean(hit, count),
            entropy=replicas.share_of_mean(entropy, count),
        )


def _figures(
    first: tf.Tensor, everyone: AllViews, block_size: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns hits and entropies of first among all second views, (N,) each, without gradient."""
    blocks = Blocks(tf.shape(first)[0], tf.maximum(1, block_size))
    queries, places = blocks.split(tf.stop_gradient(first)), blocks.split(everyone.places)
    keys = tf.stop_gradient(everyone.second)

    def body(index: tf.Tensor, *kept: tf.TensorArray) -> State:
        logits = tf.matmul(queries[index], keys, transpose_b=True)
        if everyone.mask is not None:
            logits = tf.where(everyone.mask, logits, MASKED)
        found = (hits(places[index], logits), entropies(logits))
        pairs = zip(kept, found, strict=True)
        return [index + 1, *(array.write(index, value) for array, value in pairs)]

    hit, entropy = (blocks.join(array.stack()) for array in blocks.loop(body, blocks.arrays(2)))
    return hit, entropy


def _that_count(views: tf.Tensor, everyone: AllViews) -> tf.Tensor:
    return views if everyone.mask is None else tf.boolean_mask(views, everyone.mask)


@register
class GeneralizedContrastive(BatchLoss):
    """Alignment of the two views, and a distribution of all embeddings near to a prior.

        mean of (z1 - z2)^2 / 2 + w * mean of (sorted z R - sorted p R)^2

    The second term is the sliced Wasserstein distance between the embeddings z and as many draws p
    from the prior, along the columns of a random rotation R; both are drawn anew at each step.

    Args:
        temperature: Of the entropy beside the loss; the loss has none.
        prior: `sphere`: uniform on the unit sphere, with embeddings scaled to length 1; `normal`:
            standard normal; `cube`: uniform in [-1, 1] on each axis; both without scaling.
        prior_weight: w, above 0.

    Source: Chen et al. 2021, "Intriguing Properties of Contrastive Losses" (arXiv 2011.02803),
    section 3 and its notebook.

    Example:
        >>> SimCLR(encoder, loss=GeneralizedContrastive(prior_weight=5.0))
    """

    def __init__(
        self, temperature: float = 0.1, prior: str = "sphere", prior_weight: float = 1.0
    ) -> None:
        check_choice("prior", prior, PRIORS)
        super().__init__(temperature, hidden_norm=prior == "sphere")
        if not prior_weight > 0:
            raise UserError(f"Expected prior_weight > 0; received: {prior_weight}. Pass 1 or more.")
        self.prior = prior
        self.prior_weight = prior_weight

    def batch_loss(self, first: tf.Tensor, second: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        alignment = tf.reduce_mean((first - second) ** 2) / 2.0
        states = tf.concat([first, second], 0)
        drawn, rotation = draw_prior(tf.shape(states)[0], int(first.shape[1]), self.prior, seed)
        distance = sliced_wasserstein(states, drawn, rotation)
        return alignment + self.prior_weight * distance

    def get_config(self) -> KerasConfig:
        return {
            "temperature": self.temperature,
            "prior": self.prior,
            "prior_weight": self.prior_weight,
        }


def draw_prior(
    count: tf.Tensor, width: int, prior: str, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (count, width) draws from a prior and a random rotation, (width, width).

    Args:
        count: How many draws.
        width: Size of an embedding.
        prior: As for `GeneralizedContrastive`.
        seed: Int32 (2,).
    """
    shape = tf.stack([count, width])
    # One generator on every kind of device.
    if prior == "cube":
        drawn = tf.random.stateless_uniform(shape, seed, -1.0, 1.0, alg="philox")
    else:
        drawn = tf.random.stateless_normal(shape, seed, alg="philox")
    if prior == "sphere":
        drawn = tf.math.l2_normalize(drawn, axis=-1)
    plane = tf.random.stateless_normal(
        [width, width], seed + tf.constant([0, 1 << 30]), alg="philox"
    )
    q, r = tf.linalg.qr(plane)
    # Which signs a decomposition has differs between kinds of devices.
    return tf.ensure_shape(drawn, [None, width]), q * tf.sign(tf.linalg.diag_part(r))


def sliced_wasserstein(first: tf.Tensor, second: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """Returns the squared sliced Wasserstein distance of two samples, a scalar.

    Args:
        first: (n, d) float32.
        second: (n, d).
        directions: (d, k), columns of unit length.
    """
    one, other = (
        tf.sort(tf.matmul(directions, sample, transpose_a=True, transpose_b=True), axis=1)
        for sample in (first, second)
    )  # (k, n) each
    return tf.reduce_mean((one - other) ** 2)


@register
class FunctionLoss(BatchLoss):
    """A user's loss: any function of the embeddings of two views, in TensorFlow.

    Args:
        function: From the first and the second views of all images of the batch, (M, d) float32
            each, to a scalar or to M losses, whose mean is taken.
        temperature: Of the entropy beside the loss.
        hidden_norm: Whether embeddings are scaled to length 1 before.

    Raises:
        UserError: Nothing that can be called.

    Example:
        >>> def cosine_distance(first, second):
        ...     return 1.0 - tf.reduce_sum(first * second, axis=1)
        >>> SimCLR(encoder, loss=cosine_distance)  # the same as loss=FunctionLoss(cosine_distance)
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        temperature: float = 0.1,
        hidden_norm: bool = True,
    ) -> None:
        super().__init__(temperature, hidden_norm)
        if not callable(function):
            raise UserError(
                f"Expected a function of two embeddings as the loss; received: {function!r}. Pass "
                "one, a ContrastiveLoss, or a name such as 'nt_xent'."
            )
        self.function = function

    def batch_loss(self, first: tf.Tensor, second: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        losses = tf.convert_to_tensor(converted(self.function)(first, second))
        if losses.shape.rank not in (0, 1):
            raise UserError(
                "Expected a loss of shape () or (N,); received: shape "
                f"{tuple(losses.shape)} from {getattr(self.function, '__name__', 'the loss')}. "
                "Reduce it to one number for each image."
            )
        return tf.reduce_mean(tf.cast(losses, tf.float32))

    def get_config(self) -> KerasConfig:
        return {
            "function": serialize(self.function),
            "temperature": self.temperature,
            "hidden_norm": self.hidden_norm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FunctionLoss:
        return cls(**{**config, "function": deserialize(config["function"])})
