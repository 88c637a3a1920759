"""What differs between Keras 2 (TensorFlow 2.15) and Keras 3 (TensorFlow >= 2.16), and what both
keep in private attributes.

Every other module is written once, against what both generations share.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras
from tensorflow.python.eager import context as eager_context
from tensorflow.python.framework import config as framework_config
from tensorflow.python.saved_model import save_context

from simclr_tf import autograph  # noqa: F401
from simclr_tf.typing import Logs

# `keras.__version__` is missing from TensorFlow 2.15's `tensorflow.keras`; `keras.ops` is new in 3.
KERAS_3: bool = hasattr(keras, "ops")

# Where Keras 3 keeps the seed of `keras.utils.set_random_seed` and the generator made from it.
_KERAS_3_SEEDS = ("global_random_seed", "global_seed_generator")

# TensorFlow >= 2.16 exposes no `tensorflow.keras.saving`; `keras.utils` has these on both.
register = keras.utils.register_keras_serializable(package="simclr_tf")
serialize = keras.utils.serialize_keras_object
deserialize = keras.utils.deserialize_keras_object


def converted(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns a user's function, converted where AutoGraph converts: under Keras 2 in a step too.

    Example:
        >>> views = converted(augment)(images)
    """
    if isinstance(function, keras.layers.Layer):  # Keras converts its layers itself
        return function
    internal = tf.__internal__.autograph
    return internal.tf_convert(function, internal.control_status_ctx())


def traced_to_save() -> contextlib.AbstractContextManager[None]:
    """Returns a context: `tf.saved_model.save` takes what is traced in it as it is.

    It saves no trace made elsewhere (a replicated variable is read otherwise there), but makes each
    once more: a quarter of the time that the export of a ResNet-18 takes.

    Example:
        >>> with traced_to_save():
        ...     module.__call__.get_concrete_function(spec)
    """
    context: contextlib.AbstractContextManager[None] = save_context.save_context(
        tf.saved_model.SaveOptions()
    )
    return context


def raw_variable(variable: tf.Variable) -> tf.Variable:
    """Returns the `tf.Variable` behind a Keras variable.

    Keras 3 wraps it; an object that tracks the wrapper loses gradients after a SavedModel reload.
    """
    return variable.value if KERAS_3 and isinstance(variable, keras.Variable) else variable


def short_name(variable: tf.Variable) -> str:
    """Returns the last part of a variable's name, as `kernel` (Keras 2 gives `conv2d/kernel:0`)."""
    return variable.name.split("/")[-1].split(":")[0]


def all_layers(
    layer: keras.layers.Layer, include_self: bool = True
) -> Iterator[keras.layers.Layer]:
    """Returns a layer and every layer within it, at any depth.

    Both generations have this in private only: a model's `layers` are not those of its layers.
    """
    return layer._flatten_layers(include_self=include_self)


def random_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers, at any depth, that draw anew in each call (no common base tells them)."""
    return [layer for layer in all_layers(model) if hasattr(layer, "_random_generator")]


def made_by(tensor: keras.KerasTensor) -> tuple[keras.layers.Layer, int]:
    """Returns the layer (Keras 3: operation) that made a symbolic tensor, and in which call.

    Neither generation tells in public how the tensors of a functional model hang together.
    """
    layer, call, *_ = tensor._keras_history
    return layer, call


def made_from(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Returns the symbolic tensors that the call that made this one was given."""
    layer, call = made_by(tensor)
    node = layer._inbound_nodes[call]
    return list(node.input_tensors if KERAS_3 else node.keras_inputs)


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[tf.Variable]
) -> None:
    """Creates the optimizer's variables, so that a checkpoint can be restored into them."""
    variables = list(variables)
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:  # tensorflow-addons' LAMB is a legacy optimizer of Keras 2
        getattr(optimizer, "inner_optimizer", optimizer)._create_all_weights(variables)


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns the optimizer's variables (a method in legacy optimizers of Keras 2)."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def is_compiled(model: keras.Model) -> bool:
    """Returns whether `compile` was called (Keras 2 keeps it under another name)."""
    return bool(model.compiled if KERAS_3 else model._is_compiled)


def forget_validation_data(model: keras.Model) -> None:
    """Makes the next `fit` use the validation data that it is given.

    After a `fit` that raised, Keras 2 keeps its validation data and uses them in the next one.
    """
    if not KERAS_3:
        model._eval_data_handler = None


def num_replicas() -> int:
    """Returns the number of replicas of the strategy in scope (1 without a strategy)."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def scaled_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Returns the loss to differentiate: scaled when the optimizer keeps a float16 loss scale."""
    inner = getattr(optimizer, "scale_loss", None)  # Keras 3: every optimizer has it
    if inner is not None:
        return inner(loss)
    inner = getattr(optimizer, "get_scaled_loss", None)  # Keras 2: only LossScaleOptimizer
    return inner(loss) if inner is not None else loss


def unscaled_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Iterable[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """Returns gradients divided by the loss scale where the optimizer does not do it itself."""
    inner = getattr(optimizer, "get_unscaled_gradients", None)  # Keras 3 unscales in `apply`
    return list(inner(list(gradients)) if inner is not None else gradients)


def remaining_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns by what gradients are still scaled after `unscaled_gradients`; 1: by nothing."""
    one = tf.ones([], tf.float32)
    return tf.cast(scaled_loss(optimizer, one), tf.float32) if KERAS_3 else one


def takes_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer of Keras 3 leave gradients as they are, for `apply_gradients`.

    Keras 2 has an argument for it. On one replica it makes no difference.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if KERAS_3:
        # Not an attribute that Keras tracks or saves.
        object.__setattr__(inner, "_all_reduce_sum_gradients", lambda pairs: list(pairs))


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, pairs: Iterable[tuple[tf.Tensor, tf.Variable]]
) -> None:
    """Applies gradients, summed over replicas, and counts the step, even one that is skipped.

    When a float16 gradient overflows, Keras 3's LossScaleOptimizer does not count the step; Keras
    2's does. A step that is not counted would be repeated by a run that resumes, be waited for by
    an evaluation in vain, and draw the same views again.

    Args:
        optimizer: Prepared by `takes_summed_gradients`.
        pairs: Gradient and variable; the same gradient on each replica.
    """
    if not KERAS_3:
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        return
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is None:
        optimizer.apply_gradients(pairs)
        return
    counter = inner._iterations
    before = tf.identity(tf.convert_to_tensor(counter))
    optimizer.apply_gradients(pairs)
    counter.assign(before + 1)


def apply_gradients_where(
    optimizer: keras.optimizers.Optimizer,
    pairs: Iterable[tuple[tf.Tensor, tf.Variable]],
    condition: tf.Tensor,
    restored: Sequence[tuple[tf.Variable, tf.Tensor]],
    skipped: tf.Variable,
) -> None:
    """Applies gradients where a condition holds; else only counts the step, and restores a state.

    Optimizers leave the context of a replica to update, which a conditional within it can't: so the
    condition is asked across replicas.

    Args:
        optimizer: Prepared by `takes_summed_gradients`.
        pairs: As for `apply_gradients`.
        condition: Bool scalar, the same on each replica.
        restored: Further variables, and their values where the condition does not hold.
        skipped: Counts the steps at which it does not.
    """
    gradients, variables = zip(*pairs, strict=True)
    state, before = [variable for variable, _ in restored], [value for _, value in restored]

    def update(*gradients: tf.Tensor) -> None:
        apply_gradients(optimizer, list(zip(gradients, variables, strict=True)))

    def restore(strategy: tf.distribute.Strategy, variable: tf.Variable, value: tf.Tensor) -> None:
        if variable.synchronization == tf.VariableSynchronization.ON_READ:  # each has its own
            strategy.extended.call_for_each_replica(variable.assign, args=(value,))
        else:
            variable.assign(strategy.experimental_local_results(value)[0])

    def across(
        strategy: tf.distribute.Strategy,
        condition: tf.Tensor,
        gradients: tuple[tf.Tensor, ...],
        before: list[tf.Tensor],
    ) -> None:
        def apply() -> None:
            strategy.extended.call_for_each_replica(update, args=gradients)

        def skip() -> None:
            batches_taken(optimizer).assign_add(1)
            skipped.assign_add(1)
            for variable, value in zip(state, before, strict=True):
                restore(strategy, variable, value)

        tf.cond(strategy.experimental_local_results(condition)[0], apply, skip)

    context = tf.distribute.get_replica_context()
    context.merge_call(across, args=(condition, gradients, before))


def batches_taken(optimizer: keras.optimizers.Optimizer) -> tf.Variable:
    """Returns the variable that counts the batches that an optimizer was given.

    Keras 3's `iterations` do not change while gradients are accumulated over batches.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner._iterations if KERAS_3 else inner.iterations


def kept_learning_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the schedule or variable that an optimizer keeps; None in Keras 2's legacy ones.

    The public `learning_rate` is a schedule's value, at a step that loss scaling may not count.
    """
    return getattr(optimizer, "_learning_rate", None)


def loss_scale(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Returns an optimizer's current loss scale; None where it has none."""
    if not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return None
    if not KERAS_3:
        return float(optimizer.loss_scale)
    # Before the first step only the initial value exists.
    return float(getattr(optimizer, "dynamic_scale", optimizer.initial_scale))


def replica_logs(logs: Logs) -> Logs:
    """Returns step logs in the shape that `fit` can reduce.

    Keras 3 under several workers concatenates logs along axis 0, which a scalar lacks.
    """
    strategy = tf.distribute.get_strategy()
    if KERAS_3 and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}
    return logs


def global_seeds() -> Any:
    """Returns the global seeds and generators of TensorFlow and Keras, for `restore_global_seeds`.

    Neither generation has a public API for it.
    """
    context = eager_context.context()
    generator = getattr(context, "_rng", None)  # absent before the first seed
    of_tensorflow = (
        getattr(context, "_seed", None),
        generator.getstate() if generator is not None else None,
    )
    if KERAS_3:  # a seed, and a generator that is made from it on first use
        state = sys.modules["keras.src.backend.common.global_state"]
        return of_tensorflow, {name: state.get_global_attribute(name) for name in _KERAS_3_SEEDS}
    # Keras 2: a `random.Random`, which setting a seed replaces
    return of_tensorflow, getattr(sys.modules["keras.src.backend"]._SEED_GENERATOR, "generator", 0)


def restore_global_seeds(states: Any) -> None:
    """Restores the state that `global_seeds` returned."""
    (seed, generator_state), of_keras = states
    context = eager_context.context()
    context._set_global_seed(seed)  # also clears the kernels that use the other seed
    if generator_state is not None:
        context._rng.setstate(generator_state)
    if KERAS_3:
        state = sys.modules["keras.src.backend.common.global_state"]
        for name, value in of_keras.items():
            state.set_global_attribute(name, value)
    elif of_keras != 0:
        sys.modules["keras.src.backend"]._SEED_GENERATOR.generator = of_keras
    elif hasattr(sys.modules["keras.src.backend"]._SEED_GENERATOR, "generator"):
        del sys.modules["keras.src.backend"]._SEED_GENERATOR.generator


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Makes TensorFlow's kernels give the same bits each time, for a block.

    Args:
        wanted: False changes nothing.
    """
    before = framework_config.is_op_determinism_enabled()
    if wanted and not before:
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if wanted and not before:
            framework_config.disable_op_determinism()  # has no public name


def update_everywhere(updates: Sequence[tuple[tf.Variable, tf.Tensor]]) -> None:
    """Assigns values, the same on each replica, to variables that all replicas share.

    A replica can't assign to most of Keras' variables itself: they name no way to bring the
    replicas' values together.
    """
    variables = [variable for variable, _ in updates]

    def across(strategy: tf.distribute.Strategy, values: list[tf.Tensor]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable, lambda v, new: v.assign(new), args=(value,))

    tf.distribute.get_replica_context().merge_call(across, args=([v for _, v in updates],))
