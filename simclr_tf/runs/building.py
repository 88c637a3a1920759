"""What a run trains: network, heads, views and optimizer, made from its settings."""

from __future__ import annotations

from typing import Any

from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import build_optimizer
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.devices.strategy import accelerated
from simclr_tf.errors import UserError
from simclr_tf.features.teacher import Teacher, load_teacher
from simclr_tf.models.recipe import Recipe
from simclr_tf.optim.registry import make_optimizer
from simclr_tf.optim.schedules import WarmUpCosine
from simclr_tf.runs.data import RunData, count_of
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.simclr import SimCLR

# Compiling the views takes seconds: from this many steps on it pays off for small views too.
_LONG_RUN = 200


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
        The model, and the line that names the teacher of a distillation.

    Raises:
        UserError: The teacher does not fit.
    """
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
    )
    return model, [] if teacher is None else [f"Teacher: {teacher.describe()}."]


def make_model(
    config: Config,
    *,
    num_classes: int | None,
    num_examples: int,
    train_steps: int,
    teacher: Teacher | None = None,
) -> SimCLR | Classifier:
    """Returns the compiled model of a run; call it in the strategy's scope.

    Args:
        config: The settings.
        num_classes: Classes of the linear head; None: none is trained.
        num_examples: Images in an epoch.
        train_steps: Steps of the schedule.
        teacher: The teacher of a distillation.
    """
    training: dict[str, Any] = {"augment": _make_augment(config, train_steps)}
    if config.train_mode == "pretrain":
        training["micro_batch_size"] = config.micro_batch_size or None
    if config.train_mode == "distill":
        training["teacher"] = teacher
        training["temperature"] = config.distill_temperature
        training["labels_weight"] = config.distill_labels_weight
    model = build_model(recipe_of(config, num_classes), **training)
    model.compile(
        optimizer=_make_optimizer(config, num_examples, train_steps), jit_compile=config.jit_compile
    )
    # Slots must exist before a checkpoint is restored into them.
    build_optimizer(model.optimizer, model.trainable_variables)
    return model


def _make_augment(config: Config, train_steps: int) -> SimCLRAugment | None:
    # SimCLR does not augment views that the host made, but draws views in an unlabelled evaluation.
    if config.augment_on != "device" and config.train_mode != "pretrain":
        return None
    compiles: bool | None = config.augment_jit_compile == "on"
    if config.augment_jit_compile == "auto":
        # On a GPU one graph for the whole batch is faster.
        compiles = True if train_steps >= _LONG_RUN and not accelerated() else None
    return SimCLRAugment(seed=config.seed, jit_compile=compiles, **view_options(config))


def _make_optimizer(
    config: Config, num_examples: int, train_steps: int
) -> keras.optimizers.Optimizer:
    schedule = WarmUpCosine(
        config.learning_rate,
        batch_size=config.train_batch_size,
        num_examples=num_examples,
        train_steps=train_steps,
        warmup_epochs=config.warmup_epochs,
        scaling=config.learning_rate_scaling,
    )
    optimizer = make_optimizer(
        config.optimizer, schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )
    if config.mixed_precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer
