"""Checks of settings, alone and together: one line for the first that can't work."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Any

from simclr_tf.config.settings import Settings, kind_of
from simclr_tf.errors import UserError
from simclr_tf.images.augmentations import AUGMENTATIONS
from simclr_tf.loggers.names import check_installed, chosen
from simclr_tf.losses.names import NT_XENT, OPTIONS, WITH_MEMORY

_LARGEST = 2**63 - 1  # of TensorFlow's whole numbers


def check_setting(field: dataclasses.Field[object], value: Any) -> None:
    """Checks one value's type, choices and bounds.

    Args:
      field: its row of the table.
      value: what the user asked for, of any type.

    Raises:
      UserError: it does not fit.
    """
    name, kind = field.name, kind_of(field)
    if value is None and "None" in str(field.type):
        return
    types = {
        "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,),
        "bool | str": (bool, str),
    }  # fmt: skip
    # bool is a subclass of int: True is not a number of epochs.
    if not isinstance(value, types[kind]) or (isinstance(value, bool) and "bool" not in kind):
        raise UserError(f"Expected {name} to be of type {kind}; received: {value!r}.")
    _check_size(name, kind, value)
    choices = field.metadata["choices"]
    if choices and value not in choices:
        allowed = ", ".join(str(choice) for choice in choices)
        raise UserError(f"Expected {name} to be one of {allowed}; received: {value!r}.")
    bounds = field.metadata["bounds"]
    holds = {
        ">": lambda bound: value > bound,
        ">=": lambda bound: value >= bound,
        "<": lambda bound: value < bound,
        "<=": lambda bound: value <= bound,
    }
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"Expected {name} to be a finite number; received: {value!r}.")
    if not all(holds[sign](bound) for sign, bound in bounds.items()):
        wanted = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items())
        raise UserError(
            f"Expected {name} {wanted}; received: {value!r}. The default is "
            f"--{name}={field.default}."
        )


def _check_size(name: str, kind: str, value: Any) -> None:
    """Checks that TensorFlow and the file system can hold a value."""
    if kind in ("int", "float") and not isinstance(value, float) and abs(value) > _LARGEST:
        digits = str(value) if abs(value) < 10**30 else "one of more than 30 digits"
        raise UserError(
            f"Expected {name} to be a number of at most 64 bits; received: {digits}. Pass less."
        )
    if isinstance(value, str):
        try:
            is_name = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            is_name = False
        if not is_name:
            raise UserError(
                f"Expected {name} to be text; received: {value!r}, which no file can be named. "
                "Correct it."
            )


def check_together(config: Settings) -> None:
    """Checks combinations of settings.

    Args:
      config: settings that passed `check_setting` one by one.

    Raises:
      UserError: one line for the first contradiction.
    """
    _check_run(config)
    _check_views(config)
    _check_model(config)
    _check_loss(config)
    _check_regularisers(config)
    _check_pruning(config)
    _check_start(config)
    _check_teacher(config)
    _check_early_stopping(config)
    check_installed(chosen(config.loggers))


def _check_run(config: Settings) -> None:
    """Checks data, length, folders and devices."""
    if config.dataset is None:
        raise UserError(
            "Expected a data set; received none. Pass --dataset=mnist_5k, --dataset=A_FOLDER or "
            "the name of a TFDS data set."
        )
    if config.mode == "eval":
        if config.model_dir is None:
            raise UserError("Expected --model_dir with --mode=eval: the run to evaluate.")
        if config.dry_run:
            raise UserError(
                "Expected --mode=train or train_then_eval with --dry_run, which plans a training; "
                "received: eval."
            )
    elif not (config.train_epochs or config.train_steps):
        raise UserError("Expected train_epochs or train_steps above 0; received: 0 for both.")
    if not (config.checkpoint_epochs or config.checkpoint_steps):
        raise UserError(
            "Expected checkpoint_epochs or checkpoint_steps above 0; received: 0 for both."
        )
    if config.train_mode == "pretrain" and config.train_batch_size < 2:
        raise UserError(
            "Expected train_batch_size >= 2 while pretraining (an image is compared with the "
            f"others of its batch); received: {config.train_batch_size}."
        )
    if config.cache_dir is not None and config.cache_dataset != "disk":
        raise UserError(
            "Expected --cache_dataset=disk with --cache_dir; received: "
            f"cache_dataset={config.cache_dataset}. Pass both."
        )
    if config.workers is not None and config.strategy not in ("auto", "multiworker"):
        raise UserError(
            f"Expected --strategy=multiworker with --workers; received: {config.strategy}. "
            "Pass it to each worker."
        )
    if config.cpu_replicas > 1 and config.train_batch_size % config.cpu_replicas:
        raise UserError(
            f"Expected train_batch_size to be a multiple of cpu_replicas={config.cpu_replicas}; "
            f"received: {config.train_batch_size}."
        )
    if config.eval_name and os.path.basename(config.eval_name) != config.eval_name:
        raise UserError(
            f"Expected eval_name to be a name, not a path; received: {config.eval_name!r}."
        )
    if config.use_tpu and config.strategy not in ("auto", "tpu"):
        raise UserError(
            f"Expected strategy auto or tpu with --use_tpu=True; received: {config.strategy!r}."
        )


def _check_views(config: Settings) -> None:
    """Checks the names of the augmentations."""
    names = [name.strip() for name in config.augmentations.split(",")]
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise UserError(
            f"Expected augmentations to be names from {', '.join(AUGMENTATIONS)}, separated by "
            f"commas; received: {config.augmentations!r}."
        )
    if len(set(names)) < len(names):
        raise UserError(
            f"Expected each of the augmentations once; received: {config.augmentations!r}."
        )


def _check_model(config: Settings) -> None:
    """Checks which layers can be frozen, and which features a classifier can start from."""
    if config.train_mode == "pretrain" and config.fine_tune_after_block > -1:
        raise UserError(
            "Expected fine_tune_after_block=-1 while pretraining (nothing is frozen); received: "
            f"{config.fine_tune_after_block}. To fine-tune, pass --train_mode=finetune."
        )
    if config.micro_batch_size and config.train_mode != "pretrain":
        raise UserError(
            f"Expected micro_batch_size=0 with --train_mode={config.train_mode} (it is for the "
            f"contrastive loss); received: {config.micro_batch_size}."
        )
    if config.train_mode == "pretrain" and config.label_fraction < 1:
        raise UserError(
            "Expected label_fraction=1 while pretraining, which learns from all images; received: "
            f"{config.label_fraction}. To fine-tune on few labels, pass --train_mode=finetune."
        )
    layers = {"none": 0, "linear": 1, "nonlinear": config.num_proj_layers}[config.proj_head_mode]
    if config.ft_proj_selector > layers:
        raise UserError(
            f"Expected ft_proj_selector in 0..{layers} (the projection head has {layers} layers); "
            f"received: {config.ft_proj_selector}."
        )
    if config.mlp_layers is not None and (
        config.encoder != "mlp" or not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", config.mlp_layers)
    ):
        raise UserError(
            "Expected --encoder=mlp with --mlp_layers, which are widths as 128,128; received: "
            f"--encoder={config.encoder} --mlp_layers={config.mlp_layers}."
        )
    if config.encoder == "resnet" and config.encoder_weights == "imagenet":
        raise UserError(
            "Expected --encoder=keras.applications.NAME, keras_cv.NAME or keras_hub.NAME with "
            "--encoder_weights=imagenet: resnet has no published weights there. Pass --checkpoint."
        )


def _check_loss(config: Settings) -> None:
    """Checks the contrastive loss: settings that it does not use are refused."""
    loss = config.loss
    if config.train_mode != "pretrain" and (loss != NT_XENT or config.memory_size):
        raise UserError(
            f"Expected --loss={NT_XENT} and --memory_size=0 with --train_mode={config.train_mode} "
            f"(they are for pretraining); received: {loss} and {config.memory_size}."
        )
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name in sorted({option for options in OPTIONS.values() for option in options}):
        value = getattr(config, name)
        if value != defaults[name] and name not in OPTIONS[loss]:
            users = ", ".join(other for other, options in OPTIONS.items() if name in options)
            raise UserError(
                f"Expected no --{name} with --loss={loss}, which does not use it; received: "
                f"{value}. It is for {users}."
            )
    if not config.hidden_norm and "similarity" not in OPTIONS[loss]:
        raise UserError(
            f"Expected hidden_norm=True with --loss={loss}, which says itself how embeddings are "
            "scaled; received: False."
        )
    if config.memory_size and loss not in WITH_MEMORY:
        raise UserError(
            f"Expected --loss to be one of {', '.join(WITH_MEMORY)} with --memory_size, which adds "
            f"negatives; received: {loss}."
        )
    if not config.memory_size and config.memory_momentum != defaults["memory_momentum"]:
        raise UserError(
            "Expected --memory_size with --memory_momentum; received: memory_size=0. Pass both."
        )


def _check_regularisers(config: Settings) -> None:
    """Checks what is for classifiers alone, and penalties that an optimizer does not know."""
    if config.weight_penalty == "decoupled" and config.optimizer not in ("momentum", "adam"):
        raise UserError(
            "Expected --optimizer=momentum or adam with --weight_penalty=decoupled; received: "
            f"{config.optimizer}, which decays weights its own way. Leave --weight_penalty away."
        )
    if config.weight_penalty == "smooth_l1" and config.optimizer == "lars":
        raise UserError(
            "Expected another optimizer than lars with --weight_penalty=smooth_l1: lars decays "
            "squares itself. Pass --optimizer=momentum."
        )
    if config.train_mode == "pretrain" and config.head_dropout:
        raise UserError(
            "Expected head_dropout=0 while pretraining; received: "
            f"{config.head_dropout}. To fine-tune, pass --train_mode=finetune."
        )
    if config.train_mode != "finetune" and config.label_smoothing:
        raise UserError(
            f"Expected label_smoothing=0 with --train_mode={config.train_mode}; received: "
            f"{config.label_smoothing}. To fine-tune, pass --train_mode=finetune."
        )
    if config.class_balance == "sample" and config.train_mode != "finetune":
        raise UserError(
            f"Expected class_balance none or weight with --train_mode={config.train_mode}, which "
            "learns from images whatever their labels; received: sample."
        )
    if config.class_balance == "weight" and config.train_mode == "distill":
        raise UserError(
            "Expected class_balance=none with --train_mode=distill, which learns a teacher's "
            "probabilities; received: weight."
        )


def _check_pruning(config: Settings) -> None:
    """Checks when weights are pruned, and that the pruned ones are what a run ends with."""
    if not config.prune:
        for field in dataclasses.fields(Settings):
            value = getattr(config, field.name)
            if field.name.startswith("prune_") and value != field.default:
                raise UserError(
                    f"Expected --prune with --{field.name}; received: prune={config.prune}. Pass "
                    "both."
                )
        return
    if config.prune_begin >= config.prune_end:
        raise UserError(
            "Expected prune_begin below prune_end, shares of the steps; received: "
            f"{config.prune_begin} and {config.prune_end}."
        )
    if config.early_stopping != "none":
        raise UserError(
            "Expected --early_stopping=none with --prune: the best checkpoint may be one of before "
            f"the weights are pruned; received: {config.early_stopping}."
        )


def _check_start(config: Settings) -> None:
    """Checks where the weights come from."""
    if config.checkpoint and config.encoder_weights:
        raise UserError(
            "Expected one start for the weights; received: both --checkpoint and --encoder_weights."
        )
    if config.checkpoint and config.model_dir and config.mode != "eval":
        here, there = os.path.normpath(config.model_dir), os.path.normpath(config.checkpoint)
        if here == there:
            raise UserError(
                "Expected model_dir and checkpoint to differ, so that the two runs do not mix; "
                f"received: {config.model_dir!r} for both."
            )
    if config.variable_schema is not None:
        try:
            re.compile(config.variable_schema)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(
                f"Expected variable_schema to be a regular expression ({error}); received: "
                f"{config.variable_schema!r}."
            ) from error


def _check_teacher(config: Settings) -> None:
    """Checks what a student learns from."""
    if config.train_mode != "distill":
        if config.teacher:
            raise UserError(
                f"Expected --train_mode=distill with --teacher; received: {config.train_mode!r}. "
                "To start from weights, pass --checkpoint."
            )
        return
    if not config.teacher and config.mode != "eval":
        raise UserError(
            "Expected a teacher with --train_mode=distill; received: none. "
            "Pass --teacher=SAVED_MODEL."
        )
    if config.teacher and config.model_dir and config.mode != "eval":
        here, there = (os.path.abspath(path) for path in (config.model_dir, config.teacher))
        if os.path.commonpath([here, there]) == here:
            raise UserError(
                "Expected a teacher outside model_dir, whose old exports are deleted; received: "
                f"{config.teacher!r}. Pass another --model_dir."
            )
    if config.label_fraction < 1 and not config.distill_labels_weight:
        raise UserError(
            "Expected label_fraction=1 with distill_labels_weight=0, which uses no labels; "
            f"received: {config.label_fraction}. Pass --distill_labels_weight too."
        )


def _check_early_stopping(config: Settings) -> None:
    if config.early_stopping != "none" and config.online_eval == "never":
        raise UserError(
            f"Expected online_eval with early_stopping={config.early_stopping}; received: never. "
            "Leave --online_eval away, or pass --early_stopping=none."
        )
