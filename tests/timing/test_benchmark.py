"""The benchmark command: each part runs and prints its ratio; wrong arguments are one line."""

from __future__ import annotations

from typing import Any

import pytest

from simclr_tf import benchmark

TINY = ["--seconds=0.01", "--batch_size=4"]


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
            ["lean Keras, float32", "mixed_bfloat16", "matmul peak", "CPU: ", "parameters"],
            marks=[pytest.mark.slow, pytest.mark.one_lane],
        ),
        pytest.param(
            ["input", "--image_size=8", "--width_multiplier=0.125"],
            ["as trained", "in any order", "cached", "waits for data", "bytes an image"],
            marks=[pytest.mark.slow, pytest.mark.one_lane],  # the step above trains on both
        ),
    ],
)
def test_each_part_runs(arguments: list[str], words: list[str], capsys: Any) -> None:
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
        (["loss", "--image_size=8"], "WHAT=augment or step or input or peers alone"),
        (["augment", "--mixed_precision=bfloat16"], "WHAT=step alone"),
        (["input", "--jit_compile"], "WHAT=step alone"),
        (["augment", "--width_multiplier=0.5"], "WHAT=step or input or peers alone"),
        (["input", "--dataset=mnist_5k", "--batch_size=9999"], "smaller --batch_size"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: Any) -> None:
    assert benchmark.main(["benchmark", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


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
