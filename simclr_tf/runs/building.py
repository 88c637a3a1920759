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
from simclr_tf.models import encoders
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.optim.registry import make_optimizer
from simclr_tf.optim.schedules import WarmUpCosine
from simclr_tf.runs.data import RunData
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR

# Compiling the views takes seconds: from so many steps on it pays for small ones too.
_LONG_RUN = 200


def make_encoder(config: Config) -> keras.Model:
    """Returns the encoder, with the weights of `encoder_weights` if that is set."""
    return encoders.make_encoder(
        config.encoder,
        image_size=config.image_size,
        weights=config.encoder_weights,
        resnet_depth=config.resnet_depth,
        width_multiplier=config.width_multiplier,
        sk_ratio=config.sk_ratio,
        se_ratio=config.se_ratio,
        batch_norm_decay=config.batch_norm_decay,
        global_bn=config.global_bn,
    )


def view_options(config: Config) -> dict[str, Any]:
    """Returns the arguments of `SimCLRAugment` and `host_views`."""
    names = config.augmentations
    if config.train_mode != "pretrain":
        # the release fine-tunes with crop and flip alone
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
    """Returns the compiled model of a run, to be called in its strategy's scope.

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
        # An evaluation with labels does not ask the teacher.
        if config.mode != "eval" or data.test is None or data.test.num_classes is None:
            teacher = make_teacher(config, data.train, data.test)
        classes = data.test.num_classes if teacher is None else teacher.num_classes
    model = make_model(
        config,
        num_classes=classes,
        num_examples=data.train.num_examples,
        train_steps=train_steps,
        teacher=teacher,
    )
    return model, [] if teacher is None else [f"Teacher: {teacher.describe()}."]


def make_model(
    config: Config,
    *,
    num_classes: int | None,
    num_examples: int | None,
    train_steps: int,
    teacher: Teacher | None = None,
) -> SimCLR | Classifier:
    """Returns the compiled model of a run, to be called in its strategy's scope.

    Args:
        config: The settings.
        num_classes: Classes of the linear head; None: none is trained.
        num_examples: Images in an epoch.
        train_steps: Steps of the schedule.
        teacher: Of a distillation.
    """
    encoder = make_encoder(config)
    common: dict[str, Any] = {
        "projection_head": ProjectionHead(
            mode=config.proj_head_mode,
            out_dim=config.proj_out_dim,
            num_layers=config.num_proj_layers,
            batch_norm_momentum=config.batch_norm_decay,
            synchronized=config.global_bn,
        ),
        "augment": _make_augment(config, train_steps),
        "projection_selector": config.ft_proj_selector,
        "weight_decay": config.weight_decay,
        "seed": config.seed,
    }
    model: SimCLR | Classifier
    if config.train_mode == "pretrain":
        if num_classes == 1 or not config.lineareval_while_pretraining:
            num_classes = None  # one class: there is nothing to tell apart
        model = SimCLR(
            encoder,
            temperature=config.temperature,
            hidden_norm=config.hidden_norm,
            num_classes=num_classes,
            supervised_loss_weight=config.lineareval_loss_weight,
            supervised_batch_norm=config.lineareval_batch_norm,
            micro_batch_size=config.micro_batch_size or None,
            **common,
        )
    else:
        assert num_classes is not None
        common["fine_tune_after_block"] = config.fine_tune_after_block
        if config.train_mode == "finetune":
            model = Classifier(encoder, num_classes, **common)
        else:
            model = Distiller(
                encoder,
                num_classes,
                teacher,
                temperature=config.distill_temperature,
                labels_weight=config.distill_labels_weight,
                **common,
            )
    model.compile(
        optimizer=_make_optimizer(config, num_examples, train_steps), jit_compile=config.jit_compile
    )
    # Slots exist before a checkpoint is restored into them.
    build_optimizer(model.optimizer, model.trainable_variables)
    return model


def _make_augment(config: Config, train_steps: int) -> SimCLRAugment | None:
    # Views that the host made pass a SimCLR by; its evaluation without labels draws its own.
    if config.augment_on != "device" and config.train_mode != "pretrain":
        return None
    compiles: bool | None = config.augment_jit_compile == "on"
    if config.augment_jit_compile == "auto":
        # A GPU is better served by one graph for the whole batch.
        compiles = True if train_steps >= _LONG_RUN and not accelerated() else None
    return SimCLRAugment(seed=config.seed, jit_compile=compiles, **view_options(config))


def _make_optimizer(config: Config, num_examples: int | None, train_steps: int) -> Any:
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
