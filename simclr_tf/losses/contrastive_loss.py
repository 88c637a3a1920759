"""What all contrastive losses share: how they are called, and their settings."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.losses.contrastive_output import ContrastiveOutput
from simclr_tf.losses.names import SIMILARITIES
from simclr_tf.typing import KerasConfig


class Memory(NamedTuple):
    """What a momentum encoder makes of this batch, and has made of earlier ones.

    Views are compared with its embeddings alone, positives too: if only the negatives came from it,
    an encoder could tell them by who made them. No gradient flows to them.

    Attributes:
        keys: (K, d) float32, of earlier batches. Scaled as the loss scales its own.
        filled: (K,) bool, False where nothing is stored yet.
        current: (2N, d) float32, of this replica's views, in the order of the loss's own.
    """

    keys: tf.Tensor
    filled: tf.Tensor
    current: tf.Tensor


class Batch(NamedTuple):
    """What a loss is called with; see `ContrastiveLoss.__call__`."""

    hidden: tf.Tensor
    labels: tf.Tensor | None
    mask: tf.Tensor | None
    memory: Memory | None
    seed: tf.Tensor | None
    block_size: int | None


class ContrastiveLoss:
    """A loss between two views of each image, over the views of all replicas.

    A subclass gives `output` and has a constructor that takes what `get_config` returns. Register
    it, as `keras.utils.register_keras_serializable()` does, where models are to be saved.

    Args:
        temperature: Above 0; divides the similarities, in losses that have one; in all of them for
            the entropy beside the loss.
        hidden_norm: Whether embeddings are scaled to length 1.
        similarity: `cosine` (the inner product, where `hidden_norm` is False) or `euclidean`, the
            negative squared distance.

    Raises:
        UserError: A setting out of range.
    """

    needs_labels = False
    """Whether it can't be computed without labels."""
    takes_memory = False
    """Whether embeddings of earlier batches can be added as negatives."""

    def __init__(
        self, temperature: float = 0.1, hidden_norm: bool = True, similarity: str = "cosine"
    ) -> None:
        check_above_zero("temperature", temperature)
        check_choice("similarity", similarity, SIMILARITIES)
        self.temperature = temperature
        self.hidden_norm = hidden_norm
        self.similarity = similarity

    def __call__(
        self,
        hidden: tf.Tensor,
        *,
        labels: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        memory: Memory | None = None,
        seed: tf.Tensor | None = None,
        block_size: int | None = None,
    ) -> ContrastiveOutput:
        """Returns this replica's share of the loss.

        Args:
            hidden: (2N, d) outputs of the projection head: N first views, then the N second views
                of the same images. Any float type; the loss is computed in float32.
            labels: (N,) int class ids, -1 for no label; only losses with `needs_labels` use them.
            mask: (N,) bool, False for images that only fill up a batch; None: all count.
            memory: What views are compared with instead of each other.
            seed: Int32 (2,), the same on each replica; for losses that draw.
            block_size: Images compared at a time, as for `nt_xent`; 0: all; None: chosen by size.

        Returns:
            A `ContrastiveOutput`.
        """
        return self.output(Batch(hidden, labels, mask, memory, seed, block_size))

    def output(self, batch: Batch) -> ContrastiveOutput:
        """Returns what a call returns."""
        raise NotImplementedError

    def get_config(self) -> KerasConfig:
        return {
            "temperature": self.temperature,
            "hidden_norm": self.hidden_norm,
            "similarity": self.similarity,
        }

    @classmethod
    def from_config(cls, config: KerasConfig) -> ContrastiveLoss:
        return cls(**config)

    def _embeddings(self, hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns first and second views, (N, d) float32 each, scaled."""
        hidden = tf.convert_to_tensor(hidden)
        check_hidden(hidden)
        first, second = tf.split(self._scaled(hidden), 2, axis=0)
        return first, second

    def _scaled(self, embeddings: tf.Tensor) -> tf.Tensor:
        embeddings = tf.cast(embeddings, tf.float32)
        return tf.math.l2_normalize(embeddings, axis=-1) if self.hidden_norm else embeddings


def check_hidden(hidden: tf.Tensor) -> None:
    """Raises a UserError unless these are N first and N second views, (2N, d)."""
    shape = hidden.shape
    if shape.rank != 2 or (shape[0] is not None and (shape[0] == 0 or shape[0] % 2)):
        raise UserError(
            "Expected hidden of shape (2N, d): N first views, then N second views; "
            f"received: {tuple(shape)}. Concatenate the two views on axis 0."
        )


def check_above_zero(name: str, value: Any) -> None:
    """Raises a UserError unless a Python number is above 0; tensors are not looked at."""
    if isinstance(value, (int, float)) and not value > 0:
        raise UserError(f"Expected {name} > 0; received: {value}. Pass one such as 0.1 or 0.5.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a UserError unless a value is one of those that there are."""
    if value not in choices:
        raise UserError(f"Expected {name} to be one of {', '.join(choices)}; received: {value!r}.")
