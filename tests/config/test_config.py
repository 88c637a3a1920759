"""The table of settings: the release's defaults, checks, and which runs may share a folder."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from absl import flags

from simclr_tf.config import Config, define_flags, differences
from simclr_tf.config.command_line import presets, read, typed
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane

# Written from the release's documentation and flag definitions, not from our table.
RELEASE = {
    "learning_rate": 0.3,
    "learning_rate_scaling": "linear",
    "warmup_epochs": 10,
    "weight_decay": 1e-6,
    "batch_norm_decay": 0.9,
    "train_batch_size": 512,
    "train_split": "train",
    "train_epochs": 100,
    "train_steps": 0,
    "eval_steps": 0,
    "eval_batch_size": 256,
    "checkpoint_epochs": 1,
    "checkpoint_steps": 0,
    "eval_split": "validation",
    "cache_dataset": False,
    "mode": "train",
    "train_mode": "pretrain",
    "lineareval_while_pretraining": True,
    "checkpoint": None,
    "zero_init_logits_layer": False,
    "fine_tune_after_block": -1,
    "master": None,
    "model_dir": None,
    "data_dir": None,
    "tpu_name": None,
    "tpu_zone": None,
    "gcp_project": None,
    "optimizer": "lars",
    "momentum": 0.9,
    "eval_name": None,
    "keep_checkpoint_max": 5,
    "keep_hub_module_max": 1,
    "temperature": 0.1,
    "hidden_norm": True,
    "proj_head_mode": "nonlinear",
    "proj_out_dim": 128,
    "num_proj_layers": 3,
    "ft_proj_selector": 0,
    "global_bn": True,
    "width_multiplier": 1,
    "resnet_depth": 50,
    "sk_ratio": 0.0,
    "se_ratio": 0.0,
    "image_size": 224,
    "color_jitter_strength": 1.0,
    "use_blur": True,
}
# The release's defaults are imagenet2012 and True.
LISTED_DIFFERENCES = {"dataset": None, "use_tpu": False}
OURS = {
    "variable_schema", "train_summary_steps", "seed", "mixed_precision", "encoder",
    "encoder_weights", "augmentations", "brightness", "strategy", "cpu_replicas", "augment_on",
    "transparent",
    "on_bad_image", "eval_fraction", "crop_area_min", "jit_compile", "eval_baselines",
    "lineareval_loss_weight", "lineareval_batch_norm", "micro_batch_size", "augment_jit_compile",
    "label_fraction", "label_seed", "teacher", "distill_temperature", "distill_labels_weight",
    "online_eval", "online_eval_images", "early_stopping", "early_stopping_patience", "resnet_stem",
    "deterministic", "clip_gradients", "on_nan", "loggers", "proj_hidden_dim",
    "gray_probability", "dry_run", "workers", "worker_index",
    "prune", "prune_begin", "prune_end", "prune_interval",
    "mlp_layers", "weight_penalty", "imbalance", "class_balance", "label_smoothing", "head_dropout",
    "loss", "similarity", "negatives", "margin", "dclw_sigma", "positive_prior",
    "hard_negative_beta", "prior", "prior_weight", "memory_size", "memory_momentum",
    "image_column", "label_column", "channels", "white_level", "cache_dir",
}  # fmt: skip


def parsed(*arguments: str) -> Config:
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    flag_values(["program", *arguments])
    return Config.from_flag_values(flag_values)


def config(**settings: object) -> Config:
    return Config(**{"dataset": "mnist_5k", "model_dir": "/tmp/run", **settings})


def test_every_flag_of_the_release_has_its_default() -> None:
    ours = Config().to_dict()
    for name, default in {**RELEASE, **LISTED_DIFFERENCES}.items():
        assert ours[name] == default, name
        assert isinstance(ours[name], bool) == isinstance(default, bool), name


def test_no_flag_is_neither_the_releases_nor_listed_as_ours() -> None:
    assert set(Config().to_dict()) == set(RELEASE) | set(LISTED_DIFFERENCES) | OURS


def test_flags_and_fields_are_one_table() -> None:
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    assert set(flag_values) == {field.name for field in dataclasses.fields(Config)}
    assert parsed() == Config()


@pytest.mark.parametrize(
    "argument, name, value",
    [
        ("--train_epochs=7", "train_epochs", 7),
        ("--temperature=0.5", "temperature", 0.5),
        ("--width_multiplier=0.25", "width_multiplier", 0.25),
        ("--use_blur=False", "use_blur", False),
        ("--nouse_blur", "use_blur", False),
        ("--cache_dataset", "cache_dataset", True),
        ("--cache_dataset=1", "cache_dataset", True),
        ("--cache_dataset=False", "cache_dataset", False),
        ("--nocache_dataset", "cache_dataset", False),
        ("--cache_dataset=memory", "cache_dataset", "memory"),
        ("--cache_dataset=disk", "cache_dataset", "disk"),
        ("--dataset=cifar10", "dataset", "cifar10"),
        ("--checkpoint=", "checkpoint", None),
        ("--optimizer=lamb", "optimizer", "lamb"),
    ],
)
def test_flags_are_parsed_by_type(argument: str, name: str, value: object) -> None:
    received = getattr(parsed(argument), name)
    assert received == value and type(received) is type(value)


def test_every_setting_has_help_a_topic_and_a_group() -> None:
    for field in dataclasses.fields(Config):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["topic"], field.name
        assert field.metadata["group"] in ("identity", "run"), field.name


def test_settings_survive_json() -> None:
    before = config(warmup_epochs=2.5, checkpoint="/tmp/old")
    assert Config(**json.loads(json.dumps(before.to_dict()))) == before


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 1  # type: ignore[misc]


def test_the_release_settings_are_valid() -> None:
    Config(**RELEASE | {"dataset": "imagenet2012"}).validate()


WRONG = [
    ({"dataset": None}, "--dataset="),
    ({"image_size": 0}, "image_size > 0; received: 0"),
    ({"train_batch_size": 0}, "train_batch_size >= 1; received: 0"),
    ({"train_batch_size": 1}, "train_batch_size >= 2 while pretraining"),
    ({"eval_batch_size": 0}, "eval_batch_size >= 1"),
    ({"temperature": 0.0}, "temperature > 0"),
    ({"temperature": -0.1}, "temperature > 0"),
    ({"temperature": float("nan")}, "temperature to be a finite number"),
    ({"learning_rate": float("inf")}, "learning_rate to be a finite number"),
    ({"learning_rate": -1.0}, "learning_rate >= 0"),
    ({"weight_decay": -1e-6}, "weight_decay >= 0"),
    ({"momentum": 1.0}, "momentum >= 0 and < 1"),
    ({"batch_norm_decay": 1.0}, "batch_norm_decay >= 0 and < 1"),
    ({"warmup_epochs": -1}, "warmup_epochs >= 0"),
    ({"train_epochs": -1}, "train_epochs >= 0"),
    ({"train_epochs": 0}, "train_epochs or train_steps above 0"),
    ({"checkpoint_epochs": 0}, "checkpoint_epochs or checkpoint_steps above 0"),
    ({"keep_checkpoint_max": 0}, "keep_checkpoint_max >= 1"),
    ({"resnet_depth": 51}, "one of 18, 34, 50, 101, 152, 200; received: 51"),
    ({"width_multiplier": 0.0}, "width_multiplier > 0"),
    ({"sk_ratio": -0.1}, "sk_ratio >= 0"),
    ({"se_ratio": -0.1}, "se_ratio >= 0"),
    ({"proj_out_dim": 0}, "proj_out_dim > 0"),
    ({"num_proj_layers": 0}, "num_proj_layers > 0"),
    ({"fine_tune_after_block": 5, "train_mode": "finetune"}, "block >= -1 and <= 4"),
    ({"fine_tune_after_block": -2}, "fine_tune_after_block >= -1"),
    ({"fine_tune_after_block": 4}, "--train_mode=finetune"),
    ({"ft_proj_selector": 4, "train_mode": "finetune"}, "ft_proj_selector in 0..3"),
    ({"ft_proj_selector": 2, "proj_head_mode": "linear"}, "ft_proj_selector in 0..1"),
    ({"ft_proj_selector": 1, "proj_head_mode": "none"}, "ft_proj_selector in 0..0"),
    ({"augmentations": "crop,spin"}, "received: 'crop,spin'"),
    ({"augmentations": ""}, "names from crop, flip"),
    ({"augmentations": "crop,crop"}, "each of the augmentations once"),
    ({"color_jitter_strength": -1.0}, "color_jitter_strength >= 0"),
    ({"loggers": "tensorboard,wandd"}, "names from tensorboard, mlflow, wandb"),
    ({"loggers": ""}, "or none; received: ''"),
    ({"loggers": "none,tensorboard"}, "or none; received"),
    ({"loggers": "tensorboard,tensorboard"}, "each of the loggers once"),
    ({"crop_area_min": 0.0}, "crop_area_min > 0 and <= 1"),
    ({"eval_fraction": 1.0}, "eval_fraction > 0 and < 1"),
    ({"optimizer": "sgd"}, "one of lars, momentum, adam, lamb; received: 'sgd'"),
    ({"mode": "eval", "model_dir": None}, "--model_dir with --mode=eval"),
    ({"checkpoint": "/tmp/run/"}, "model_dir and checkpoint to differ"),
    ({"checkpoint": "/tmp/a", "encoder_weights": "/tmp/b"}, "one start for the weights"),
    ({"encoder_weights": "imagenet"}, "--encoder=keras.applications.NAME"),
    ({"variable_schema": "(unclosed"}, "variable_schema to be a regular expression"),
    ({"cpu_replicas": 3}, "multiple of cpu_replicas=3"),
    ({"use_tpu": True, "strategy": "mirrored"}, "strategy auto or tpu"),
    ({"label_fraction": 0.0, "train_mode": "finetune"}, "label_fraction > 0 and <= 1"),
    ({"label_fraction": 0.1}, "label_fraction=1 while pretraining"),
    ({"loss": "ntxent"}, "loss to be one of nt_xent, nt_logistic, margin_triplet"),
    ({"loss": "dcl", "margin": 0.5}, "no --margin with --loss=dcl, which does not use it"),
    ({"similarity": "euclidean", "loss": "hcl"}, "no --similarity with --loss=hcl"),
    ({"hidden_norm": False, "loss": "debiased"}, "hidden_norm=True with --loss=debiased"),
    ({"loss": "supcon", "train_mode": "finetune"}, "--loss=nt_xent and --memory_size=0 with"),
    ({"memory_size": 64, "train_mode": "finetune"}, "received: nt_xent and 64"),
    ({"loss": "supcon", "memory_size": 64}, "with --memory_size, which adds negatives"),
    ({"loss": "dclw", "memory_size": 64}, "with --memory_size, which adds negatives"),
    ({"memory_momentum": 0.9}, "Expected --memory_size with --memory_momentum"),
    ({"memory_momentum": 1.0, "memory_size": 64}, "memory_momentum >= 0 and < 1"),
    ({"positive_prior": 1.0, "loss": "hcl"}, "positive_prior >= 0 and < 1"),
    ({"mlp_layers": "128"}, "--encoder=mlp with --mlp_layers"),
    ({"mlp_layers": "128,0", "encoder": "mlp"}, "widths as 128,128"),
    ({"weight_penalty": "decoupled"}, "--optimizer=momentum or adam with --weight_penalty=deco"),
    ({"weight_penalty": "smooth_l1"}, "another optimizer than lars with --weight_penalty"),
    ({"head_dropout": 0.1}, "head_dropout=0 while pretraining"),
    ({"head_dropout": 1.0, "train_mode": "finetune"}, "head_dropout >= 0 and < 1"),
    ({"label_smoothing": 0.1}, "label_smoothing=0 with --train_mode=pretrain"),
    ({"class_balance": "sample"}, "none or weight with --train_mode=pretrain"),
    ({"class_balance": "weight", "train_mode": "distill", "teacher": "/tmp/t"}, "none with"),
    ({"imbalance": 0.5}, "imbalance >= 1"),
    ({"prune": 1.0}, "prune >= 0 and < 1"),
    ({"prune": -0.1}, "prune >= 0 and < 1"),
    ({"prune_end": 0.5}, "Expected --prune with --prune_end"),
    ({"prune": 0.5, "prune_begin": 0.75}, "prune_begin below prune_end"),
    ({"prune": 0.5, "early_stopping": "knn_top_1"}, "--early_stopping=none with --prune"),
    ({"image_size": "big"}, "image_size to be of type int; received: 'big'"),
    ({"image_size": True}, "image_size to be of type int; received: True"),
    ({"cache_dataset": "disc"}, "one of False, True, memory, disk; received: 'disc'"),
    ({"cache_dataset": 1}, "cache_dataset to be of type bool | str; received: 1"),
    ({"cache_dir": "/tmp/c"}, "--cache_dataset=disk with --cache_dir; received: cache_dataset=Fal"),
    ({"use_blur": 1}, "use_blur to be of type bool; received: 1"),
    ({"train_split": None}, "train_split to be of type str; received: None"),
]  # fmt: skip


@pytest.mark.parametrize("settings, expected", WRONG, ids=lambda value: str(value)[:40])
def test_wrong_settings_are_refused_in_one_line(settings: dict, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        config(**settings).validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"fine_tune_after_block": 4, "train_mode": "finetune"},
        {"ft_proj_selector": 3, "train_mode": "finetune"},
        {"train_epochs": 0, "train_steps": 5},
        {"train_epochs": 0, "mode": "eval"},
        {"checkpoint_epochs": 0, "checkpoint_steps": 5},
        {"augmentations": "crop, flip"},
        {"learning_rate": 0},
        {"train_batch_size": 1, "train_mode": "finetune"},
        {"use_tpu": True, "strategy": "tpu"},
        {"warmup_epochs": 5},
        {"cache_dataset": "memory"},
        {"cache_dataset": "disk", "cache_dir": "~/c"},
    ],
    ids=str,
)
def test_unusual_settings_that_work_are_allowed(settings: dict) -> None:
    config(**settings).validate()


def test_two_different_runs_are_told_apart() -> None:
    old = config().to_dict()
    new = config(temperature=0.5, resnet_depth=18, dataset="cifar10", augmentations="crop")
    identity, run = differences(old, new)
    assert identity == {
        "temperature": (0.1, 0.5),
        "resnet_depth": (50, 18),
        "dataset": ("mnist_5k", "cifar10"),
        "augmentations": ("crop,flip,color,blur", "crop"),
    }
    assert run == {}


def test_length_evaluation_checkpoints_and_devices_may_change() -> None:
    changes = {
        "train_epochs": 200, "train_steps": 9, "eval_batch_size": 8, "eval_split": "test",
        "checkpoint_epochs": 3, "strategy": "one_device", "jit_compile": True, "data_dir": "/data",
    }  # fmt: skip
    identity, run = differences(config().to_dict(), config(**changes))
    assert identity == {}
    assert {name: new for name, (_, new) in run.items()} == changes


@pytest.mark.parametrize(
    "name",
    ["train_batch_size", "optimizer", "learning_rate", "warmup_epochs", "weight_decay",
     "train_mode", "image_size", "seed", "global_bn", "crop_area_min", "eval_fraction", "use_blur"],
)  # fmt: skip
def test_model_data_views_loss_batch_and_optimizer_may_not_change(name: str) -> None:
    old = config().to_dict()
    identity, _ = differences({**old, name: "something else"}, config())
    assert set(identity) == {name}


def test_equal_numbers_of_another_type_are_no_difference() -> None:
    old = {**config().to_dict(), "warmup_epochs": 10.0, "width_multiplier": 1}
    assert differences(old, config()) == ({}, {})


def test_settings_unknown_to_either_side_are_read_as_defaults() -> None:
    old = {**config().to_dict(), "retired_flag": 3}
    del old["crop_area_min"]
    assert differences(old, config()) == ({}, {})
    assert differences(old, config(crop_area_min=0.2))[0] == {"crop_area_min": (0.08, 0.2)}


def test_where_a_run_started_from_does_not_matter_to_its_evaluation() -> None:
    old = config(train_mode="finetune", checkpoint="/tmp/old").to_dict()
    assert differences(old, config(train_mode="finetune", mode="eval")) == ({}, {})
    again = config(train_mode="finetune")
    assert differences(old, again)[0] == {"checkpoint": ("/tmp/old", None)}


def test_settings_as_flags_are_the_settings() -> None:
    for name in presets():
        config, _ = read([f"--preset={name}", "--dataset=a b", "--nouse_blur", "--momentum=0.1"])
        assert read(config.to_flags())[0] == config
    assert Config().to_flags() == []
    for value in (True, "memory", "disk"):
        config = Config(dataset="mnist_5k", cache_dataset=value)
        assert read(config.to_flags())[0] == config
    given = typed(["--preset=quickstart", "--nouse_blur", "--seed", "3"])
    assert given == {"use_blur": False, "seed": 3}
