"""Pruning while training: the smallest weights of each layer become zero, and stay so.

Which weights are pruned is read off the weights: those that are exactly zero. There is nothing more
to keep in a checkpoint, and a run that resumes goes on as if it had not ended. A weight that became
zero by itself counts as pruned; it is the smallest, and would be the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import all_layers, batches_taken, raw_variable, register, update_everywhere
from simclr_tf.errors import UserError
from simclr_tf.typing import KerasConfig, Variables

# Every answer depends on the few weights of the last layer; Gale et al. 2019 treat it apart too.
HEAD_SPARSITY = 0.8
_INFINITY = 0x7F800000  # as bits of a float32

Masks: TypeAlias = Mapping[int, tf.Tensor]
"""The identity of a raw kernel -> bool, of its shape: False where a weight is pruned."""


@register
class PruningSchedule:
    """Which share of each kernel is zero after a step: a cubic from 0 to a final share.

        s(t) = s_f * (1 - (1 - i / n)^3),  i = floor((t - t_0) / d) in [0, n]

    The share grows fast at first, when many weights do not matter, and slowly at the end.

    Args:
        sparsity: s_f, the final share of zeros, in (0, 1).
        end_step: The last pruning comes at this step or less than an interval before it.
        begin_step: t_0, steps that are taken before; at least 0.
        interval: d, steps from one pruning to the next; from 1 to end_step - begin_step.

    Raises:
        UserError: A value out of range.

    Source: Zhu and Gupta 2017 (arXiv:1710.01878), equation 1, from an initial share of 0.

    Example:
        >>> schedule = PruningSchedule(0.8, begin_step=250, end_step=750, interval=5)
        >>> classifier.compile("adam", pruning=schedule)
    """

    def __init__(
        self, sparsity: float, end_step: int, begin_step: int = 0, interval: int = 1
    ) -> None:
        if not 0 < sparsity < 1:
            raise UserError(
                f"Expected a sparsity above 0 and below 1; received: {sparsity}. Pass one such as "
                "0.8, or no pruning."
            )
        if not 0 <= begin_step < end_step:
            raise UserError(
                "Expected 0 <= begin_step < end_step of a pruning; received: "
                f"begin_step={begin_step}, end_step={end_step}. Pass other steps."
            )
        if not 1 <= interval <= end_step - begin_step:
            raise UserError(
                f"Expected a pruning interval from 1 to the {end_step - begin_step} steps between "
                f"begin and end; received: {interval}. Pass another."
            )
        self.sparsity = sparsity
        self.end_step = end_step
        self.begin_step = begin_step
        self.interval = interval

    def progress(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns s(t) / s_f, a float64 scalar in [0, 1].

        Args:
            step: t, the steps that were taken, whole.
        """
        prunings = (self.end_step - self.begin_step) // self.interval
        since = tf.cast(step, tf.int64) - self.begin_step
        done = tf.clip_by_value(since // self.interval, 0, prunings)
        left = 1.0 - tf.cast(done, tf.float64) / prunings
        return 1.0 - left**3

    def get_config(self) -> KerasConfig:
        """Returns the arguments of `__init__`."""
        return {
            "sparsity": self.sparsity,
            "end_step": self.end_step,
            "begin_step": self.begin_step,
            "interval": self.interval,
        }

    @classmethod
    def from_config(cls, config: KerasConfig) -> PruningSchedule:
        """Returns the schedule of a config."""
        return cls(**config)


class Pruned(NamedTuple):
    """A kernel and the share of it that is zero in the end."""

    kernel: tf.Variable
    sparsity: float

    @property
    def size(self) -> int:
        """Number of its weights."""
        return int(self.kernel.shape.num_elements())


class Pruner:
    """Prunes a model by a schedule; its step calls it before and after the optimizer.

    Pruned are the trained kernels of convolutions and dense layers, each by its magnitudes. Left as
    they are: biases and batch norm; depthwise convolutions and the first convolution of an encoder,
    which are a percent of the weights and sensitive; the linear head beyond 80%; layers of a
    projection head that a classifier does not read.

    Args:
        schedule: When, and how much.
        model: Built and compiled; it may have replicas.

    Raises:
        UserError: Nothing that is trained can be pruned.

    Source: Zhu and Gupta 2017 (arXiv:1710.01878), for depthwise and first layers their MobileNets;
    first and last layers apart: Gale, Elsen and Hooker 2019 (arXiv:1902.09574). The 80% are ours.
    """

    def __init__(self, schedule: PruningSchedule, model: keras.Model) -> None:
        self.schedule = schedule
        self._optimizer = model.optimizer
        self.kernels = prunable(model, schedule.sparsity)
        self._size = sum(pruned.size for pruned in self.kernels.values())
        if not self.kernels:
            raise UserError(
                "Expected a convolution behind the first or a dense layer that is trained, to "
                "prune it; received: a model without. Train more of it, or leave pruning away."
            )

    def describe(self) -> str:
        """Returns what is pruned, and when, in words."""
        schedule = self.schedule
        return (
            f"Pruning {len(self.kernels)} kernels of {self._size:,} weights to "
            f"{schedule.sparsity:.4g} of zeros, from step {schedule.begin_step:,} to "
            f"{schedule.end_step:,}, every {schedule.interval:,}"
        )

    def masks(self) -> Masks:
        """Returns what a step may change; call it before the update."""
        # Until the first pruning a zero is no pruned weight: linear heads may start as zeros.
        free = tf.cast(batches_taken(self._optimizer), tf.int64) <= self.schedule.begin_step
        return {key: free | (_value(p.kernel) != 0) for key, p in self.kernels.items()}

    def prune(self, masks: Masks, taken: tf.Tensor | None) -> tf.Tensor:
        """Sets pruned weights back to zero after an update, and prunes more where that is due.

        Args:
            masks: What `masks` returned before the update.
            taken: Bool scalar, False where the step was skipped and nothing may change; None: True.

        Returns:
            The share of all these kernels' weights that is zero now, a float32 scalar.
        """
        kernels = [pruned.kernel for pruned in self.kernels.values()]
        # An optimizer moves a weight without a gradient too, by its momentum.
        values = [
            tf.where(masks[key], _value(pruned.kernel), tf.zeros_like(_value(pruned.kernel)))
            for key, pruned in self.kernels.items()
        ]
        progress = self.schedule.progress(tf.convert_to_tensor(batches_taken(self._optimizer)))
        wanted = [
            tf.cast(tf.round(progress * pruned.sparsity * pruned.size), tf.int64)
            for pruned in self.kernels.values()
        ]
        lacking = [count > _zeros(v) for count, v in zip(wanted, values, strict=True)]
        due = tf.reduce_any(tf.stack(lacking))
        if taken is not None:
            due &= taken
        # Only where there is more to prune: it takes as long as a step of a small network.
        values = tf.cond(
            due,
            lambda: [without_smallest(v, count) for v, count in zip(values, wanted, strict=True)],
            lambda: [tf.identity(value) for value in values],
        )
        update_everywhere(list(zip(kernels, values, strict=True)))
        zeros = tf.add_n([tf.cast(_zeros(value), tf.float32) for value in values])
        return zeros / self._size


def masked(gradients: Sequence[tf.Tensor], variables: Variables, masks: Masks) -> list[tf.Tensor]:
    """Returns gradients that are zero where a weight is pruned, as if it were no variable."""
    keys = [id(raw_variable(variable)) for variable in variables]
    return [
        tf.where(masks[key], gradient, tf.zeros_like(gradient)) if key in masks else gradient
        for gradient, key in zip(gradients, keys, strict=True)
    ]


def without_smallest(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns a tensor whose `count` values of smallest magnitude are zero; of equals the first.

    Example:
        >>> without_smallest(tf.constant([[3.0, -1.0], [2.0, 1.0]]), 2)
        [[3.0, 0.0], [2.0, 0.0]]
    """
    flat = tf.reshape(values, [-1])
    count = tf.cast(count, tf.int64)
    sizes = tf.cast(tf.abs(flat), tf.float32)

    def size_of(bits: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(tf.cast(bits, tf.int32), tf.float32)

    # The bits of floats that are not negative are in the floats' order.
    threshold = size_of(_least(lambda bits: _count(sizes <= size_of(bits)) >= count, _INFINITY))
    smaller = sizes < threshold
    left = count - _count(smaller)
    places = tf.range(flat.shape[0], dtype=tf.int64)
    equal = sizes == threshold
    last = _least(lambda place: _count(equal & (places <= place)) >= left, flat.shape[0] - 1)
    pruned = smaller | (equal & (places <= last))
    return tf.reshape(tf.where(pruned, tf.zeros_like(flat), flat), values.shape)


def _least(holds: Callable[[tf.Tensor], tf.Tensor], highest: int) -> tf.Tensor:
    """Returns the least whole number from 0 to `highest` from which on a condition holds, int64.

    By bisection: sorting the weights takes a processor twenty times as long.
    """

    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = (low + high) // 2
        found = holds(middle)
        return tf.where(found, low, middle + 1), tf.where(found, middle, high)

    ends = (tf.constant(0, tf.int64), tf.constant(highest, tf.int64))
    return tf.while_loop(lambda low, high: low < high, halve, ends)[0]


def prunable(model: keras.Model, sparsity: float) -> dict[int, Pruned]:
    """Returns the kernels of a model that are pruned, by the identity of their raw variables.

    Args:
        model: A `SimCLR`, `Classifier` or `Distiller`.
        sparsity: The final share of zeros.
    """
    trained = {id(raw_variable(variable)) for variable in model.trainable_variables}
    encoders = [model.encoder, getattr(model, "second_encoder", None)]
    left = {id(layer) for encoder in encoders for layer in _first_convolution(encoder)}
    left |= {id(layer) for layer in model.unread_layers()}
    found: dict[int, Pruned] = {}
    for layer in all_layers(model):
        kernel = _kernel_of(layer)
        if kernel is None or id(kernel) not in trained or id(layer) in left:
            continue
        is_head = layer is model.supervised_head
        found[id(kernel)] = Pruned(kernel, min(sparsity, HEAD_SPARSITY) if is_head else sparsity)
    return found


def _first_convolution(encoder: keras.Model | None) -> list[keras.layers.Layer]:
    """Returns an encoder's first layer with a kernel, where it is a convolution; or nothing."""
    layers = [] if encoder is None else all_layers(encoder)
    first = next((layer for layer in layers if _kernel_of(layer) is not None), None)
    return [first] if first is not None and not isinstance(first, keras.layers.Dense) else []


def _kernel_of(layer: keras.layers.Layer) -> tf.Variable | None:
    """Returns the kernel of a layer that can be pruned; None of another layer."""
    kinds = keras.layers
    if isinstance(layer, (kinds.SeparableConv1D, kinds.SeparableConv2D)):
        return raw_variable(layer.pointwise_kernel)
    convolutions = (kinds.Conv1D, kinds.Conv2D, kinds.Conv3D)
    if not isinstance(layer, (kinds.Dense, *convolutions)):
        return None
    kernel = getattr(layer, "kernel", None)
    if kernel is None:  # of a layer that is not built
        return None
    is_depthwise = isinstance(layer, convolutions) and layer.groups > 1 and kernel.shape[-2] == 1
    return None if is_depthwise else raw_variable(kernel)


def _value(kernel: tf.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(kernel)


def _zeros(value: tf.Tensor) -> tf.Tensor:
    return _count(value == 0)


def _count(mask: tf.Tensor) -> tf.Tensor:
    # int64: on a GPU int32 is counted by the processor.
    return tf.math.count_nonzero(mask, dtype=tf.int64)
