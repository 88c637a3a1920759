"""What a run trains: network, heads, views and optimizer, made from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import build_optimizer
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.devices.strategy import accelerated
from simclr_tf.errors import UserError
from simclr_tf.features.teacher import Teacher, load_teacher
from simclr_tf.files.writers import Writer
from simclr_tf.losses.contrastive_loss import ContrastiveLoss
from simclr_tf.losses.named import make_loss
from simclr_tf.losses.names import NEEDS_LABELS, OPTIONS
from simclr_tf.models.recipe import Recipe
from simclr_tf.optim.registry import make_optimizer
from simclr_tf.optim.schedules import WarmUpCosine
from simclr_tf.runs.data import RunData, count_of, data_errors
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.labels import balanced_weights
from simclr_tf.training.pruning import PruningSchedule
from simclr_tf.training.simclr import SimCLR

# Compiling the views takes seconds: from this many steps on it pays off for small views too.
_LONG_RUN = 200
# A pruning may take as long as a step, and a hundred of them follow the cubic closely.
_PRUNINGS = 100


def recipe_of(config: Config, num_classes: int | None = None) -> Recipe:
    """Returns the recipe of what a run trains.

    Args:
        config: The settings.
        num_classes: Classes of the images; None: there are no labels.
    """
    if config.train_mode == "pretrain" and (
        num_classes == 1 or not config.lineareval_while_pretraining
    ):
        num_classes = None  # with one class there is nothing to classify
    return Recipe.from_settings(config.to_dict(), num_classes)


class BuiltRun(NamedTuple):
    """What a run consists of once it is built: what training and its plan start from.

    Attributes:
        config: The settings.
        model: The compiled model.
        data: The images.
        train_steps: Steps of the whole run.
        strategy: The strategy that the model was made under.
        writer: Who writes and prints.
    """

    config: Config
    model: SimCLR | Classifier
    data: RunData
    train_steps: int
    strategy: tf.distribute.Strategy
    writer: Writer


def view_options(config: Config) -> dict[str, Any]:
    """Returns the arguments of `SimCLRAugment` and `host_views`."""
    names = config.augmentations
    if config.train_mode != "pretrain":
        # the release fine-tunes with only crop and flip
        names = ",".join(name for name in names.split(",") if name.strip() in ("crop", "flip"))
    return {
        "image_size": config.image_size,
        "color_jitter_strength": config.color_jitter_strength,
        "use_blur": config.use_blur,
        "brightness": config.brightness,
        "augmentations": names,
        "crop_area": (config.crop_area_min, 1.0),
        "gray_probability": config.gray_probability,
    }


def make_teacher(
    config: Config, train_source: ImageSource, eval_source: ImageSource | None
) -> Teacher:
    """Returns the teacher of a distillation.

    Raises:
        UserError: None is named, or its classes are not those of the images.
    """
    if config.teacher is None:
        raise UserError(
            f"Expected labels in {config.eval_split}, or a teacher to agree with; received: "
            "neither. Pass --teacher."
        )
    teacher = load_teacher(config.teacher, config.image_size)
    for source in (train_source, eval_source):
        classes = None if source is None else source.num_classes
        if source is not None and classes not in (None, teacher.num_classes):
            raise UserError(
                f"Expected the teacher's {teacher.num_classes} classes in {source.name}; "
                f"received: {classes}. Take images of those classes, or put all into one "
                "folder without class folders."
            )
    return teacher


def build(config: Config, data: RunData, train_steps: int) -> tuple[SimCLR | Classifier, list[str]]:
    """Returns the compiled model of a run; call it in the strategy's scope.

    Args:
        config: The settings.
        data: The images.
        train_steps: Steps of the whole run.

    Returns:
        The model, and lines on it: the teacher of a distillation, what is pruned.

    Raises:
        UserError: The teacher does not fit.
    """
    _check_images(config, data)
    teacher = None
    classes = data.train.num_classes
    if config.train_mode == "distill":
        classes = None if data.test is None else data.test.num_classes
        # An evaluation with labels does not need the teacher.
        if config.mode != "eval" or classes is None:
            teacher = make_teacher(config, data.train, data.test)
            classes = teacher.num_classes
    model = make_model(
        config,
        num_classes=classes,
        num_examples=count_of(data.train),
        train_steps=train_steps,
        teacher=teacher,
        class_weights=_class_weights(config, data.train),
    )
    lines = [] if teacher is None else [f"Teacher: {teacher.describe()}."]
    if model.pruner is not None and config.mode != "eval":
        lines.append(f"{model.pruner.describe()}.")
    return model, lines


def make_model(
    config: Config,
    *,
    num_classes: int | None,
    num_examples: int,
    train_steps: int,
    teacher: Teacher | None = None,
    class_weights: Sequence[float] | None = None,
) -> SimCLR | Classifier:
    """Returns the compiled model of a run; call it in the strategy's scope.

    Args:
        config: The settings.
        num_classes: Classes of the linear head; None: none is trained.
        num_examples: Images in an epoch.
        train_steps: Steps of the schedule.
        teacher: The teacher of a distillation.
        class_weights: Factors of the linear head's loss; None: 1.
    """
    training: dict[str, Any] = {
        "augment": _make_augment(config, train_steps),
        "weight_penalty": config.weight_penalty,
        "class_weights": class_weights,
    }
    if config.train_mode != "pretrain":
        training["head_dropout"] = config.head_dropout
        training["label_smoothing"] = config.label_smoothing
    else:
        training["micro_batch_size"] = config.micro_batch_size or None
        training["loss"] = loss_of(config)
        training["memory_size"] = config.memory_size
        training["memory_momentum"] = config.memory_momentum
    if config.train_mode == "distill":
        training["teacher"] = teacher
        training["temperature"] = config.distill_temperature
        training["labels_weight"] = config.distill_labels_weight
    model = build_model(recipe_of(config, num_classes), **training)
    model.compile(
        optimizer=_make_optimizer(config, num_examples, train_steps),
        jit_compile=config.jit_compile,
        clip_norm=config.clip_gradients or None,
        skip_non_finite=config.on_nan == "skip",
        pruning=pruning_of(config, train_steps),
    )
    # Slots must exist before a checkpoint is restored into them.
    build_optimizer(model.optimizer, model.trainable_variables)
    return model


def pruning_of(config: Config, train_steps: int) -> PruningSchedule | None:
    """Returns when a run of so many steps prunes; None: never."""
    if not config.prune:
        return None
    begin = int(config.prune_begin * train_steps)
    end = max(begin + 1, int(config.prune_end * train_steps))
    interval = config.prune_interval or max(1, (end - begin) // _PRUNINGS)
    return PruningSchedule(config.prune, end, begin, interval)


def _class_weights(config: Config, source: ImageSource) -> list[float] | None:
    head = config.train_mode != "pretrain" or config.lineareval_while_pretraining
    if config.class_balance != "weight" or not head or config.mode == "eval":
        return None
    with data_errors(source):
        return balanced_weights(source.read_labels(), source.num_classes or 0)


def loss_of(config: Config) -> ContrastiveLoss:
    """Returns the contrastive loss of a run."""
    options = {name: getattr(config, name) for name in OPTIONS[config.loss]}
    return make_loss(config.loss, config.temperature, config.hidden_norm, **options)


def _check_images(config: Config, data: RunData) -> None:
    """Raises a UserError where the contrastive loss can't learn from these images."""
    if config.mode == "eval" or config.train_mode != "pretrain":
        return
    classes = data.train.num_classes or 0
    if config.loss in NEEDS_LABELS and classes < 2:
        raise UserError(
            f"Expected images of two classes or more with --loss={config.loss}, which compares "
            f"classes; received: {classes or 'no labels'} in {data.train.name}. Pass another "
            "--loss, or images with labels."
        )
    if config.memory_size >= count_of(data.train):
        raise UserError(
            f"Expected memory_size below the {count_of(data.train)} images of {data.train.name}, "
            f"so that no image meets itself in the memory; received: {config.memory_size}. Pass "
            "less."
        )


def _make_augment(config: Config, train_steps: int) -> SimCLRAugment | None:
    # SimCLR does not augment views that the host made, but draws views in an unlabelled evaluation.
    if config.augment_on != "device" and config.train_mode != "pretrain":
        return None
    compiles: bool | None = config.augment_jit_compile == "on"
    if config.augment_jit_compile == "auto":
        # On a GPU one graph for the whole batch is faster.
        compiles = True if train_steps >= _LONG_RUN and not accelerated() else None
    return SimCLRAugment(seed=config.seed, jit_compile=compiles, **view_options(config))


def make_schedule(config: Config, num_examples: int, train_steps: int) -> WarmUpCosine:
    """Returns the learning rate of a run, by its step."""
    return WarmUpCosine(
        config.learning_rate,
        batch_size=config.train_batch_size,
        num_examples=num_examples,
        train_steps=train_steps,
        warmup_epochs=config.warmup_epochs,
        scaling=config.learning_rate_scaling,
    )


def _make_optimizer(
    config: Config, num_examples: int, train_steps: int
) -> keras.optimizers.Optimizer:
    schedule = make_schedule(config, num_examples, train_steps)
    optimizer = make_optimizer(
        config.optimizer, schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )
    if config.mixed_precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer
