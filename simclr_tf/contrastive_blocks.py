"""NT-Xent's log-sums over all negatives, block by block: memory grows linearly with the batch.

The plain form keeps four (N, M) matrices of similarities, their softmax and its gradient. Here a
block of rows is computed, reduced to one number a row and forgotten; the backward pass computes it
again. What is kept is (N,) and (M, d). Every op has a GPU kernel and compiles under XLA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

# Similarities of one kind in one block: 4 MB each stay in a processor's cache or near it.
_BLOCK_ELEMENTS = 2**20


class RowStatistics(NamedTuple):
    """One number for each of this replica's N images.

    Attributes:
        first: (N,) log of the sum, over the other 2M - 1 views, of exp(similarity) to first views.
        second: (N,) the same of second views.
        hit: (N,) 1.0 where a first view is nearest to its own second view, else 0.0.
        entropy: (N,) entropy in nats of the softmax over second views.
    """

    first: tf.Tensor
    second: tf.Tensor
    hit: tf.Tensor
    entropy: tf.Tensor


def default_block_size(images: int | None, all_images: int | None) -> int:
    """Returns the rows of a block, or 0 for the plain form, which is as good for small batches.

    Args:
        images: N, this replica's images; None: not known before the step.
        all_images: M, the images of all replicas.
    """
    if images is None or all_images is None or images * all_images <= _BLOCK_ELEMENTS:
        return 0
    return max(1, min(images, _BLOCK_ELEMENTS // all_images))


def row_statistics(
    first: tf.Tensor,
    second: tf.Tensor,
    all_first: tf.Tensor,
    all_second: tf.Tensor,
    labels: tf.Tensor,
    block_size: int,
) -> RowStatistics:
    """Returns the log-sums of NT-Xent's rows and the metrics of the same rows.

    Args:
        first: (N, d) float32 first views of this replica, divided by the temperature.
        second: (N, d) second views, likewise.
        all_first: (M, d) float32 first views of all replicas, not divided.
        all_second: (M, d).
        labels: (N,) int32 in [0, M): where this replica's images are among all.
        block_size: Rows computed at a time, >= 1.

    Returns:
        A `RowStatistics`; gradients of `first` and `second` reach the four inputs.

    Source: Chen et al. 2020 (arXiv 2002.05709), equation 1; the recomputation of Chen et al. 2016,
    "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).

    Example:
        >>> rows = row_statistics(z1 / 0.1, z2 / 0.1, z1, z2, tf.range(n), block_size=512)
        >>> loss = tf.reduce_mean(rows.first + rows.second - 2 * tf.reduce_sum(z1 * z2, 1) / 0.1)
    """
    count = tf.shape(first)[0]
    blocks = (count + block_size - 1) // block_size
    missing = blocks * block_size - count
    # Rows that fill the last block are zero, as are the gradients that come back for them.
    place = _Blocks(blocks, block_size, count, missing)
    places = place.split(labels)

    @tf.custom_gradient
    def statistics(*inputs: tf.Tensor) -> tuple[Any, Any]:
        own_first, own_second, keys_first, keys_second = inputs
        queries = place.split(own_first), place.split(own_second)
        keys = keys_first, keys_second

        def forward(index: tf.Tensor, *kept: tf.TensorArray) -> list[Any]:
            reduced = _reduce(_similarities(queries, keys, places, index))
            pairs = zip(kept, reduced, strict=True)
            return [index + 1, *(array.write(index, rows) for array, rows in pairs)]

        results = [place.join(a) for a in place.loop(forward, place.arrays(4))]
        sums = results[0], results[1]

        def backward(*gradients: tf.Tensor) -> list[tf.Tensor]:
            weights = place.split(gradients[0]), place.split(gradients[1])
            logs = place.split(sums[0]), place.split(sums[1])

            def step(index: tf.Tensor, *state: Any) -> list[Any]:
                gradient_a, gradient_b, gradient_keys_a, gradient_keys_b = state
                share = _softmax_gradients(queries, keys, places, logs, weights, index)
                row_a = tf.matmul(share.aa, keys_first) + tf.matmul(share.ab, keys_second)
                row_b = tf.matmul(share.ba, keys_first) + tf.matmul(share.bb, keys_second)
                a, b = (tf.gather(query, index) for query in queries)
                gradient_keys_a += _outer(share.aa, a) + _outer(share.ba, b)
                gradient_keys_b += _outer(share.ab, a) + _outer(share.bb, b)
                return [
                    index + 1,
                    gradient_a.write(index, row_a),
                    gradient_b.write(index, row_b),
                    gradient_keys_a,
                    gradient_keys_b,
                ]

            zeros = [tf.zeros_like(keys_first), tf.zeros_like(keys_second)]
            state = place.loop(step, [*place.arrays(2), *zeros])
            return [place.join(state[0]), place.join(state[1]), state[2], state[3]]

        return tuple(results), backward

    first_sums, second_sums, hit, entropy = statistics(first, second, all_first, all_second)
    return RowStatistics(first_sums, second_sums, tf.stop_gradient(hit), tf.stop_gradient(entropy))


class _Blocks(NamedTuple):
    """How rows are cut: (count, ...) to (blocks, block_size, ...), and back."""

    blocks: tf.Tensor
    block_size: int
    count: tf.Tensor
    missing: tf.Tensor

    def split(self, rows: tf.Tensor) -> tf.Tensor:
        padding = [[0, self.missing]] + [[0, 0]] * (rows.shape.rank - 1)
        shape = [self.blocks, self.block_size, *rows.shape[1:]]
        return tf.reshape(tf.pad(rows, padding), shape)

    def join(self, array: tf.TensorArray) -> tf.Tensor:
        return array.concat()[: self.count]

    def arrays(self, number: int) -> list[tf.TensorArray]:
        return [tf.TensorArray(tf.float32, self.blocks) for _ in range(number)]

    def loop(self, body: Any, state: list[Any]) -> list[Any]:
        """Runs one block after another: two at a time would need twice the memory."""
        start = tf.constant(0)
        done = tf.while_loop(
            lambda index, *_: index < self.blocks, body, [start, *state], parallel_iterations=1
        )
        return done[1:]


class _Similarities(NamedTuple):
    """(block, M) each: first views with second views, and so on; an image with itself is -inf."""

    ab: tf.Tensor
    aa: tf.Tensor
    ba: tf.Tensor
    bb: tf.Tensor
    is_own: tf.Tensor


def _similarities(
    queries: tuple[tf.Tensor, tf.Tensor],
    keys: tuple[tf.Tensor, tf.Tensor],
    places: tf.Tensor,
    index: tf.Tensor,
) -> _Similarities:
    a, b = (tf.gather(query, index) for query in queries)
    own = tf.gather(places, index)[:, tf.newaxis]
    is_own = tf.equal(own, tf.range(tf.shape(keys[0])[0]))
    excluded = tf.constant(-float("inf"))
    return _Similarities(
        ab=tf.matmul(a, keys[1], transpose_b=True),
        aa=tf.where(is_own, excluded, tf.matmul(a, keys[0], transpose_b=True)),
        ba=tf.matmul(b, keys[0], transpose_b=True),
        bb=tf.where(is_own, excluded, tf.matmul(b, keys[1], transpose_b=True)),
        is_own=is_own,
    )


def _reduce(similarity: _Similarities) -> tuple[tf.Tensor, ...]:
    """Returns a block's part of each field of `RowStatistics`."""
    largest = tf.reduce_max(similarity.ab, axis=1, keepdims=True)
    exponential = tf.exp(similarity.ab - largest)
    total = tf.reduce_sum(exponential, axis=1, keepdims=True)
    probability = exponential / total
    # 1e-8 as the release: a probability that underflows to zero adds nothing.
    entropy = -tf.reduce_sum(probability * tf.math.log(probability + 1e-8), axis=1)
    # argmax takes the first of equals, as the plain form.
    nearest = tf.argmax(similarity.ab, axis=1, output_type=tf.int32)
    own = tf.argmax(tf.cast(similarity.is_own, tf.float32), axis=1, output_type=tf.int32)
    between = (largest + tf.math.log(total))[:, 0]
    return (
        _log_add(between, tf.reduce_logsumexp(similarity.aa, axis=1)),
        _log_add(
            tf.reduce_logsumexp(similarity.ba, axis=1), tf.reduce_logsumexp(similarity.bb, axis=1)
        ),
        tf.cast(tf.equal(nearest, own), tf.float32),
        entropy,
    )


def _log_add(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns log(exp(x) + exp(y)); x is finite, y may be -inf (a single image has no negative)."""
    largest = tf.maximum(x, y)
    return largest + tf.math.log(tf.exp(x - largest) + tf.exp(y - largest))


def _softmax_gradients(
    queries: tuple[tf.Tensor, tf.Tensor],
    keys: tuple[tf.Tensor, tf.Tensor],
    places: tf.Tensor,
    logs: tuple[tf.Tensor, tf.Tensor],
    weights: tuple[tf.Tensor, tf.Tensor],
    index: tf.Tensor,
) -> _Similarities:
    """Returns the gradient of a block's similarities: each row's softmax times its weight."""
    similarity = _similarities(queries, keys, places, index)
    log_a, log_b = (tf.gather(log, index)[:, tf.newaxis] for log in logs)
    weight_a, weight_b = (tf.gather(weight, index)[:, tf.newaxis] for weight in weights)
    return _Similarities(
        ab=tf.exp(similarity.ab - log_a) * weight_a,
        aa=tf.exp(similarity.aa - log_a) * weight_a,
        ba=tf.exp(similarity.ba - log_b) * weight_b,
        bb=tf.exp(similarity.bb - log_b) * weight_b,
        is_own=similarity.is_own,
    )


def _outer(gradient: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    return tf.matmul(gradient, rows, transpose_a=True)
