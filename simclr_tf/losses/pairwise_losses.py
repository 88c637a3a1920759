"""Losses that judge each pair of views by itself: NT-Logistic and the margin triplet."""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.compat import register
from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive_loss import check_choice
from simclr_tf.losses.names import NEGATIVES
from simclr_tf.losses.row_loss import RowLoss, Rows
from simclr_tf.typing import KerasConfig


class PairwiseLoss(RowLoss):
    """A loss of each negative by itself, of all of them or of one that is semi-hard.

    Args:
        temperature: Above 0; divides the similarities.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: `cosine` or `euclidean`.
        negatives: `all`: the mean over all negatives. `semi_hard`: of those that are farther than
            the positive, the nearest; where all are nearer, the farthest.

    Source: Chen et al. 2020 (arXiv 2002.05709), tables 2 and 4; semi-hard: Schroff et al. 2015
    (arXiv 1503.03832), section 3.2.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        hidden_norm: bool = True,
        similarity: str = "cosine",
        negatives: str = "all",
    ) -> None:
        super().__init__(temperature, hidden_norm, similarity)
        check_choice("negatives", negatives, NEGATIVES)
        self.negatives = negatives

    def get_config(self) -> KerasConfig:
        return {**super().get_config(), "negatives": self.negatives}

    def _over_negatives(self, rows: Rows, values: tf.Tensor) -> tf.Tensor:
        """Returns the mean over a row's negatives of (R, K) values, or its semi-hard one's."""
        if self.negatives == "all":
            return rows.mean_over_negatives(values)
        chosen = tf.gather(values, _semi_hard(rows), axis=1, batch_dims=1)
        return tf.where(rows.has_negatives(), chosen, 0.0)


def _semi_hard(rows: Rows) -> tf.Tensor:
    """Returns the column of each row's semi-hard negative, (R,)."""
    similarity = tf.stop_gradient(rows.similarity)
    positive = tf.stop_gradient(rows.of_positive())[:, tf.newaxis]
    farther = rows.negative & (similarity < positive)
    nearest = tf.argmax(tf.where(farther, similarity, -float("inf")), axis=1)
    farthest = tf.argmin(tf.where(rows.negative, similarity, float("inf")), axis=1)
    return tf.where(tf.reduce_any(farther, axis=1), nearest, farthest)


@register
class NTLogistic(PairwiseLoss):
    """Logistic loss of each pair: positives towards similarity, negatives away from it.

        -log sigmoid(s+ / t) - mean over negatives of log sigmoid(-s- / t)

    Args:
        temperature: t, above 0.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.
        negatives: `all` or `semi_hard`; see `PairwiseLoss`.

    Source: Chen et al. 2020 (arXiv 2002.05709), table 2.

    Example:
        >>> SimCLR(encoder, loss=NTLogistic(0.5))
    """

    def row_losses(self, rows: Rows) -> tf.Tensor:
        apart = tf.nn.softplus(rows.similarity / self.temperature)
        together = tf.nn.softplus(-rows.of_positive() / self.temperature)
        return together + self._over_negatives(rows, apart)


@register
class MarginTriplet(PairwiseLoss):
    """Margin triplet: each negative must be farther than the positive, by a margin.

        mean over negatives of max(s- - s+ + m, 0)

    Args:
        temperature: Of the entropy beside the loss; the loss has none.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.
        negatives: `all` or `semi_hard`; see `PairwiseLoss`.
        margin: m, at least 0, in units of the similarity.

    Source: Chen et al. 2020 (arXiv 2002.05709), table 2.

    Example:
        >>> SimCLR(encoder, loss=MarginTriplet(margin=0.8, negatives="semi_hard"))
    """

    def __init__(
        self,
        temperature: float = 0.1,
        hidden_norm: bool = True,
        similarity: str = "cosine",
        negatives: str = "all",
        margin: float = 0.8,
    ) -> None:
        super().__init__(temperature, hidden_norm, similarity, negatives)
        if margin < 0:
            raise UserError(
                f"Expected margin >= 0; received: {margin}. Pass one such as 0.4 or 0.8."
            )
        self.margin = margin

    def row_losses(self, rows: Rows) -> tf.Tensor:
        too_near = rows.similarity - rows.of_positive()[:, tf.newaxis] + self.margin
        return self._over_negatives(rows, tf.nn.relu(too_near))

    def get_config(self) -> KerasConfig:
        return {**super().get_config(), "margin": self.margin}
