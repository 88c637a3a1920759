"""How alike two embeddings are, as a product of vectors made from each of them.

So every loss needs one matrix product, whichever similarity it uses.
"""

from __future__ import annotations

import tensorflow as tf


def as_queries(embeddings: tf.Tensor, similarity: str) -> tf.Tensor:
    """Returns vectors whose inner products with those of `as_keys` are the similarities.

    Args:
        embeddings: (N, d) float32, of unit length for the cosine.
        similarity: `cosine`: the inner product of a and b; `euclidean`: -|a - b|^2, as
            2 ab - |a|^2 - |b|^2.

    Returns:
        (N, d), or (N, d + 2) for `euclidean`.

    Example:
        >>> tf.matmul(as_queries(a, "euclidean"), as_keys(b, "euclidean"), transpose_b=True)
    """
    if similarity == "cosine":
        return embeddings
    squares = _squares(embeddings)
    return tf.concat([2.0 * embeddings, -squares, -tf.ones_like(squares)], axis=1)


def as_keys(embeddings: tf.Tensor, similarity: str) -> tf.Tensor:
    """Returns the other side of `as_queries`."""
    if similarity == "cosine":
        return embeddings
    squares = _squares(embeddings)
    return tf.concat([embeddings, tf.ones_like(squares), squares], axis=1)


def pair_similarity(first: tf.Tensor, second: tf.Tensor, similarity: str) -> tf.Tensor:
    """Returns the similarity of each row of one (N, d) with the same row of the other, (N,)."""
    return tf.reduce_sum(as_queries(first, similarity) * as_keys(second, similarity), axis=1)


def _squares(embeddings: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(embeddings**2, axis=1, keepdims=True)
