"""The profile of a step: what is counted, and how parts come from times up to their ends."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from simclr_tf import benchmark

pytestmark = pytest.mark.usefixtures("half_as_deep")


def test_parts_add_up_to_a_step_of_fit() -> None:
    from simclr_tf.timing.peaks import Load, Peaks, Work
    from simclr_tf.timing.step_profile import parts_of

    times = {"views": 2.0, "forward": 10.0, "loss": 11.0, "gradient": 31.0, "step": 34.0}
    times |= {"whole": 37.0, "fit": 38.0}
    work = Work(Load(800.0, 40.0), Load(1600.0, 80.0), Load(0.0, 20.0))
    parts = parts_of(times, work, Peaks(operations=100.0, moved=20.0, dtype="float32"))
    assert [part.seconds for part in parts] == [3.0, 10.0, 1.0, 20.0, 3.0, 1.0]
    assert [part.least for part in parts] == [None, 10.0, None, 20.0, 1.0, None]
    assert sum(part.seconds for part in parts) == times["fit"]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_work_is_that_of_a_count_by_hand(policy: str) -> None:
    from tensorflow import keras

    from simclr_tf.devices.process_state import isolated
    from simclr_tf.timing.peaks import work_of

    with isolated(policy):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(images)
        x = keras.layers.Conv2D(6, 1, use_bias=False)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.Dense(5, use_bias=False)(keras.layers.Flatten()(x))
        encoder = keras.Model(images, x)
    views = 2
    first, second = views * 4 * 4 * 4 * 27 * 2, views * 4 * 4 * 6 * 4 * 2
    dense = views * 96 * 5 * 2
    work = work_of(encoder, encoder.trainable_variables, 8, views)
    assert work.forward.operations == first + second + dense
    # Nobody asks for the gradient of the images.
    assert work.backward.operations == first + 2 * second + 2 * dense
    item = 2 if policy == "mixed_bfloat16" else 4
    assert work.forward.moved == 2 * item * views * 4 * 4 * 6  # of the ReLU, in and out
    weights = 3 * 3 * 3 * 4 + 4 * 6 + 96 * 5
    assert work.update.moved == 5 * 4 * weights


@pytest.mark.one_lane
@pytest.mark.slow
def test_the_command_prints_every_part(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr_tf.timing import step_profile

    crops = partial(step_profile.SimCLRAugment, augmentations="crop")  # little to trace
    monkeypatch.setattr(step_profile, "SimCLRAugment", crops)
    tiny = ["--image_size=8", "--width_multiplier=0.125", "--batch_size=4", "--seconds=0.01"]
    assert benchmark.main(["benchmark", "step", "--profile", *tiny]) == 0
    said = capsys.readouterr().out
    for name in ("views", "forward", "heads and loss", "backward", "optimizer", "between steps"):
        assert name in said
    assert "100.0%" in said and "GF/s" in said and "at the peaks" in said
