"""A short pretraining without labels, then few labelled scenes: better than from scratch.

One file, so that one pretraining serves both tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from simclr_tf.examples import detect, segment
from simclr_tf.run import main

# Learning takes a minute; each part of it is compared on both lanes.
pytestmark = [pytest.mark.one_lane, pytest.mark.slow]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs on half of the digits."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    settings = ["--preset=quickstart", "--train_split=train[:2000]", "--train_epochs=4",
                "--nolineareval_while_pretraining", "--nolineareval_batch_norm",
                "--lineareval_loss_weight=1", "--mode=train"]  # fmt: skip
    assert main(["simclr-tf", *settings, f"--model_dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize(
    ("task", "shown", "better"),
    [
        (segment.main, ["--scenes=50", "--steps=150"], 0.03),  # mean IoU
        (detect.main, ["--scenes=40", "--steps=60"], 0.08),  # AP@[.5:.95]
    ],
    ids=["segment", "detect"],
)
def test_pretraining_on_digits_beats_scratch(
    task: Callable[[list[str]], int],
    shown: list[str],
    better: float,
    pretrained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["", f"--saved_model={pretrained}", *shown, "--batch_size=8", "--test_scenes=20"]
    assert task(arguments) == 0
    said = capsys.readouterr().out
    ours, scratch = map(float, re.findall(r"(\d\.\d+) (?:pretrained|from)", said)[:2])
    assert ours > scratch + better, said
