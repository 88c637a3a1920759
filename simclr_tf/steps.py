"""What the training steps of pretraining and of fine-tuning share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow import keras

from simclr_tf import draws, fit_call, fit_data, image_values, padding, replicas
from simclr_tf.compat import (
    KERAS_3,
    apply_gradients,
    batches_taken,
    build_optimizer,
    converted,
    deserialize,
    num_replicas,
    scaled_loss,
    serialize,
    unscaled_gradients,
)
from simclr_tf.errors import UserError
from simclr_tf.image_values import to_float as as_float
from simclr_tf.labels import LabelRule, class_ids
from simclr_tf.losses import supervised_loss
from simclr_tf.optimizers import LARS, excluded_variables

Images = Any  # a tensor, or {'image': ..., 'size': ...} from `simclr_tf.data`


def step_seed(seed: int, step: Any) -> tf.Tensor:
    """Returns the int32 seed of shape (2,) that belongs to one step and one replica.

    The same on every kind of device, in a plain graph and under XLA.
    """
    # cast: Keras 3 counts steps in int32, Keras 2 in int64
    pair = tf.stack([tf.constant(seed, tf.int32), tf.cast(tf.convert_to_tensor(step), tf.int32)])
    context = tf.distribute.get_replica_context()
    replica = 0 if context is None else context.replica_id_in_sync_group
    return draws.fold_in(pair, replica)


class ViewMaker:
    """Calls any augmentation, passing `seed` and `training` where its signature takes them.

    Args:
        augment: A callable or Keras layer from a batch of images to a batch of as many views.
    """

    def __init__(self, augment: Callable[..., tf.Tensor]) -> None:
        target = augment.call if isinstance(augment, keras.layers.Layer) else augment
        try:
            parameters = set(inspect.signature(target).parameters)
        except (TypeError, ValueError):  # some built-in callables do not tell
            parameters = set()
        self.augment = augment
        self.takes_seed = "seed" in parameters
        self.takes_training = "training" in parameters

    def __call__(self, images: Images, seed: tf.Tensor, copies: int) -> tf.Tensor:
        """Returns `copies` views of every image: (copies * N, h, w, channels), copy after copy."""
        if not getattr(self.augment, "takes_source_images", False):
            # Only ours knows canvases and raw bytes; others get float images in [0, 1].
            images = as_float(images["image"] if isinstance(images, dict) else images)
        if copies > 1:
            images = tf.nest.map_structure(lambda x: tf.concat([x] * copies, 0), images)
        arguments: dict[str, Any] = {"seed": seed} if self.takes_seed else {}
        if self.takes_training:
            arguments["training"] = True
        return converted(self.augment)(images, **arguments)


class StepModel(keras.Model):
    """A Keras model with its own steps, built whole in `__init__`: what both models share.

    Subclasses set `supervised_head`, then call `_finish(...)` as the last line of `__init__`.
    """

    lowest_label = 0  # that `fit` takes
    encoder: Any
    supervised_head: Any
    value_range: image_values.Range | None
    augment: Callable[..., tf.Tensor] | None

    def _finish(
        self,
        augment: Callable[..., tf.Tensor] | None,
        metric_names: Sequence[str],
        evaluates: bool,
        value_range: Sequence[float] | None = image_values.UNIT_RANGE,
    ) -> None:
        """Keeps augmentation and metrics, untracked: they are no weights of the model."""
        checked_range = image_values.check_value_range(value_range)
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
        # Every part is built: a call would add nothing, and would ask for images.
        self.built = True

    def _set_untracked(self, name: str, value: Any) -> None:
        # Keras neither wraps it, nor counts it among the weights, nor saves it.
        object.__setattr__(self, name, value)

    @property
    def metrics(self) -> list[Any]:
        return [*self._train_metrics.values(), *self._eval_metrics.values()]

    def compile(self, optimizer: Any = "rmsprop", jit_compile: bool = False, **kwargs: Any) -> None:
        """Sets the optimizer, and what weight decay covers; see `keras.Model.compile`.

        Args:
            optimizer: A Keras optimizer or its name.
            jit_compile: Whether the whole step, augmentation included, is compiled by XLA; for one
                replica.
            **kwargs: As for `keras.Model.compile`; the loss is the model's own.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        # Keras 2 adds up logs over replicas; ours are means already, the learning rate is one.
        self.distribute_reduction_method = "first"
        decayed = set_up_decay(self.optimizer, self, self.supervised_head)
        self._set_untracked("_decayed", decayed)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model (Keras leaves it out where `compile` is overridden)."""
        self.compile(**deserialize(config))
        build_optimizer(self.optimizer, self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; see `keras.Model.fit`. Data that do not fit the model are refused at once.

        Args:
            x: Batches of images or (images, labels): a `tf.data.Dataset`, arrays, a generator, or
                a `keras.utils.Sequence`.
            y: Labels, where x are arrays.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`; no weights.

        Raises:
            UserError: No labels for the linear head, no views without an augmentation, labels
                outside the classes, images of another type or out of `value_range`, no batch,
                weights, or no `compile`. What only a later batch of a data set shows is a
                `BatchError`, which is an InvalidArgumentError too.
        """
        return fit_call.run(self, "fit", super().fit, (x, y, *args), kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates; see `keras.Model.evaluate`. Data are taken and checked as in `fit`.

        Each image counts once, however many replicas share the batches and whatever their sizes.
        """
        if kwargs.get("_use_cached_eval_dataset"):  # within `fit`, which has checked them
            size = kwargs.get("batch_size")
            x_padded, y, size = padding.for_replicas(x, y, size, self.distribute_strategy)
            if x_padded is not x:  # what `fit` keeps is not filled up
                kwargs.update(batch_size=size, _use_cached_eval_dataset=False)
            return super().evaluate(x_padded, y, *args, **kwargs)
        return fit_call.run(self, "evaluate", super().evaluate, (x, y, *args), kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Returns what `fit` calls; see `keras.Model.make_train_function`."""
        # Keras 2 would make the optimizer's variables in the step, and TensorFlow traces a function
        # that makes variables twice.
        if not KERAS_3 and self.optimizer is not None:
            with self.distribute_strategy.scope():
                build_optimizer(self.optimizer, self.trainable_variables)
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras 3 adds up what replicas are given, to learn its shape: that fails where they have
        # different numbers of images. Everything is built but the optimizer.
        if self.optimizer is not None and not getattr(self.optimizer, "built", True):
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts; see `keras.Model.predict`. Data are taken as in `fit`, labels left aside."""
        return fit_call.run(self, "predict", super().predict, (x, *args), kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Takes one step on arrays; see `keras.Model.train_on_batch`. Checked as in `fit`."""
        return fit_call.run(self, "train_on_batch", super().train_on_batch, (x, y, *args), kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates arrays; see `keras.Model.test_on_batch`. Checked as in `fit`."""
        return fit_call.run(self, "test_on_batch", super().test_on_batch, (x, y, *args), kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predicts for arrays; see `keras.Model.predict_on_batch`. Checked as in `fit`."""
        return fit_call.run(self, "predict_on_batch", super().predict_on_batch, (x,), {})

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the model; images of a wrong type, and eager ones out of range, are refused."""
        # Views in training are the augmentation's affair.
        values = not (kwargs.get("training") or (args and args[0]))
        image_values.check_call(inputs, self.value_range if values else None, values)
        return super().__call__(inputs, *args, **kwargs)

    def rules(self, call: str) -> fit_data.Rules:
        """Returns what a call takes.

        Args:
            call: 'fit', 'evaluate' or 'predict'.
        """
        head, rule = self.supervised_head, None
        if head is not None and call != "predict":
            lowest = self.lowest_label if call == "fit" else 0
            rule = LabelRule(int(head.units), lowest)
        return fit_data.Rules(
            check=lambda form, labelled: self._check_call(call, form, labelled),
            labels=rule,
            value_range=self.value_range,
            rank=len(tuple(self.encoder.input_shape)),
        )

    def _check_call(self, call: str, form: str, labelled: bool) -> None:
        """Raises a UserError where the model can't do a call with such data.

        Args:
            call: 'fit', 'evaluate' or 'predict'.
            form: 'images', 'views' or 'canvas'; see `fit_data.Rules`.
            labelled: Whether labels come with them.
        """
        if call == "fit" and self.supervised_head is not None and not labelled:
            raise UserError(
                f"Expected (images, labels), for a linear head of {self.supervised_head.units} "
                "classes; received: images alone. Pass labels, or num_classes=None."
            )

    def predict_step(self, data: Any) -> tf.Tensor:
        """Outputs for the images, whether or not labels come with them."""
        element, mask = padding.split(data)
        outputs = self(fit_data.unpack(element)[0], training=False)
        return padding.only_real(outputs, mask)

    def _update(
        self, results: dict[str, tf.Tensor], count: replicas.ImageCount
    ) -> dict[str, tf.Tensor]:
        """Adds a batch's results, this replica's shares, to the running means; returns the means.

        Every replica adds what all of them found: the means are the same on each.
        """
        for name, value in replicas.mean_of_shares(results).items():
            self._train_metrics[name].update_state(value, sample_weight=count.total)
        return with_loss({name: self._train_metrics[name].result() for name in results})

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> StepModel:
        return cls(**deserialize_parts(config, custom_objects))


def _check_range_of_ours(value_range: image_values.Range | None) -> None:
    if value_range is None or value_range[0] < 0 or value_range[1] > 1:
        raise UserError(
            f"Expected value_range within (0.0, 1.0), to which SimCLRAugment clips its views; "
            f"received: {value_range}. Pass an augmentation of your own for images of other values."
        )


def count_rows(images: Images, mask: tf.Tensor | None = None) -> replicas.ImageCount:
    """Counts the images of a step, as `fit` hands them to it, over all replicas."""
    return replicas.count_images(tf.shape(tf.nest.flatten(images)[0])[0], mask)


def set_up_decay(
    optimizer: Any, model: keras.Model, supervised_head: keras.layers.Layer | None
) -> list[Any]:
    """Splits weight decay between optimizer and loss, as the release does.

    LARS decays everything but batch norm, biases and the supervised head; the head's kernel is
    decayed through the loss. Other optimizers leave all of it to the loss: every trainable variable
    but batch norm's.

    Returns:
        The variables whose squares enter the loss.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, LARS):
        inner.exclude(excluded_variables(model, supervised_head=supervised_head))
        return [supervised_head.kernel] if supervised_head is not None else []
    batch_norm = {
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.weights
    }
    return [v for v in model.trainable_variables if id(v) not in batch_norm]


def decay_loss(variables: Sequence[Any], weight_decay: float) -> tf.Tensor:
    """Returns weight_decay * sum of squares / 2, a float32 scalar."""
    if not variables or not weight_decay:
        return tf.constant(0.0)
    squares = [tf.nn.l2_loss(tf.cast(tf.convert_to_tensor(v), tf.float32)) for v in variables]
    return weight_decay * tf.add_n(squares)


def minimize(model: keras.Model, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
    """Applies the gradients of a loss that `loss_to_minimize` made; None leaves a variable."""
    gradients = unscaled_gradients(model.optimizer, gradients)
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    apply_gradients(model.optimizer, pairs)


def loss_to_minimize(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the mean loss (optimizers add gradients over replicas)."""
    return scaled_loss(model.optimizer, loss / num_replicas())


def current_learning_rate(optimizer: Any) -> tf.Tensor:
    """Returns the rate of the step that is being taken, a float32 scalar."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(inner, "_learning_rate", inner.learning_rate)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(tf.convert_to_tensor(batches_taken(optimizer)))
    return tf.cast(tf.convert_to_tensor(rate), tf.float32)


def hits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for each row whose largest logit is the label's, else 0.0: float32 (N,).

    Args:
        labels: Class ids (N,), or probabilities (N, classes), of which the largest counts.
        logits: (N, classes).
    """
    same = tf.argmax(logits, -1, output_type=tf.int32) == class_ids(labels, logits.shape[-1])
    return tf.cast(same, tf.float32)


def mean_metric(name: str) -> keras.metrics.Mean:
    """Returns a running mean. float32: it adds up images, of which float16 holds 65,504."""
    return keras.metrics.Mean(name=name, dtype="float32")


def evaluation_metrics() -> dict[str, Any]:
    """Returns the metrics of an evaluation, under the release's names."""
    names = ("label_top_1_accuracy", "label_top_5_accuracy", "regularization_loss",
             "eval_supervised_loss")  # fmt: skip
    return {name: mean_metric(name) for name in names}


def update_evaluation(
    metrics: dict[str, Any],
    labels: tf.Tensor,
    logits: tf.Tensor,
    decay: tf.Tensor,
    count: replicas.ImageCount,
) -> dict[str, tf.Tensor]:
    """Adds a batch of labels (N,) or (N, classes) and logits (N, classes); returns the results."""
    logits = tf.cast(logits, tf.float32)
    in_top_5 = tf.math.in_top_k(class_ids(labels, logits.shape[-1]), logits, 5)
    losses = supervised_loss(labels, logits, per_example=True)
    found = {
        "label_top_1_accuracy": replicas.share_of_mean(hits(labels, logits), count),
        "label_top_5_accuracy": replicas.share_of_mean(tf.cast(in_top_5, tf.float32), count),
        "regularization_loss": decay,
        "eval_supervised_loss": replicas.share_of_mean(losses, count),
    }
    for name, value in replicas.mean_of_shares(found).items():
        metrics[name].update_state(value, sample_weight=count.total)
    results = {name: metric.result() for name, metric in metrics.items()}
    results["supervised_loss"] = results.pop("eval_supervised_loss")
    loss = results["supervised_loss"] + results["regularization_loss"]
    return {**results, "loss": loss}


def with_loss(logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns logs with `loss`, under which Keras's callbacks look for what is minimised.

    It is `total_loss`. An evaluation without labels has no weight decay: there it is what is
    evaluated, `contrast_loss` or `distill_loss`.
    """
    names = ("total_loss", "contrast_loss", "distill_loss")
    return {**logs, "loss": next(logs[name] for name in names if name in logs)}


def serialize_augment(augment: Any) -> Any:
    """Returns an augmentation's config; None, with a warning, for one that can't be saved."""
    if augment is None:
        return None
    try:
        return serialize(augment)
    except Exception as error:  # whatever a user's object raises: saving weights must go on
        logging.warning("The augmentation is not saved: %s", error)
        return None


def deserialize_parts(config: dict[str, Any], custom_objects: Any = None) -> dict[str, Any]:
    """Returns a model's config with encoder, projection head and augmentation as objects."""
    config = dict(config)
    for part in ("encoder", "projection_head", "augment"):
        if config.get(part) is not None:
            config[part] = deserialize(config[part], custom_objects=custom_objects)
    return config
