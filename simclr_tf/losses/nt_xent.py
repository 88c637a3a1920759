"""NT-Xent, the contrastive loss of SimCLR.

It is computed in float32 whatever the network's precision: at temperature 0.1 a bfloat16 similarity
is wrong by several per cent of the probability. Every op has a GPU kernel and compiles.
"""

from __future__ import annotations

import tensorflow as tf

from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.losses.all_views import gather_views
from simclr_tf.losses.blockwise import row_statistics
from simclr_tf.losses.contrastive_loss import check_above_zero, check_hidden
from simclr_tf.losses.contrastive_output import ContrastiveOutput, entropies, hits

# Subtracted from an image's similarity with itself: exp(-1e9) is exactly zero in float32.
SELF_SIMILARITY_PENALTY = 1e9


def nt_xent(
    hidden: tf.Tensor,
    temperature: float | tf.Tensor = 0.1,
    hidden_norm: bool = True,
    block_size: int | None = None,
    mask: tf.Tensor | None = None,
) -> ContrastiveOutput:
    """Normalised temperature-scaled cross-entropy between two views of each image.

    For each view the softmax runs over the 2M - 1 other views of all M images, and the other view
    of the same image is the right answer. As in the release the loss is
    mean over N of (loss of first view + loss of second view): twice the mean over the 2N rows
    that the paper's equation writes.

    In a replica context the embeddings of all replicas are gathered, so that every replica's
    images are negatives; each replica computes the rows of its own images only. Gradients flow
    through the gather: the sum of the replicas' gradients of `loss / num_replicas` is the
    gradient of one device holding all images. Replicas may hold different N, or no images: each
    returns replicas * (sum over its images) / M, on one replica the mean.

    Args:
        hidden: (2N, d) outputs of the projection head: N first views, then the N second views of
            the same images in the same order. Any float type.
        temperature: > 0; divides the similarities.
        hidden_norm: whether to scale each row to unit length (cosine similarity).
        block_size: images whose similarities are computed at a time; each block is computed again
            in the backward pass, so that memory grows with M and not with N * M; 0: all at once,
            keeping `logits_ab`; None: blocks where N * M is above 2 ** 20 (1,024 images on one
            replica) or N is not known before the step.
        mask: (N,) bool, False for images that only fill up a batch: they are neither counted nor
            used as negatives; None: all count.

    Returns:
        A `ContrastiveOutput`; `accuracy` and `entropy` carry no gradient.

    Raises:
        UserError: if `hidden` is not (2N, d), `temperature` is not positive or `block_size` is
            negative.

    Source: Chen et al. 2020, equation 1 and algorithm 1 (arXiv 2002.05709); scale, masking and
    metrics as the release.

    Example:
        >>> output = nt_xent(tf.concat([view_1, view_2], axis=0), temperature=0.5)
        >>> gradients = tape.gradient(output.loss / num_replicas, variables)
    """
    hidden = tf.convert_to_tensor(hidden)
    check_hidden(hidden)
    check_above_zero("temperature", temperature)
    if block_size is not None and block_size < 0:
        raise UserError(
            f"Expected block_size >= 0; received: {block_size}. Pass None to have it chosen."
        )
    hidden = tf.cast(hidden, tf.float32)
    if hidden_norm:
        hidden = tf.math.l2_normalize(hidden, axis=-1)
    first, second = tf.split(hidden, 2, axis=0)  # (N, d) each
    everyone = gather_views(first, second, mask)
    all_first, all_second, labels = everyone.first, everyone.second, everyone.places
    count = everyone.image_count(mask)

    temperature = tf.cast(temperature, tf.float32)
    if block_size is None:
        block_size = everyone.default_block_size(first)
    if not isinstance(block_size, int) or block_size > 0:
        scaled = (first / temperature, second / temperature)
        rows = row_statistics(*scaled, all_first, all_second, labels, block_size, everyone.mask)
        return ContrastiveOutput(
            loss=replicas.share_of_mean(rows.first + rows.second, count),
            logits_ab=None,
            labels=labels,
            accuracy=replicas.share_of_mean(rows.hit, count),
            entropy=replicas.share_of_mean(rows.entropy, count),
        )
    losses, logits_ab = _whole_rows(
        first, second, all_first, all_second, labels, everyone.mask, temperature
    )
    return ContrastiveOutput(
        loss=replicas.share_of_mean(losses, count),
        logits_ab=logits_ab,
        labels=labels,
        accuracy=replicas.share_of_mean(hits(labels, logits_ab), count),
        entropy=replicas.share_of_mean(entropies(logits_ab), count),
    )


def _whole_rows(
    first: tf.Tensor,
    second: tf.Tensor,
    all_first: tf.Tensor,
    all_second: tf.Tensor,
    labels: tf.Tensor,
    everyone: tf.Tensor | None,
    temperature: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the loss of both views of each image, (N,), and `logits_ab`, all rows at once."""
    is_self = tf.one_hot(labels, tf.shape(all_first)[0])  # (N, M)
    logits_ab = tf.matmul(first, all_second, transpose_b=True) / temperature
    logits_ba = tf.matmul(second, all_first, transpose_b=True) / temperature
    logits_aa = tf.matmul(first, all_first, transpose_b=True) / temperature
    logits_bb = tf.matmul(second, all_second, transpose_b=True) / temperature
    if everyone is not None:  # columns of images that don't count
        nobody = tf.where(everyone, 0.0, SELF_SIMILARITY_PENALTY)  # (M,)
        logits_ab, logits_ba = logits_ab - nobody, logits_ba - nobody
        logits_aa, logits_bb = logits_aa - nobody, logits_bb - nobody
    logits_aa -= is_self * SELF_SIMILARITY_PENALTY
    logits_bb -= is_self * SELF_SIMILARITY_PENALTY

    # The other view stands first in each row of 2M logits, so its column is the image's own id.
    loss_a = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels, tf.concat([logits_ab, logits_aa], axis=1)
    )
    loss_b = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels, tf.concat([logits_ba, logits_bb], axis=1)
    )
    return loss_a + loss_b, logits_ab
