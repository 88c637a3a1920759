"""Mixed precision: never slow without a word, picked by device, kept when a run moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from simclr_tf.config import Config
from simclr_tf.devices import precision, processor
from simclr_tf.models import convolution
from simclr_tf.run import main

OLD, NEW = ("avx2",), ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`cpu(features)` makes the processor one of these features, without a GPU beside it."""
    before = keras.mixed_precision.global_policy()

    def become(features: tuple[str, ...] | None) -> None:
        monkeypatch.setattr(processor, "cpu_features", lambda: features)
        monkeypatch.setattr(convolution, "accelerated", lambda: False)
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])

    yield become
    keras.mixed_precision.set_global_policy(before)


def convolved(dtype: str) -> set[str]:
    """Returns the types that convolutions of a layer and of its gradient compute in."""
    layer = convolution.Conv2D(4, 3, use_bias=False, dtype=f"mixed_{dtype}")
    layer.build((None, 6, 6, 3))

    @tf.function
    def gradients(images: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
            assert outputs.dtype == dtype
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32))
        return tape.gradient(loss, [images, *layer.trainable_variables])

    graph = gradients.get_concrete_function(tf.TensorSpec([2, 6, 6, 3])).graph
    found = [op for op in graph.get_operations() if op.type.startswith("Conv2D")]
    assert len(found) == 3  # forward, to the images, to the kernel
    return {op.outputs[0].dtype.name for op in found}


@pytest.mark.parametrize(
    ("dtype", "fast"),
    [
        ("bfloat16", [("avx512f", "avx512_bf16"), NEW]),
        ("float16", [(*NEW, "avx512_fp16", "amx_fp16")]),
    ],
)
def test_convolutions_take_a_type_that_is_fast_here(
    cpu: Any, dtype: str, fast: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [OLD, (*OLD, "avx512f", "avx512_fp16"), None]
    for features in slow + ([NEW] if dtype == "float16" else []):
        cpu(features)
        assert convolved(dtype) == {"float32"}, features
    for features in fast:
        cpu(features)
        assert convolved(dtype) == {dtype}, features
    for value, type_name in (("0", "float32"), ("false", "float32"), ("1", dtype)):
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", value)
        assert convolved(dtype) == {type_name}, value


def test_convolutions_of_a_gpu_keep_their_type(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(OLD)
    monkeypatch.setattr(convolution, "accelerated", lambda: True)
    assert convolved("bfloat16") == {"bfloat16"}


@pytest.mark.parametrize(
    ("capabilities", "chosen"),
    [
        ([(9, 0)], "bfloat16"),
        ([(8, 0)], "bfloat16"),
        ([(7, 5)], "float16"),
        ([(7, 0)], "float16"),
        ([(6, 1)], "none"),
        ([(9, 0), (7, 0)], "float16"),
        ([None], "none"),
    ],
)
def test_auto_by_gpu(cpu: Any, monkeypatch: Any, capabilities: list[Any], chosen: str) -> None:
    cpu(OLD)
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: capabilities if kind == "GPU" else []
    )
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"device_name": "a GPU", "compute_capability": gpu} if gpu else {},
    )
    found = precision.choose()
    assert found.mixed_precision == chosen and found.reason
    assert not precision.may_be_slow("bfloat16")


def test_auto_by_processor(cpu: Any) -> None:
    for features, chosen in ((OLD, "float32"), (NEW, "mixed_bfloat16"), (None, "float32")):
        cpu(features)
        assert precision.fastest_policy() == chosen
    assert precision.choose(use_tpu=True).mixed_precision == "bfloat16"


def test_features_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "_DESCRIPTION", str(path))
    read = processor.cpu_features.__wrapped__
    assert read() is None
    path.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f amx_bf16 avx512_bf16_x\n")
    assert read() == ("avx2", "avx512f", "amx_bf16")
    path.write_text("Features : neon\n")
    assert read() is None


def test_a_slow_type_is_said_with_its_ratio(cpu: Any) -> None:
    cpu(OLD)
    made: list[str] = []

    def encoder() -> keras.Model:
        made.append(precision_of_layers())
        return keras.Sequential([keras.Input((8, 8, 3)), convolution.Conv2D(2, 3)])

    def precision_of_layers() -> str:
        return keras.mixed_precision.global_policy().name

    before = precision_of_layers()
    measured = precision.measure_slowdown(encoder, "bfloat16", (8, 8, 3))
    assert made == ["float32", "mixed_bfloat16"] and precision_of_layers() == before
    assert 0 < measured.ratio < 100 and np.isfinite(measured.seconds)
    line = precision.slowdown_line("bfloat16", measured._replace(ratio=0.1))
    assert line is not None and "0.10 times" in line and "avx2" in line and "\n" not in line
    for ratio in (0.97, 1.2):
        assert precision.slowdown_line("bfloat16", measured._replace(ratio=ratio)) is None


def test_an_automatic_run_keeps_its_type_on_another_machine(
    cpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "measure_slowdown", lambda *_: precision.Slowdown(0.5, 8, 1.0))
    arguments = [
        "simclr-tf", "--dataset=mnist_5k", "--train_split=train[:16]", "--image_size=8",
        "--encoder=mlp:8", "--proj_out_dim=4", "--num_proj_layers=1", "--augmentations=crop",
        "--train_batch_size=8", "--warmup_epochs=0", "--model_dir=a",
        "--mixed_precision=auto", "--mode=train",
    ]  # fmt: skip
    cpu(NEW)
    assert main([*arguments, "--train_steps=1"]) == 0
    assert "auto: bfloat16, the fastest here (CPU: avx2" in capsys.readouterr().out
    cpu(OLD)  # moved
    assert main([*arguments, "--train_steps=2"]) == 0
    said = capsys.readouterr().out
    assert "auto: bfloat16, as this run began; a new run would take none here" in said
    assert "Warning: --mixed_precision=bfloat16 runs at 0.50 times" in said
    assert '"mixed_precision": "bfloat16"' in (tmp_path / "a" / "flags.json").read_text()


def test_auto_is_a_setting() -> None:
    Config(dataset="mnist_5k", mixed_precision="auto").validate()
    assert precision.resolve("float16", None) == ("float16", "")
