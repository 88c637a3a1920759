"""The benchmark command: each part runs and prints its ratio; wrong arguments are one line."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from simclr_tf import benchmark

pytestmark = pytest.mark.usefixtures("half_as_deep")

TINY = ["--seconds=0.01", "--batch_size=4"]


@pytest.fixture
def little_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are crops, photographs few: others would be most of what is traced and encoded."""
    from simclr_tf.timing import compute, input_pipeline, photographs

    for module, name in (
        (compute, "SimCLRAugment"), (compute, "host_views"), (input_pipeline, "SimCLRAugment"),
    ):  # fmt: skip
        crops = partial(getattr(module, name), augmentations="crop")
        monkeypatch.setattr(module, name, crops)
    for module in (photographs, input_pipeline):
        monkeypatch.setattr(module, "MOST_DIFFERENT", 8)
    monkeypatch.setattr(input_pipeline, "BATCHES", 2)


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loss"], ["all at once", "blocks of 4"]),
        pytest.param(
            ["losses"],
            ["nt_xent", "supcon", "generalized"],
            marks=[pytest.mark.slow, pytest.mark.one_lane],
        ),
        (["augment", "--image_size=8"], ["per image in tf.data", "batched, XLA", "for processors"]),
        pytest.param(
            ["step", "--image_size=8", "--width_multiplier=0.125", "--mixed_precision=bfloat16"],
            ["lean Keras, float32", "mixed_bfloat16", "of the peak", "CPU: ", "parameters"],
            marks=[pytest.mark.slow, pytest.mark.one_lane],
        ),
        pytest.param(
            ["input", "--image_size=8", "--width_multiplier=0.125", "--dataset=mnist_5k"],
            ["as trained", "in any order", "cached", "waits for data", "bytes an image"],
            marks=[pytest.mark.slow, pytest.mark.one_lane],  # the step above trains on both
        ),
        pytest.param(
            ["input", "--image_size=8", "--width_multiplier=0.125", "--images=12"],
            [
                "12 JPEG files, 8 different",
                "tf.data ",
                "image_dataset_from_directory",
                "cached on disk",
                "ms of processors an image",
            ],
            marks=[pytest.mark.slow, pytest.mark.one_lane],
        ),
    ],
)
def test_each_part_runs(
    arguments: list[str], words: list[str], capsys: Any, little_to_make: None
) -> None:
    assert benchmark.main(["benchmark", *arguments, *TINY]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words)
    assert "ratio 1.00" in said or "% of the time" in said


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "WHAT"),
        (["speed"], "invalid choice"),
        (["loss", "--batch_size=0"], "above 0"),
        (["loss", "--dataset=mnist_5k"], "WHAT=input alone"),
        (["loss", "--image_size=8"], "WHAT=augment or step or growth or input or peers alone"),
        (["augment", "--mixed_precision=bfloat16"], "WHAT=step alone"),
        (["input", "--jit_compile"], "WHAT=step alone"),
        (["augment", "--width_multiplier=0.5"], "WHAT=step or growth or input or peers alone"),
        (["growth", "--batch_sizes=64,250"], "multiples of 4"),
        (["growth", "--batch_sizes=all"], "multiples of 4"),
        (
            ["growth", "--batch_size=64"],
            "augment or input or loss or losses or step or peers alone",
        ),
        (["step", "--batch_sizes=64"], "WHAT=growth alone"),
        (["step", "--depth=50"], "--depth with --profile"),
        (["loss", "--profile"], "WHAT=step alone"),
        (["step", "--profile", "--jit_compile"], "without --jit_compile"),
        (["input", "--dataset=mnist_5k", "--batch_size=9999"], "smaller --batch_size"),
        (["input", "--dataset=mnist_5k", "--images=300"], "received: both"),
        (["input", "--images=0"], "above 0"),
        (["loss", "--images=300"], "WHAT=input alone"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: Any) -> None:
    assert benchmark.main(["benchmark", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.one_lane
def test_every_pipeline_gives_the_same_images() -> None:
    """But for the kernel of the resize, and the order."""
    from simclr_tf.datasets import open_source
    from simclr_tf.timing import input_pipeline, photographs

    timing = input_pipeline.Timing(32, 4, 0.01, 0.125)
    given: dict[str, np.ndarray] = {}
    with photographs.photographs(4) as folder:
        source = open_source(folder, "all")
        with input_pipeline._pipelines(source, timing, folder) as (pipelines, lines):
            assert len(pipelines) == 7 and not lines
            for name, data in pipelines.items():
                batch = next(iter(data))
                x = batch[0]["image"] if isinstance(batch, tuple) else batch
                assert x.shape == (4, 46, 46, 3)
                given[name] = np.asarray(x, np.float32)
    for name, images in given.items():
        apart = np.abs(images[:, None] - given["as trained"]).mean((2, 3, 4))
        assert sorted(apart.argmin(0)) == [0, 1, 2, 3], name
        assert apart.min(0).max() < 15 < 30 < np.sort(apart, 0)[1].min(), name


@pytest.mark.parametrize(("width", "size"), [(0.0625, 8), (0.3, 32), (0.25, 32), (0.25, 33)])
def test_both_sides_of_a_step_train_the_same_network(width: float, size: int) -> None:
    from simclr_tf.timing import compute
    from simclr_tf.timing.baseline_step import make_baseline_step

    ours = compute.make_simclr(width, size)
    for fused in (False, True):
        theirs = make_baseline_step(width, size, fused=fused).network
        assert compute.parameter_count(theirs) == compute.parameter_count(ours)
        shapes = [sorted(tuple(v.shape) for v in m.trainable_variables) for m in (theirs, ours)]
        assert shapes[0] == shapes[1]


def test_a_benchmark_leaves_the_global_policy_alone() -> None:
    from tensorflow import keras

    from simclr_tf.timing import compute

    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        compute.make_simclr(0.0625, 8)
        assert keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    finally:
        keras.mixed_precision.set_global_policy(before)
