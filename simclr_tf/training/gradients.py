"""From a loss to the update of the weights, on any optimizer and any number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import (
    apply_gradients,
    apply_gradients_where,
    batches_taken,
    kept_learning_rate,
    num_replicas,
    raw_variable,
    remaining_scale,
    scaled_loss,
    unscaled_gradients,
)
from simclr_tf.devices import replicas
from simclr_tf.training.pruning import Masks, Pruner, masked
from simclr_tf.typing import Variables


class StepSettings(Protocol):
    """What a step asks of its model.

    Attributes:
        optimizer: It gets gradients that are summed over replicas already.
        clip_norm: Largest norm of the whole gradient; None: any.
        skip_non_finite: Whether a step whose loss or gradient is NaN or infinite changes nothing.
        skipped_steps: Counts them.
        pruner: Sets weights to zero; None: none is pruned.
        non_trainable_variables: What a forward pass may change.
    """

    optimizer: keras.optimizers.Optimizer
    clip_norm: float | None
    skip_non_finite: bool
    skipped_steps: tf.Variable | None
    pruner: Pruner | None

    @property
    def non_trainable_variables(self) -> Variables: ...


class Step(NamedTuple):
    """What became of a step.

    Attributes:
        norm: Norm of the whole gradient over all variables, float32 scalar; before clipping.
        taken: Bool scalar: whether the weights were updated; None: they always are.
        sparsity: Share of the pruned kernels' weights that is zero now, float32 scalar; None:
            nothing is pruned.
    """

    norm: tf.Tensor
    taken: tf.Tensor | None
    sparsity: tf.Tensor | None = None


def minimize(
    model: StepSettings,
    gradients: Sequence[tf.Tensor | None],
    variables: Variables,
    loss: tf.Tensor,
    statistics: Sequence[tf.Tensor] = (),
) -> Step:
    """Applies gradients of the loss that `loss_to_minimize` returns; None changes no variable.

    Args:
        model: Its optimizer, `clip_norm` and `skip_non_finite`.
        gradients: This replica's, one for each variable.
        variables: The trainable variables.
        loss: This replica's share of the loss.
        statistics: What `statistics_of` returned before the batch was seen: what a step that is
            skipped leaves behind.
    """
    pruner = model.pruner
    if pruner is None:
        return _minimize(model, gradients, variables, loss, statistics)
    masks = pruner.masks()
    step = _minimize(model, gradients, variables, loss, statistics, masks)
    return step._replace(sparsity=pruner.prune(masks, step.taken))


def _minimize(
    model: StepSettings,
    gradients: Sequence[tf.Tensor | None],
    variables: Variables,
    loss: tf.Tensor,
    statistics: Sequence[tf.Tensor],
    masks: Masks | None = None,
) -> Step:
    optimizer = model.optimizer
    gradients = unscaled_gradients(optimizer, gradients)
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    # Summed here, once: the norm of the whole gradient is not that of its parts.
    whole = replicas.sum_each_over_replicas([gradient for gradient, _ in pairs])
    if masks is not None:
        whole = masked(whole, [variable for _, variable in pairs], masks)
    norm = tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in whole])
    norm /= remaining_scale(optimizer)
    if model.clip_norm is not None:
        factor = tf.minimum(1.0, model.clip_norm / tf.maximum(norm, 1e-12))
        whole = [gradient * tf.cast(factor, gradient.dtype) for gradient in whole]
    pairs = [(gradient, v) for gradient, (_, v) in zip(whole, pairs, strict=True)]
    if not model.skip_non_finite:
        apply_gradients(optimizer, pairs)
        return Step(norm, None)
    lost = replicas.sum_over_replicas(tf.cast(~tf.math.is_finite(loss), tf.float32)) > 0
    taken = ~lost
    if not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        # A loss scale must see its overflows: it skips the update itself, and falls.
        taken &= tf.math.is_finite(norm)
    restored = list(zip(_state_of(model), statistics, strict=True))
    apply_gradients_where(optimizer, pairs, taken, restored, model.skipped_steps)
    return Step(norm, taken)


def counter() -> tf.Variable:
    """Returns a number of steps, 0, the same on each replica; call it in the strategy's scope."""
    only = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=only)


def statistics_of(model: StepSettings) -> list[tf.Tensor]:
    """Returns the values that a forward pass changes, where a skipped step must restore them."""
    return [tf.identity(variable) for variable in _state_of(model)]


def _state_of(model: StepSettings) -> list[tf.Variable]:
    if not model.skip_non_finite:
        return []
    return [raw_variable(variable) for variable in model.non_trainable_variables]


def loss_to_minimize(model: StepSettings, loss: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the mean loss (optimizers add gradients over replicas)."""
    return scaled_loss(model.optimizer, loss / num_replicas())


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns the learning rate of the current step, a float32 scalar."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = kept_learning_rate(inner)
    rate = inner.learning_rate if rate is None else rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(tf.convert_to_tensor(batches_taken(optimizer)))
    return tf.cast(tf.convert_to_tensor(rate), tf.float32)
