"""The base of all models here: calls, checks, metrics, and what their steps share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import KERAS_3, build_optimizer, deserialize
from simclr_tf.devices import replicas
from simclr_tf.errors import UserError
from simclr_tf.images import pixel_values
from simclr_tf.training import fit_call, padding
from simclr_tf.training.decay import set_up_decay
from simclr_tf.training.fit_batch import Rules, unpack
from simclr_tf.training.labels import LabelRule
from simclr_tf.training.step_metrics import evaluation_metrics, mean_metric, with_loss
from simclr_tf.training.view_maker import ViewMaker
from simclr_tf.typing import Batch, Images, KerasConfig, Logs


class StepModel(keras.Model):
    """A Keras model with its own steps, fully built in `__init__`.

    Subclasses set `supervised_head`, then call `_finish(...)` as the last line of `__init__`.
    """

    lowest_label = 0  # that `fit` takes
    encoder: keras.Model
    supervised_head: Any  # a `LinearHead`; None in a `SimCLR` without classes
    value_range: pixel_values.Range | None
    augment: Callable[..., tf.Tensor] | None

    def _finish(
        self,
        augment: Callable[..., tf.Tensor] | None,
        metric_names: Sequence[str],
        evaluates: bool,
        value_range: Sequence[float] | None = pixel_values.UNIT_RANGE,
    ) -> None:
        """Keeps augmentation and metrics untracked: they are not weights of the model."""
        checked_range = pixel_values.check_value_range(value_range)
        if getattr(augment, "takes_source_images", False):
            _check_range_of_ours(checked_range)
        self._set_untracked("value_range", checked_range)
        self._set_untracked("augment", augment)
        view_maker = ViewMaker(augment) if augment is not None else None
        self._set_untracked("_make_views", view_maker)
        self._set_untracked("_decayed", [])
        means = {name: mean_metric(name) for name in metric_names}
        self._set_untracked("_train_metrics", means)
        self._set_untracked("_eval_metrics", evaluation_metrics() if evaluates else {})
        # Every part is built: Keras needs no call with images for that.
        self.built = True

    def _set_untracked(self, name: str, value: object) -> None:
        # Keras neither wraps it, nor counts it among the weights, nor saves it.
        object.__setattr__(self, name, value)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*self._train_metrics.values(), *self._eval_metrics.values()]

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "rmsprop",
        jit_compile: bool = False,
        **kwargs: object,
    ) -> None:
        """Sets the optimizer, and what weight decay covers; see `keras.Model.compile`.

        Args:
            optimizer: A Keras optimizer or its name.
            jit_compile: Whether the whole step, augmentation included, is compiled by XLA; for one
                replica.
            **kwargs: As for `keras.Model.compile`; the loss is the model's own.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        # Keras 2 adds up logs over replicas; ours are means already, or the learning rate.
        self.distribute_reduction_method = "first"
        decayed = set_up_decay(self.optimizer, self, self.supervised_head)
        self._set_untracked("_decayed", decayed)

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

    def __call__(self, inputs: Images, *args: object, **kwargs: object) -> tf.Tensor:
        """Calls the model; images of a wrong type, and eager ones out of range, are refused."""
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
            rank=len(tuple(self.encoder.input_shape)),
        )

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        """Raises a UserError where the model can't use such data in a call.

        Args:
            call: 'fit', 'evaluate' or 'predict'.
            form: 'images', 'views' or 'canvas'; see `fit_batch.Rules`.
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
        outputs = self(unpack(element)[0], training=False)
        return padding.only_real(outputs, mask)

    def _update(self, results: Logs, count: replicas.ImageCount) -> Logs:
        """Adds this replica's shares of a batch's results to the running means; returns the means.

        Every replica adds the results of all replicas, so that the means are the same on each.
        """
        for name, value in replicas.mean_of_shares(results).items():
            self._train_metrics[name].update_state(value, sample_weight=count.total)
        return with_loss({name: self._train_metrics[name].result() for name in results})

    @classmethod
    def from_config(
        cls, config: KerasConfig, custom_objects: Mapping[str, object] | None = None
    ) -> StepModel:
        return cls(**deserialize_parts(config, custom_objects))


def _check_range_of_ours(value_range: pixel_values.Range | None) -> None:
    if value_range is None or value_range[0] < 0 or value_range[1] > 1:
        raise UserError(
            f"Expected value_range within (0.0, 1.0), to which SimCLRAugment clips its views; "
            f"received: {value_range}. Pass an augmentation of your own for images of other values."
        )


def count_rows(
    images: Batch | tuple[tf.Tensor, tf.Tensor], mask: tf.Tensor | None = None
) -> replicas.ImageCount:
    """Counts the images of a step over all replicas."""
    return replicas.count_images(tf.shape(tf.nest.flatten(images)[0])[0], mask)


def deserialize_parts(
    config: KerasConfig, custom_objects: Mapping[str, object] | None = None
) -> KerasConfig:
    """Returns a model's config with encoder, projection head and augmentation as objects."""
    config = dict(config)
    for part in ("encoder", "projection_head", "augment"):
        if config.get(part) is not None:
            config[part] = deserialize(config[part], custom_objects=custom_objects)
    return config
