"""The base of all models here: calls, checks, metrics, and what their steps share."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import (
    KERAS_3,
    build_optimizer,
    deserialize,
    raw_variable,
    serialize,
    takes_summed_gradients,
)
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.models.processor_batch_norm import runs_here
from simclr_tf.training import fit_call, padding, structures
from simclr_tf.training.decay import decay_loss, set_up_decay
from simclr_tf.training.fit_batch import Rules, unpack
from simclr_tf.training.gradients import Step, counter
from simclr_tf.training.labels import LabelRule
from simclr_tf.training.pruning import Pruner, PruningSchedule
from simclr_tf.training.step_metrics import evaluation_metrics, mean_metric, with_loss
from simclr_tf.training.view_maker import ViewMaker
from simclr_tf.typing import KerasConfig, Logs

_PARTS = (
    "encoder", "projection_head", "second_encoder", "second_projection_head", "augment", "loss",
)  # fmt: skip


class StepModel(keras.Model):
    """A Keras model with its own steps, fully built in `__init__`.

    Subclasses set `supervised_head`, then call `_finish(...)` as the last line of `__init__`.
    """

    lowest_label = 0  # that `fit` takes
    encoder: keras.Model
    supervised_head: Any  # a `LinearHead`; None in a `SimCLR` without classes
    input_kind: str
    value_range: pixel_values.Range | None
    augment: Callable[..., tf.Tensor] | None
    weight_decay: float
    weight_penalty: str
    clip_norm: float | None
    skip_non_finite: bool
    skipped_steps: tf.Variable | None  # so many since `compile`, or in all of a run
    pruner: Pruner | None

    def _finish(
        self,
        augment: Callable[..., tf.Tensor] | None,
        metric_names: Sequence[str],
        evaluates: bool,
        value_range: Sequence[float] | None = pixel_values.UNIT_RANGE,
        input_kind: str = "images",
    ) -> None:
        """Keeps augmentation and metrics untracked: they are not weights of the model."""
        checked_range = pixel_values.check_value_range(value_range)
        if input_kind != "images":
            _refuse_what_images_have(checked_range, augment)
            checked_range = None
        elif getattr(augment, "takes_source_images", False):
            _check_range_of_ours(checked_range)
        self._set_untracked("input_kind", input_kind)
        self._set_untracked("value_range", checked_range)
        self._set_untracked("augment", augment)
        # What the encoder takes; None for images.
        structure = None if input_kind == "images" else structures.structure_of(self.encoder)
        self._set_untracked("_structure", structure)
        view_maker = ViewMaker(augment, structure) if augment is not None else None
        self._set_untracked("_make_views", view_maker)
        self._set_untracked("_decayed", [])
        means = {name: mean_metric(name) for name in metric_names}
        self._set_untracked("_train_metrics", means)
        self._set_untracked("_eval_metrics", evaluation_metrics() if evaluates else {})
        # Within an object that Keras 2 does not look into when it saves or loads.
        self._set_untracked("_norm", types.SimpleNamespace(mean=mean_metric("gradient_norm")))
        self._set_untracked("skipped_steps", None)
        self._set_untracked("clip_norm", None)
        self._set_untracked("skip_non_finite", False)
        self._set_untracked("pruner", None)
        # Every part is built: Keras needs no call with images for that.
        self.built = True

    def _as_taken(self, inputs: Any) -> Any:
        """Returns what the encoder gets of a batch; see `structures.as_taken`."""
        return structures.as_taken(inputs, self.input_kind)

    def _set_untracked(self, name: str, value: object) -> None:
        # Keras neither wraps it, nor counts it among the weights, nor saves it.
        object.__setattr__(self, name, value)

    def unread_layers(self) -> list[keras.layers.Layer]:
        """Returns the layers that the model holds and that its loss does not depend on."""
        return []

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras 2 keeps these in `.keras` files, by their number: those of before have no more.
        return [*self._train_metrics.values(), *self._eval_metrics.values()]

    def running_means(self) -> list[keras.metrics.Metric]:
        """All that is averaged over steps, until `reset_metrics`."""
        return [*self.metrics, self._norm.mean]

    def reset_metrics(self) -> None:
        """Begins all running means anew."""
        for metric in self.running_means():
            metric.reset_state()

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "rmsprop",
        jit_compile: bool = False,
        clip_norm: float | None = None,
        skip_non_finite: bool = False,
        pruning: PruningSchedule | None = None,
        **kwargs: object,
    ) -> None:
        """Sets the optimizer, and what weight decay covers; see `keras.Model.compile`.

        Args:
            optimizer: A Keras optimizer or its name.
            jit_compile: Whether the whole step, augmentation included, is compiled by XLA; for one
                replica.
            clip_norm: Largest norm of the gradient over all variables and replicas; a larger
                gradient is scaled down to it. None: any. The optimizer's own clipping would see
                each replica's part under Keras 3.
            skip_non_finite: Whether a step whose loss or gradient is NaN or infinite changes no
                weight, no state and no mean; `skipped_steps` counts such steps. Views and learning
                rate go on. It keeps a copy of the moving statistics during each step.
            pruning: When and how many weights of each layer become zero, and stay so; see
                `training/pruning.py`. Steps are those of the optimizer. None: no pruning.
            **kwargs: As for `keras.Model.compile`; the loss is the model's own.

        Raises:
            UserError: `clip_norm` is not above 0, nothing can be pruned, or the model and a part of
                it were made under different strategies.
        """
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"Expected clip_norm above 0, or None; received: {clip_norm}.")
        _check_one_strategy(self)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self._set_untracked("clip_norm", clip_norm)
        self._set_untracked("skip_non_finite", skip_non_finite)
        self._set_untracked("skipped_steps", counter() if skip_non_finite else None)
        takes_summed_gradients(self.optimizer)
        # Keras 2 adds up logs over replicas; ours are means already, or the learning rate.
        self.distribute_reduction_method = "first"
        decayed = set_up_decay(
            self.optimizer, self, self.supervised_head, self.weight_penalty, self.weight_decay
        )
        self._set_untracked("_decayed", decayed)
        self._set_untracked("pruner", None if pruning is None else Pruner(pruning, self))

    def _penalty(self) -> tf.Tensor:
        """Returns the term of the loss that keeps weights small, a float32 scalar."""
        return decay_loss(self._decayed, self.weight_decay, self.weight_penalty)

    def get_compile_config(self) -> KerasConfig | None:
        """Returns what `compile_from_config` takes; None of a model that was not compiled."""
        given = super().get_compile_config()
        ours = {"clip_norm": self.clip_norm, "skip_non_finite": self.skip_non_finite}
        if self.pruner is not None:
            ours["pruning"] = serialize(self.pruner.schedule)
        return None if given is None else {**given, **ours}

    def compile_from_config(self, config: KerasConfig) -> None:
        """Compiles a loaded model (Keras does not where `compile` is overridden)."""
        self.compile(**deserialize(config))
        build_optimizer(self.optimizer, self.trainable_variables)

    def fit(
        self, x: object = None, y: object = None, *args: object, **kwargs: object
    ) -> keras.callbacks.History:
        """Trains; see `keras.Model.fit`. Data that the model can't use are refused at once.

        Args:
            x: Batches of images or (images, labels): a `tf.data.Dataset`, arrays, a generator, or
                a `keras.utils.Sequence`.
            y: Labels, where x is an array.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`, without class or sample weights.

        Raises:
            UserError: No labels for the linear head, no views without an augmentation, labels
                outside the classes, images of a wrong type or out of `value_range`, no batch,
                weights, or no `compile`. For a later batch of a data set it is a `BatchError`,
                which is an InvalidArgumentError too.
        """
        return fit_call.run(self, "fit", super().fit, (x, y, *args), kwargs)

    def evaluate(self, x: object = None, y: object = None, *args: object, **kwargs: Any) -> Any:
        """Evaluates; see `keras.Model.evaluate`. Data are taken and checked as in `fit`.

        Each image counts once, however many replicas share the batches and whatever their sizes.
        """
        if kwargs.get("_use_cached_eval_dataset"):  # within `fit`, which has checked the data
            size = kwargs.get("batch_size")
            x_padded, y, size = padding.for_replicas(x, y, size, self.distribute_strategy)
            if x_padded is not x:  # `fit` caches the data set without padding
                kwargs.update(batch_size=size, _use_cached_eval_dataset=False)
            return super().evaluate(x_padded, y, *args, **kwargs)
        return fit_call.run(self, "evaluate", super().evaluate, (x, y, *args), kwargs)

    def make_train_function(self, force: bool = False) -> Callable[..., Logs]:
        """Returns the function that `fit` calls; see `keras.Model.make_train_function`."""
        # Keras 2 would create the optimizer's variables in the step, and TensorFlow traces a
        # function that creates variables twice.
        if not KERAS_3 and self.optimizer is not None:
            with self.distribute_strategy.scope():
                build_optimizer(self.optimizer, self.trainable_variables)
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, iterator: object = None, data_batch: object = None) -> None:
        # To find the shapes, Keras 3 adds up the batches of all replicas, which fails where their
        # numbers of images differ. Everything is built but the optimizer.
        if self.optimizer is not None and not getattr(self.optimizer, "built", True):
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def predict(self, x: object, *args: object, **kwargs: object) -> np.ndarray:
        """Predicts; see `keras.Model.predict`. Data are taken as in `fit`, labels ignored."""
        return fit_call.run(self, "predict", super().predict, (x, *args), kwargs)

    def train_on_batch(self, x: object, y: object = None, *args: object, **kwargs: object) -> Any:
        """Takes one step on arrays; see `keras.Model.train_on_batch`. Checked as in `fit`."""
        return fit_call.run(self, "train_on_batch", super().train_on_batch, (x, y, *args), kwargs)

    def test_on_batch(self, x: object, y: object = None, *args: object, **kwargs: object) -> Any:
        """Evaluates arrays; see `keras.Model.test_on_batch`. Checked as in `fit`."""
        return fit_call.run(self, "test_on_batch", super().test_on_batch, (x, y, *args), kwargs)

    def predict_on_batch(self, x: object) -> np.ndarray:
        """Predicts for arrays; see `keras.Model.predict_on_batch`. Checked as in `fit`."""
        return fit_call.run(self, "predict_on_batch", super().predict_on_batch, (x,), {})

    def __call__(self, inputs: Any, *args: object, **kwargs: object) -> Any:
        """Calls the model; images of a wrong type, and eager ones out of range, are refused."""
        if self._structure is not None:
            structures.check_fits(inputs, self._structure)
            return super().__call__(inputs, *args, **kwargs)
        # In training the inputs are views, whose values are up to the augmentation.
        values = not (kwargs.get("training") or (args and args[0]))
        pixel_values.check_call(inputs, self.value_range if values else None, values)
        return super().__call__(inputs, *args, **kwargs)

    def rules(self, call: str) -> Rules:
        """Returns which data a call takes.

        Args:
            call: 'fit', 'evaluate' or 'predict'.
        """
        head, rule = self.supervised_head, None
        if head is not None and call != "predict":
            lowest = self.lowest_label if call == "fit" else 0
            rule = LabelRule(int(head.units), lowest)
        return Rules(
            check=lambda form, labelled: self._check_call(call, form, labelled),
            labels=rule,
            value_range=self.value_range,
            rank=0 if self._structure is not None else len(tuple(self.encoder.input_shape)),
            structure=self._structure,
        )

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        """Raises a UserError where the model can't use such data in a call.

        Args:
            call: 'fit', 'evaluate' or 'predict'.
            form: 'images', 'views', 'canvas' or 'inputs'; see `fit_batch.Rules`.
            labelled: Whether labels come with them.
        """
        if call == "fit" and self.supervised_head is not None and not labelled:
            raise UserError(
                f"Expected (images, labels), for a linear head of {self.supervised_head.units} "
                "classes; received: images alone. Pass labels, or num_classes=None."
            )

    def predict_step(self, data: Any) -> tf.Tensor:
        """Returns outputs for the images, with or without labels beside them."""
        element, mask = padding.split(data)
        with runs_here():
            outputs = self(unpack(element)[0], training=False)
        return padding.only_real(outputs, mask)

    def _update(self, results: Logs, count: replicas.ImageCount, step: Step | None = None) -> Logs:
        """Adds this replica's shares of a batch's results to the running means; returns the means.

        Every replica adds the results of all replicas, so that the means are the same on each. A
        step that was skipped adds nothing but itself.
        """
        taken = None if step is None else step.taken
        for name, value in replicas.mean_of_shares(results).items():
            self._add(name, value, count, taken)
        if step is not None:
            # Where a loss scale overflows, the norm is infinite and the step no failure.
            results = {**results, "gradient_norm": step.norm}
            self._add("gradient_norm", step.norm, count, tf.math.is_finite(step.norm))
        logs = with_loss({name: self._mean(name).result() for name in results})
        if taken is not None:
            logs["skipped_steps"] = tf.cast(self.skipped_steps, tf.float32)
        if step is not None and step.sparsity is not None:
            logs["sparsity"] = step.sparsity
        return logs

    def _add(
        self, name: str, value: tf.Tensor, count: replicas.ImageCount, counts: tf.Tensor | None
    ) -> None:
        weight = count.total
        if counts is not None:
            value, weight = tf.where(counts, value, 0.0), tf.where(counts, weight, 0.0)
        self._mean(name).update_state(value, sample_weight=weight)

    def _mean(self, name: str) -> keras.metrics.Mean:
        return self._norm.mean if name == "gradient_norm" else self._train_metrics[name]

    @classmethod
    def from_config(
        cls, config: KerasConfig, custom_objects: Mapping[str, object] | None = None
    ) -> StepModel:
        return cls(**deserialize_parts(config, custom_objects))


def _check_one_strategy(model: keras.Model) -> None:
    """Refuses parts that another strategy made, on which the optimizer would fail."""
    ours = model.distribute_strategy
    for variable in map(raw_variable, model.variables):
        theirs = getattr(variable, "distribute_strategy", None)
        replicas_of_it = theirs.num_replicas_in_sync if theirs is not None else 1
        if theirs is not ours and max(replicas_of_it, ours.num_replicas_in_sync) > 1:
            raise UserError(
                "Expected a model and its parts to be made under one strategy; received: weights "
                f"for {replicas_of_it} replicas in a model for {ours.num_replicas_in_sync}. Make "
                "all of them within strategy.scope()."
            )


def _refuse_what_images_have(
    value_range: pixel_values.Range | None, augment: Callable[..., tf.Tensor] | None
) -> None:
    """Refuses what belongs to images alone, for inputs of any kind."""
    if getattr(augment, "takes_source_images", False):
        raise UserError(
            'Expected an augmentation of your own with input_kind="any"; received: '
            f"{type(augment).__name__}, which takes images. Pass another, or input_kind='images'."
        )
    if value_range not in (None, pixel_values.UNIT_RANGE):
        raise UserError(
            'Expected no value_range with input_kind="any", whose inputs are passed as they are; '
            f"received: {value_range}. Leave it away."
        )


def _check_range_of_ours(value_range: pixel_values.Range | None) -> None:
    if value_range is None or value_range[0] < 0 or value_range[1] > 1:
        raise UserError(
            f"Expected value_range within (0.0, 1.0), to which SimCLRAugment clips its views; "
            f"received: {value_range}. Pass an augmentation of your own for images of other values."
        )


def count_rows(images: Any, mask: tf.Tensor | None = None) -> replicas.ImageCount:
    """Counts the images of a step over all replicas; `images` may be any structure."""
    return replicas.count_images(tf.shape(tf.nest.flatten(images)[0])[0], mask)


def deserialize_parts(
    config: KerasConfig, custom_objects: Mapping[str, object] | None = None
) -> KerasConfig:
    """Returns a model's config with encoders, heads, augmentation and loss as objects."""
    config = dict(config)
    for part in _PARTS:
        if config.get(part) is not None:
            config[part] = deserialize(config[part], custom_objects=custom_objects)
    if config.get("loss", "") is None:  # it could not be saved, as a warning said
        del config["loss"]
    return config
