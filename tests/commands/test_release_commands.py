"""Every command in the release's documentation parses to the settings it asks for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from simclr_tf.config import Config
from simclr_tf.run import parse, presets

pytestmark = pytest.mark.one_lane

LINES = (Path(__file__).parents[1] / "golden" / "release_commands.txt").read_text().splitlines()
COMMANDS = [line for line in LINES if line.strip() and not line.startswith("#")]
# The release's text: for 10% of the labels the same with 30 epochs.
TEN_PERCENT = COMMANDS[4].replace("1pct", "10pct").replace("--train_epochs=60", "--train_epochs=30")
COMMANDS.append(TEN_PERCENT)

TPU = {"data_dir": "$DATA_DIR", "model_dir": "$MODEL_DIR", "use_tpu": True, "tpu_name": "$TPU_NAME"}
FINETUNE = {
    "mode": "train_then_eval",
    "train_mode": "finetune",
    "zero_init_logits_layer": True,
    "warmup_epochs": 0,
}
LINEAR = {
    **FINETUNE,
    "fine_tune_after_block": 4,
    "variable_schema": "(?!global_step|(?:.*/|^)Momentum|head)",
    "global_bn": False,
    "optimizer": "momentum",
    "learning_rate": 0.1,
}
CIFAR = {
    "train_batch_size": 512,
    "dataset": "cifar10",
    "image_size": 32,
    "eval_split": "test",
    "resnet_depth": 18,
}
FEW_LABELS = {
    **FINETUNE,
    **TPU,
    "checkpoint": "$CHKPT_DIR",
    "variable_schema": "(?!global_step|(?:.*/|^)Momentum|head_supervised)",
    "optimizer": "lars",
    "learning_rate": 0.005,
    "learning_rate_scaling": "sqrt",
    "weight_decay": 0,
    "train_batch_size": 1024,
    "ft_proj_selector": 1,
}
# Written by hand from the commands; what they leave out is the default.
EXPECTED = [
    {
        **CIFAR,
        "train_epochs": 1000,
        "learning_rate": 1.0,
        "weight_decay": 1e-4,
        "temperature": 0.5,
        "use_blur": False,
        "color_jitter_strength": 0.5,
        "model_dir": "/tmp/simclr_test",
    },
    {
        **TPU,
        "train_batch_size": 4096,
        "learning_rate": 0.075,
        "learning_rate_scaling": "sqrt",
        "weight_decay": 1e-4,
        "dataset": "imagenet2012",
    },
    {
        **LINEAR,
        **CIFAR,
        "weight_decay": 0.0,
        "checkpoint": "/tmp/simclr_test",
        "model_dir": "/tmp/simclr_test_ft",
    },
    {
        **LINEAR,
        **TPU,
        "train_epochs": 90,
        "train_batch_size": 4096,
        "dataset": "imagenet2012",
        "checkpoint": "$CHKPT_DIR",
    },
    {**FEW_LABELS, "train_epochs": 60, "dataset": "imagenet2012_subset/1pct"},
    {**FEW_LABELS, "train_epochs": 30, "dataset": "imagenet2012_subset/10pct"},
]


def test_every_command_has_an_expectation() -> None:
    assert len(COMMANDS) == len(EXPECTED) == 6


@pytest.mark.parametrize("command, expected", zip(COMMANDS, EXPECTED, strict=True))
def test_command_gives_the_settings_it_asks_for(command: str, expected: dict) -> None:
    config, notes = parse(shlex.split(command))
    assert config == Config(**expected)
    assert notes == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_named_in_a_command_reaches_the_settings(command: str) -> None:
    config, _ = parse(shlex.split(command))
    for argument in shlex.split(command):
        name, _, text = argument.removeprefix("--").partition("=")
        value = getattr(config, name)
        assert type(value)(eval(text) if isinstance(value, bool) else text) == value


@pytest.mark.parametrize("name", sorted(presets()))
def test_preset_is_valid_and_says_its_command_and_what_to_expect(name: str) -> None:
    text = presets()[name].read_text(encoding="ascii")
    first, *rest = text.split("\n\n")[0].splitlines()
    assert first.startswith(f"# simclr-tf --preset={name}")
    comments = " ".join(rest)
    assert re.search("Published|Expected|accuracy", comments), "what should it reach?"
    command = first.split("  ")[0].removeprefix("# simclr-tf ")
    config, _ = parse(shlex.split(command))
    config.validate()
    assert config.dataset


def test_presets_are_the_documented_ones() -> None:
    assert set(presets()) == {
        "quickstart", "cifar10_pretrain", "cifar10_linear_eval", "cifar10_finetune",
        "cifar10_dkobak", "cifar10_resnet18_imagenet",
        "mnist_pretrain", "mnist_5k_pretrain", "mnist_mlp", "imagenet_pretrain",
        "imagenet_v2_r152_3x_sk1_pretrain", "imagenet_linear_eval",
        "imagenet_finetune_1pct", "imagenet_finetune_10pct", "own_images",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, index",
    [
        ("cifar10_pretrain", 0),
        ("imagenet_pretrain", 1),
        ("cifar10_linear_eval", 2),
        ("imagenet_linear_eval", 3),
        ("imagenet_finetune_1pct", 4),
        ("imagenet_finetune_10pct", 5),
    ],
)
def test_preset_equals_the_releases_command(name: str, index: int) -> None:
    places = {"data_dir", "model_dir", "checkpoint", "use_tpu", "tpu_name"}
    config, _ = parse([f"--preset={name}"])
    wanted = {key: value for key, value in EXPECTED[index].items() if key not in places}
    assert config == Config(**wanted)
