"""Images cut into blocks, so that similarities of all with all never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

# Similarities of one kind in one block: 4 MB each stay in a processor's cache or near it.
_BLOCK_ELEMENTS = 2**20
# Not minus infinity, so that the difference of two is defined; its exp is zero.
MASKED = -1e9

State: TypeAlias = "list[tf.Tensor | tf.TensorArray]"
"""What a loop carries from one block to the next."""


def default_block_size(images: int | tf.Tensor, all_images: int | tf.Tensor) -> int | tf.Tensor:
    """Returns the images in a block, or 0 for the plain form, which suits small batches.

    Args:
        images: N, this replica's images; a tensor where it is not known before the step.
        all_images: M, the images of all replicas.

    Returns:
        An int; where N or M is a tensor, a scalar int32 tensor of at least 1.
    """
    if isinstance(images, int) and isinstance(all_images, int):
        if images * all_images <= _BLOCK_ELEMENTS:
            return 0
        return max(1, min(images, _BLOCK_ELEMENTS // all_images))
    return tf.maximum(1, tf.minimum(images, _BLOCK_ELEMENTS // tf.maximum(all_images, 1)))


class Blocks:
    """Cuts images into blocks, (N, ...) to (blocks, B, ...), the last padded by zeros, and back.

    Args:
        count: N.
        size: B, images in a block.
    """

    def __init__(self, count: tf.Tensor, size: int | tf.Tensor) -> None:
        self.count = count
        self.size = size
        # At least one block, even of padding alone: an empty TensorArray has no element shape.
        self.blocks = tf.maximum(1, (count + size - 1) // size)

    def split(self, rows: tf.Tensor) -> tf.Tensor:
        missing = self.blocks * self.size - self.count
        padding = [[0, missing]] + [[0, 0]] * (rows.shape.rank - 1)
        shape = [self.blocks, self.size, *rows.shape[1:]]
        return tf.reshape(tf.pad(rows, padding), shape)

    def join(self, blocks: tf.Tensor) -> tf.Tensor:
        shape = [self.blocks * self.size, *blocks.shape[2:]]
        return tf.reshape(blocks, shape)[: self.count]

    def join_pairs(self, blocks: tf.Tensor) -> tf.Tensor:
        """(blocks, 2B) to (N, 2)."""
        return tf.reshape(blocks, [-1, 2])[: self.count]

    def arrays(self, number: int) -> list[tf.TensorArray]:
        return [tf.TensorArray(tf.float32, self.blocks) for _ in range(number)]

    def loop(self, body: Callable[..., State], state: State) -> State:
        """Runs one block after another: two at a time would need twice the memory."""
        start = tf.constant(0)
        done = tf.while_loop(
            lambda index, *_: index < self.blocks, body, [start, *state], parallel_iterations=1
        )
        return done[1:]
