"""LARS, and the variables that it neither decays nor adapts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow import keras

from simclr_tf import compat
from simclr_tf.errors import UserError
from simclr_tf.typing import KerasConfig, Variables

Key: TypeAlias = int | str
"""How Keras's optimizers identify a variable: Keras 2 by a unique name, Keras 3 by its `id`."""


@compat.register
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling: SGD whose step is proportional to each layer's norm.

    For a variable w with gradient g, momentum m (from 0), learning rate lr and mu = `momentum`:

        ratio(w, x) = eeta * |w| / |x|    if |w| > 0 and |x| > 0
                    = 1                   otherwise, and for w excluded from layer adaptation
        g = g + weight_decay * w          unless w is excluded from weight decay

        if classic_momentum:                   # the learning rate enters the momentum
            step = lr * ratio(w, g) * g
            m = mu * m + step
            w = w - (mu * m + step  if nesterov else  m)
        else:                                  # 'popular': it is applied after the momentum
            m = mu * m + g
            update = mu * m + g  if nesterov else  m
            w = w - lr * ratio(w, update) * update

    |.| is the Euclidean norm; all of it is computed in float32. The decay is part of the gradient
    (L2), as in the paper, and not decoupled. A variable whose gradient is None does not change.

    Which variables are excluded is decided by identity, never by name (Keras 3 calls every kernel
    `kernel`): `lars.exclude(excluded_variables(model))` after the model is built. `get_config`
    keeps the exclusions of a built optimizer as positions among its variables.

    Args:
        learning_rate: a number >= 0 or a `LearningRateSchedule`.
        momentum: mu, in [0, 1).
        weight_decay: L2 coefficient >= 0.
        eeta: trust coefficient > 0 ("eta" in the paper).
        nesterov: whether to look one momentum step ahead; the release's LARS does not.
        classic_momentum: which of the two forms above; True is the release's.
        exclude_from_weight_decay: variables, or positions among the variables that the optimizer
            is built for; see `exclude`.
        exclude_from_layer_adaptation: the same, for the trust ratio.
        name: the optimizer's name.
        **kwargs: as for any Keras optimizer (`clipnorm`, `global_clipnorm`, `use_ema` ...).

    Raises:
        UserError: if a value is out of range.

    Source: You et al. 2017 (arXiv 1708.03888), SimCLR section 2.2; both forms as the release.

    Example:
        >>> lars = LARS(WarmUpCosine(0.3, 512, 50_000, epochs=100), weight_decay=1e-4)
        >>> lars.exclude(excluded_variables(model))
        >>> model.compile(optimizer=lars)
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eeta: float = 0.001,
        nesterov: bool = False,
        classic_momentum: bool = True,
        exclude_from_weight_decay: Sequence[tf.Variable | int] = (),
        exclude_from_layer_adaptation: Sequence[tf.Variable | int] = (),
        name: str = "LARS",
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1 or not weight_decay >= 0 or not eeta > 0:
            raise UserError(
                "Expected 0 <= momentum < 1, weight_decay >= 0 and eeta > 0; received: "
                f"momentum={momentum}, weight_decay={weight_decay}, eeta={eeta}. Correct these."
            )
        if compat.KERAS_3:
            super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        else:
            super().__init__(name=name, **kwargs)
            # Keras 2 leaves the rate to each optimizer, to keep in this attribute.
            self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.eeta = eeta
        self.nesterov = nesterov
        self.classic_momentum = classic_momentum
        # Frozen sets of keys: lists of variables would become part of every checkpoint.
        self._not_decayed: frozenset[Key] = frozenset()
        self._not_adapted: frozenset[Key] = frozenset()
        self._positions_not_decayed: frozenset[int] = frozenset()
        self._positions_not_adapted: frozenset[int] = frozenset()
        self.exclude(exclude_from_weight_decay, layer_adaptation=False)
        self.exclude(exclude_from_layer_adaptation, weight_decay=False)

    def exclude(
        self,
        variables: Iterable[tf.Variable | int],
        weight_decay: bool = True,
        layer_adaptation: bool = True,
    ) -> None:
        """Excludes variables from weight decay and from the trust ratio.

        Call it before the first step: a traced step does not see later changes.

        Args:
            variables: variables of the model, or positions among the optimizer's variables.
            weight_decay: whether to leave them out of the decay.
            layer_adaptation: whether to leave them out of the adaptation (ratio 1).
        """
        variables = list(variables)
        positions = frozenset(v for v in variables if isinstance(v, int))
        keys = frozenset(self._var_key(v) for v in variables if not isinstance(v, int))
        if weight_decay:
            self._not_decayed |= keys
            self._positions_not_decayed |= positions
        if layer_adaptation:
            self._not_adapted |= keys
            self._positions_not_adapted |= positions
        if self._positions():
            self._resolve_positions()

    def exclude_from_weight_decay(
        self, var_list: Iterable[tf.Variable] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Keras's own method to exclude variables from weight decay; by identity only."""
        if var_names:
            raise UserError(
                f"Expected variables; received: names {list(var_names)}. Names differ between "
                "Keras 2 and 3: pass var_list, as from excluded_variables(model)."
            )
        self.exclude(var_list or (), layer_adaptation=False)

    def build(self, var_list: Variables) -> None:
        """Creates one momentum per variable; call it before a checkpoint is restored."""
        if getattr(self, "built", False) or getattr(self, "_built", False):  # Keras 3, Keras 2
            return
        super().build(var_list)
        self._momentums = [self.add_variable_from_reference(v, "momentum") for v in var_list]
        self._built = True
        self._resolve_positions()

    def update_step(
        self,
        gradient: tf.Tensor | tf.IndexedSlices,
        variable: tf.Variable,
        learning_rate: tf.Tensor | None = None,
    ) -> None:
        """Applies the rule in the class's docstring to one variable."""
        key = self._var_key(variable)  # one key for all replicas' copies of a mirrored variable
        # Keras 2 does not pass the rate.
        rate = tf.cast(self.learning_rate if learning_rate is None else learning_rate, tf.float32)
        slot = compat.raw_variable(self._momentums[self._positions()[key]])
        weight = tf.cast(tf.convert_to_tensor(variable), tf.float32)
        momentum = tf.cast(tf.convert_to_tensor(slot), tf.float32)
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)  # IndexedSlices: dense
        if self.weight_decay and key not in self._not_decayed:
            gradient += self.weight_decay * weight

        adapted = key not in self._not_adapted
        if self.classic_momentum:
            step = rate * (self._trust_ratio(weight, gradient) if adapted else 1.0) * gradient
            momentum = self.momentum * momentum + step
            update = self.momentum * momentum + step if self.nesterov else momentum
        else:
            momentum = self.momentum * momentum + gradient
            update = self.momentum * momentum + gradient if self.nesterov else momentum
            update *= rate * (self._trust_ratio(weight, update) if adapted else 1.0)
        slot.assign(tf.cast(momentum, slot.dtype))
        variable.assign(tf.cast(weight - update, variable.dtype))

    def get_config(self) -> KerasConfig:
        """Returns the arguments of `__init__`; exclusions as positions, once built."""
        not_decayed, not_adapted = self._positions_not_decayed, self._positions_not_adapted
        for key, position in self._positions().items():
            not_decayed |= {position} if key in self._not_decayed else frozenset()
            not_adapted |= {position} if key in self._not_adapted else frozenset()
        config = super().get_config()
        if not compat.KERAS_3:
            config["learning_rate"] = self._serialize_hyperparameter(self._learning_rate)
        return {
            **config,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "eeta": self.eeta,
            "nesterov": self.nesterov,
            "classic_momentum": self.classic_momentum,
            "exclude_from_weight_decay": sorted(not_decayed),
            "exclude_from_layer_adaptation": sorted(not_adapted),
        }

    def _apply_weight_decay(self, variables: Variables) -> None:
        """Does nothing: the base class would decay a second time, decoupled from the gradient."""

    def _trust_ratio(self, weight: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        weight_norm, step_norm = tf.norm(weight), tf.norm(step)
        both = tf.logical_and(weight_norm > 0, step_norm > 0)
        return tf.where(both, self.eeta * weight_norm / step_norm, 1.0)

    def _positions(self) -> dict[Key, int]:
        """Returns variable key -> position; empty before `build`.

        The base class keeps it for optimizers to find their slots, under another name in Keras 3.
        """
        name = "_trainable_variables_indices" if compat.KERAS_3 else "_index_dict"
        return getattr(self, name, {})

    def _resolve_positions(self) -> None:
        keys = {position: key for key, position in self._positions().items()}
        unknown = (self._positions_not_decayed | self._positions_not_adapted) - set(keys)
        if unknown:
            raise UserError(
                f"Expected positions below {len(keys)}, the number of variables; received: "
                f"{sorted(unknown)}. Build the optimizer for the model that it was saved with."
            )
        self._not_decayed |= {keys[p] for p in self._positions_not_decayed}
        self._not_adapted |= {keys[p] for p in self._positions_not_adapted}
        self._positions_not_decayed = self._positions_not_adapted = frozenset()


def excluded_variables(
    model: keras.Model, supervised_head: keras.layers.Layer | None = None
) -> list[tf.Variable]:
    """Returns the variables that LARS neither decays nor adapts.

    They are every bias, the scale and offset of every normalisation layer, and all of the
    supervised head (whose own decay is part of the loss). Found by walking the layers, by
    identity: names differ between Keras 2 and 3, and in encoders that users bring.

    Args:
        model: a built model or layer.
        supervised_head: the layer of the linear head; default `model.supervised_head` if any.

    Returns:
        Variables, each once, in the order of the layers.

    Raises:
        UserError: if the model is not built yet.

    Source: SimCLR section 2.2 and appendix B; the same variables as the release picks by name.

    Example:
        >>> lars.exclude(excluded_variables(model))
    """
    if not model.built:
        raise UserError(
            "Expected a built model; received: one without variables. Call it on a batch, or "
            "model.build(input_shape), first."
        )
    found: dict[int, tf.Variable] = {}
    for layer in compat.all_layers(model):
        candidates = [getattr(layer, "bias", None)]
        if isinstance(layer, _normalization_layers()):
            candidates += [getattr(layer, "gamma", None), getattr(layer, "beta", None)]
        # `bias` may also be a flag, an initialiser or a sub-layer: take only the layer's weights.
        weights = {id(v) for v in layer.weights}
        found.update((id(v), v) for v in candidates if v is not None and id(v) in weights)
    head = getattr(model, "supervised_head", None) if supervised_head is None else supervised_head
    if head is not None:
        found.update((id(v), v) for v in head.trainable_weights)
    return list(found.values())


def _normalization_layers() -> tuple[type, ...]:
    layers = keras.layers
    found = [layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization]
    if not compat.KERAS_3:  # a class of its own in Keras 2, an argument in Keras 3
        found.append(layers.experimental.SyncBatchNormalization)
    return tuple(found)
