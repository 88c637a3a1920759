"""Losses that weigh a view's positives against the sum of its negatives."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from simclr_tf.compat import register
from simclr_tf.errors import UserError
from simclr_tf.losses.all_views import AllViews
from simclr_tf.losses.blocks import MASKED
from simclr_tf.losses.contrastive_loss import Batch, check_above_zero
from simclr_tf.losses.contrastive_output import ContrastiveOutput
from simclr_tf.losses.nt_xent import nt_xent
from simclr_tf.losses.row_loss import RowLoss, Rows, log_sum_exp
from simclr_tf.losses.similarity import pair_similarity
from simclr_tf.typing import KerasConfig


def _cross_entropies(rows: Rows, temperature: float) -> tf.Tensor:
    """Returns the mean over a row's positives of minus the log of their softmax, (R,)."""
    logits = rows.similarity / temperature
    total = log_sum_exp(logits, rows.positive | rows.negative)
    count = tf.reduce_sum(tf.cast(rows.positive, tf.float32), axis=1)
    positive = tf.reduce_sum(tf.where(rows.positive, logits, 0.0), axis=1)
    # Rows that only fill up a batch may have no positive.
    return total - positive / tf.maximum(count, 1.0)


@register
class NTXent(RowLoss):
    """Normalised temperature-scaled cross-entropy, SimCLR's loss: see `nt_xent`.

        -log( exp(s+ / t) / (exp(s+ / t) + sum of exp(s- / t)) )

    Args:
        temperature: t, above 0.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.

    Source: Chen et al. 2020 (arXiv 2002.05709), equation 1. With a memory: Chen et al. 2020
    (arXiv 2006.10029), section 2.

    Example:
        >>> SimCLR(encoder, loss=NTXent(temperature=0.2, similarity="euclidean"))
    """

    def output(self, batch: Batch) -> ContrastiveOutput:
        if batch.memory is None and self.similarity == "cosine":
            # The release's form, to which it is equal number for number.
            settings = (self.temperature, self.hidden_norm, batch.block_size, batch.mask)
            return nt_xent(batch.hidden, *settings)
        return super().output(batch)

    def row_losses(self, rows: Rows) -> tf.Tensor:
        return _cross_entropies(rows, self.temperature)


@register
class InfoNCE(RowLoss):
    """Symmetric InfoNCE, the loss of CLIP: negatives are the other images' views of the other side.

        -log( exp(s+ / t) / (exp(s+ / t) + sum over the other side of exp(s- / t)) )

    Where first and second views are of two kinds, as pictures and captions, two of one kind are
    not compared. The loss is the sum of both directions, as that of the other losses here: twice
    CLIP's mean. The temperature is fixed; CLIP learns it, beginning at 0.07.

    Args:
        temperature: t, above 0.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.

    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3; in one direction, van den Oord et al.
    2018 (arXiv 1807.03748), equation 4, and SimCSE (arXiv 2104.08821), equation 4.

    Example:
        >>> DualEncoder(image_encoder, text_encoder, loss=InfoNCE(temperature=0.07))
    """

    takes_memory = False  # of first views alone
    across_only = True

    def row_losses(self, rows: Rows) -> tf.Tensor:
        return _cross_entropies(rows, self.temperature)


@register
class SupCon(RowLoss):
    """Supervised contrastive loss: all images of a class are positives of each other.

        -mean over positives p of log( exp(s_p / t) / sum over all others a of exp(s_a / t) )

    Without labels, and for images labelled -1, the only positive is an image's other view: NT-Xent.
    The factor t / t_base of the authors' code is left out.

    Args:
        temperature: t, above 0.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.

    Source: Khosla et al. 2020 (arXiv 2004.11362), equation 2 (L_out).

    Example:
        >>> SupCon(0.1)(hidden, labels=[0, 2, 0]).loss
    """

    needs_labels = True
    takes_memory = False  # whose classes are not kept

    def row_losses(self, rows: Rows) -> tf.Tensor:
        return _cross_entropies(rows, self.temperature)


@register
class DCL(RowLoss):
    """Decoupled contrastive loss: NT-Xent without the positive in the sum.

        -s+ / t + log( sum of exp(s- / t) )

    Args:
        temperature: t, above 0.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.

    Source: Yeh et al. 2022 (arXiv 2110.06848), equation 6.

    Example:
        >>> SimCLR(encoder, loss=DCL(0.1))
    """

    def row_losses(self, rows: Rows) -> tf.Tensor:
        return self._against_negatives(rows) - rows.of_positive() / self.temperature

    def _against_negatives(self, rows: Rows) -> tf.Tensor:
        sums = log_sum_exp(rows.similarity / self.temperature, rows.negative)
        return tf.where(rows.has_negatives(), sums, 0.0)


@register
class DCLW(DCL):
    """Decoupled contrastive loss that weighs pairs by how far apart their views are.

        -w s+ / t + log( sum of exp(s- / t) ),  w = 2 - exp(s+ / sigma) / mean of exp(s+ / sigma)

    The mean is over all images of the batch; the gradient flows through w, as in the authors' code.

    Args:
        temperature: t, above 0.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: s: `cosine` or `euclidean`.
        dclw_sigma: Above 0; small values weigh hard pairs more.

    Source: Yeh et al. 2022 (arXiv 2110.06848), equation 7.

    Example:
        >>> SimCLR(encoder, loss=DCLW(0.1, dclw_sigma=0.5))
    """

    takes_memory = False  # its weights are of pairs that are symmetric

    def __init__(
        self,
        temperature: float = 0.1,
        hidden_norm: bool = True,
        similarity: str = "cosine",
        dclw_sigma: float = 0.5,
    ) -> None:
        super().__init__(temperature, hidden_norm, similarity)
        check_above_zero("dclw_sigma", dclw_sigma)
        self.dclw_sigma = dclw_sigma

    def row_losses(self, rows: Rows) -> tf.Tensor:
        return self._against_negatives(rows)

    def pair_losses(self, first: tf.Tensor, second: tf.Tensor, everyone: AllViews) -> tf.Tensor:
        positive = pair_similarity(first, second, self.similarity)
        of_all = pair_similarity(everyone.first, everyone.second, self.similarity)
        of_all /= self.dclw_sigma
        count = tf.cast(tf.size(of_all), tf.float32)
        if everyone.mask is not None:
            of_all = tf.where(everyone.mask, of_all, MASKED)
            count = tf.maximum(tf.reduce_sum(tf.cast(everyone.mask, tf.float32)), 1.0)
        log_mean = tf.reduce_logsumexp(of_all) - tf.math.log(count)
        weight = 2.0 - tf.exp(positive / self.dclw_sigma - log_mean)
        return -weight * positive / self.temperature

    def get_config(self) -> KerasConfig:
        return {**super().get_config(), "dclw_sigma": self.dclw_sigma}


@register
class HCL(RowLoss):
    """Debiased contrastive loss with hard negatives: likely positives are taken out of the sum, and
    near negatives weigh more.

        -log( exp(s+ / t) / (exp(s+ / t) + g) )
        g = max( (n h - p n exp(s+ / t)) / (1 - p), n exp(-1 / t) )
        h = mean of v exp(s- / t) / mean of v,  v = exp(b s- / t)

    over n negatives. The cosine's least value bounds g, so that embeddings must have length 1.

    Args:
        temperature: t, above 0.
        positive_prior: p (tau plus in the papers), in [0, 1): the share of negatives that are of
            the image's own class.
        hard_negative_beta: b, at least 0; 0: the debiased loss, all negatives weigh the same. With
            p = 0 too: NT-Xent.

    Source: Chuang et al. 2020 (arXiv 2007.00224), equation 8; Robinson et al. 2021 (arXiv
    2010.04592), equation 4 and the authors' code, through whose weights v the gradient flows.

    Example:
        >>> SimCLR(encoder, loss=HCL(0.5, positive_prior=0.1, hard_negative_beta=1.0))
    """

    def __init__(
        self,
        temperature: float = 0.1,
        positive_prior: float = 0.1,
        hard_negative_beta: float = 1.0,
    ) -> None:
        super().__init__(temperature)
        if not 0 <= positive_prior < 1:
            raise UserError(
                f"Expected 0 <= positive_prior < 1; received: {positive_prior}. Pass the share of "
                "the images that a class has, such as 0.1."
            )
        if hard_negative_beta < 0:
            raise UserError(
                f"Expected hard_negative_beta >= 0; received: {hard_negative_beta}. Pass 0 to "
                "weigh all negatives the same."
            )
        self.positive_prior = positive_prior
        self.hard_negative_beta = hard_negative_beta

    def row_losses(self, rows: Rows) -> tf.Tensor:
        logits = rows.similarity / self.temperature
        positive = rows.of_positive() / self.temperature
        count = tf.reduce_sum(tf.cast(rows.negative, tf.float32), axis=1)
        beta = self.hard_negative_beta
        # All in logarithms above the row's largest, where exp can't overflow.
        hard = log_sum_exp((1.0 + beta) * logits, rows.negative)
        of_negatives = hard - log_sum_exp(beta * logits, rows.negative)  # log h
        top = tf.stop_gradient(tf.maximum(positive, of_negatives))
        likely = self.positive_prior * tf.exp(positive - top)
        corrected = (tf.exp(of_negatives - top) - likely) / (1.0 - self.positive_prior)
        least = tf.exp(-1.0 / self.temperature - top)
        total = tf.exp(positive - top) + count * tf.maximum(corrected, least)
        losses = tf.math.log(total) + top - positive
        return tf.where(rows.has_negatives(), losses, 0.0)

    def get_config(self) -> KerasConfig:
        return {
            "temperature": self.temperature,
            "positive_prior": self.positive_prior,
            "hard_negative_beta": self.hard_negative_beta,
        }


@register
class Debiased(HCL):
    """Debiased contrastive loss: `HCL` in which all negatives weigh the same.

    Args:
        temperature: t, above 0.
        positive_prior: p in [0, 1).

    Source: Chuang et al. 2020 (arXiv 2007.00224), equation 8, with one positive.

    Example:
        >>> SimCLR(encoder, loss=Debiased(0.5, positive_prior=0.1))
    """

    def __init__(self, temperature: float = 0.1, positive_prior: float = 0.1) -> None:
        super().__init__(temperature, positive_prior, hard_negative_beta=0.0)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["hard_negative_beta"]
        return config
