"""What replicas exchange in a training step, in bytes, and what that costs on paper.

With R replicas of N images each, M = R N images in all, d numbers an embedding, each replica
receives in every step

    gathered embeddings   (R - 1) N (2d + 1) 4            forward: both views, and who owns them
                          2 (R - 1) / R * M (2d + 1) 4    backward: their gradients are summed
    gradients             2 (R - 1) / R * G               G: bytes of the trainable variables
    batch norm            2 (R - 1) / R * (2c + 1) 4      each layer of c channels, forward and back

and sends as much. A sum over replicas (all-reduce) is a reduce-scatter and an all-gather of
(R - 1) / R of its bytes each, the least that is possible. A few numbers for means are left out.

Source: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in
MPICH": recursive doubling and halving.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from simclr_tf.compat import all_layers
from simclr_tf.models.blocks import BatchNorm
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.footprint import embedding_width, size_of
from simclr_tf.training.simclr import SimCLR

_FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What each replica receives in a step.

    Attributes:
        replicas: R.
        embeddings: Bytes of embeddings and of their gradients.
        gradients: Bytes of the gradients of variables.
        batch_norm: Bytes of batch norm's statistics and their gradients.
        gathers: Operations that hand every replica's part to all.
        sums: Operations that add up over all replicas.
    """

    replicas: int
    embeddings: float
    gradients: float
    batch_norm: float
    gathers: int
    sums: int

    @property
    def total(self) -> float:
        """All bytes."""
        return self.embeddings + self.gradients + self.batch_norm

    def seconds(self, bytes_per_second: float, latency: float) -> float:
        """Returns how long the exchange takes where no computation hides it.

        Args:
            bytes_per_second: What a replica receives in a second, and sends at the same time.
            latency: Seconds from sending a message to its arrival. A gather passes log2(R) messages
                on, one after the other, a sum twice as many.
        """
        hops = math.ceil(math.log2(self.replicas)) if self.replicas > 1 else 0
        waits = hops * (self.gathers + 2 * self.sums)
        return self.total / bytes_per_second + waits * latency


def exchange(
    replicas: int,
    images: int,
    dimensions: int,
    gradient_bytes: float,
    batch_norms: Sequence[int] = (),
) -> Exchange:
    """Returns what each replica receives in a step of contrastive learning.

    Args:
        replicas: R.
        images: N, of each replica; 0: no loss compares embeddings, as in fine-tuning.
        dimensions: d, of an embedding.
        gradient_bytes: G.
        batch_norms: Channels of each synchronised batch norm.

    Example:
        >>> exchange(2, images=64, dimensions=128, gradient_bytes=0).embeddings
        197376.0
    """
    row = (2 * dimensions + 1) * _FLOAT
    gathered = (replicas - 1) * images * row
    share = 2 * (replicas - 1) / replicas  # of the bytes that are summed
    statistics = sum(2 * channels + 1 for channels in batch_norms) * _FLOAT
    return Exchange(
        replicas,
        embeddings=gathered + share * replicas * images * row,
        gradients=share * gradient_bytes,
        batch_norm=2 * share * statistics,
        gathers=1 if images else 0,
        sums=(1 if images else 0) + 1 + 2 * len(batch_norms),
    )


def exchange_of(model: SimCLR | Classifier, replicas: int, images: int) -> Exchange:
    """Returns what each replica receives in the training step of a model.

    Args:
        model: Its variables, its embeddings and its synchronised batch norms count.
        replicas: R.
        images: N, of each replica.
    """
    layers = [*all_layers(model)]
    contrasts = isinstance(model, SimCLR)
    if contrasts and model.micro_batch_size is not None:
        # Within the loop over micro-batches replicas can't communicate.
        inside = {id(layer) for layer in all_layers(model.encoder)}
        layers = [layer for layer in layers if id(layer) not in inside]
    norms = {
        id(layer): int(layer.moving_mean.shape[0])
        for layer in layers
        if isinstance(layer, BatchNorm) and layer.synchronized and layer.trainable
    }
    return exchange(
        replicas,
        images if contrasts else 0,
        embedding_width(model) if contrasts else 0,
        size_of(model.trainable_variables),
        [*norms.values()],
    )
