"""Calls of a Keras model's `fit`, `evaluate` and `predict`, with their data checked first."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import forget_validation_data, is_compiled
from simclr_tf.errors import UserError
from simclr_tf.images.batch_errors import in_one_line
from simclr_tf.training import padding
from simclr_tf.training.fit_batch import empty, prepare_arrays
from simclr_tf.training.fit_data import prepare, prepare_validation

if TYPE_CHECKING:
    from simclr_tf.training.step_model import StepModel

Result = TypeVar("Result")
_STEPS = ("steps_per_epoch", "validation_steps", "steps")


def run(
    model: StepModel,
    name: str,
    method: Callable[..., Result],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> Result:
    """Calls a method of `keras.Model` with its data checked; errors come in one line.

    Args:
        model: The model; its `rules` say what it takes.
        name: 'fit', 'evaluate', 'predict', or one of the three `..._on_batch`.
        method: Keras's own, bound.
        args: The user's positional arguments.
        kwargs: The user's keyword arguments.

    Returns:
        What the method returns.

    Raises:
        UserError: See `prepare`; weights, no steps, no `compile`, nothing to train.
    """
    arguments = named_arguments(getattr(keras.Model, name), args, kwargs)
    on_batch = name.endswith("_on_batch")
    call = {"train_on_batch": "fit", "test_on_batch": "evaluate", "predict_on_batch": "predict"}
    rules = model.rules(call.get(name, name))
    refuse_weights(arguments)
    refuse_no_steps(arguments)
    if not name.startswith("predict") and not is_compiled(model):
        raise UserError(
            f"Expected a compiled model to {name}; received one that is not. Call "
            "model.compile(optimizer=...) first."
        )
    if call.get(name, name) == "fit" and not model.trainable_variables:
        raise UserError(
            f"Expected a model with weights to train in {name}; received one that is frozen whole. "
            "Set trainable = True of its encoder or a head."
        )
    x, y = arguments.pop("x"), arguments.pop("y", None)
    with in_one_line():
        x, y = prepare_arrays(x, y, rules) if on_batch else prepare(x, y, rules)
        data = {"x": x} if y is None else {"x": x, "y": y}
        if arguments.get("validation_data") is not None:
            arguments["validation_data"] = prepare_validation(
                arguments["validation_data"], model.rules("evaluate")
            )
        if on_batch:
            return method(**data, **arguments)
        if name == "fit":
            forget_validation_data(model)
            if isinstance(x, tf.data.Dataset):
                # Else Keras 3 warns that it won't shuffle it, though nobody asked it to.
                arguments.setdefault("shuffle", False)
        else:
            x, y, size = padding.for_replicas(
                x, y, arguments.get("batch_size"), model.distribute_strategy
            )
            data = {"x": x} if y is None else {"x": x, "y": y}
            arguments["batch_size"] = size
        return _run_counted(name, method, {**data, **arguments})


def _run_counted(name: str, method: Callable[..., Result], arguments: dict[str, Any]) -> Result:
    """Runs a method; raises a UserError where its data had no batch."""
    count = BatchCount()
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(count)
    else:
        given = callbacks or []
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        arguments["callbacks"] = [*given, count]
    try:
        with warnings.catch_warnings():
            if all(arguments.get(steps) is None for steps in _STEPS):
                # All of the data was asked for: their end, of which Keras 3 warns, is no fault.
                warnings.filterwarnings("ignore", message=r"\s*Your input ran out of data")
            return method(**arguments)
    except UserError:
        raise
    except ValueError as error:
        # Without any batch Keras 2 raises an error of its own, about `compile`.
        kind = {"fit": "train", "evaluate": "test"}.get(name, name)
        if count.seen[kind] or "Unexpected result of" not in str(error):
            raise
        raise empty("data that gave none") from error


def named_arguments(
    method: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, Any]:
    """Returns the arguments of a call of a method of `keras.Model` by name."""
    bound = inspect.signature(method).bind(None, *args, **kwargs)
    arguments = dict(bound.arguments)
    arguments.pop(next(iter(bound.signature.parameters)))  # self
    return {**arguments, **arguments.pop("kwargs", {})}


def refuse_weights(arguments: Mapping[str, object]) -> None:
    """Refuses `class_weight` and `sample_weight`.

    Raises:
        UserError: One of them is given.
    """
    for name in ("class_weight", "sample_weight"):
        if arguments.get(name) is not None:
            raise UserError(
                f"Expected no {name}; received one. Weights are not supported: give the images of "
                "a rare class more often (tf.data.Dataset.sample_from_datasets), or leave others "
                "out."
            )


def refuse_no_steps(arguments: Mapping[str, Any]) -> None:
    """Refuses a number of steps below 1.

    Raises:
        UserError: `steps_per_epoch`, `validation_steps` or `steps` below 1.
    """
    for name in _STEPS:
        steps = arguments.get(name)
        if steps is not None and steps < 1:
            raise UserError(
                f"Expected {name} of at least 1, or None for all batches; received: {steps}."
            )


class BatchCount(keras.callbacks.Callback):
    """Raises an error at the end of a pass without a batch, which Keras 3 accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = {"train": 0, "test": 0, "predict": 0}

    def refuse_nothing(self, kind: str) -> None:
        """Raises a UserError where no batch of that kind came."""
        if not self.seen[kind]:
            raise empty("data that gave none")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.seen["train"] += 1

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.seen["test"] += 1

    def on_predict_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.seen["predict"] += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.refuse_nothing("train")

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        self.refuse_nothing("test")

    def on_predict_end(self, logs: dict[str, float] | None = None) -> None:
        self.refuse_nothing("predict")
