"""Commands as a user types them, on a tiny network and 8-pixel digits, and what they leave."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
from tensorflow import keras
from tensorflow.core.util import event_pb2

from simclr_tf.run import main

TINY = [
    "--dataset=mnist_5k", "--train_split=train[:64]", "--eval_split=test[:32]", "--image_size=8",
    "--encoder=mlp:16", "--proj_out_dim=8", "--num_proj_layers=2", "--augmentations=flip",
    "--train_batch_size=16", "--eval_batch_size=16", "--train_steps=6", "--warmup_epochs=0",
    "--learning_rate=0.5", "--eval_baselines=never",
]  # fmt: skip
OFTEN = ["--checkpoint_steps=2", "--train_summary_steps=1", "--keep_checkpoint_max=2"]
ONE_STEP = ["--train_steps=1", "--learning_rate=0"]  # leaves the weights as they were
TUNE = ["--train_mode=finetune"]
Command = Callable[..., str]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each test works in a folder of its own, and leaves the process as it found it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    policy = keras.mixed_precision.global_policy()
    yield tmp_path
    keras.mixed_precision.set_global_policy(policy)


@pytest.fixture
def no_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export is a name in the run's folder: a real one takes longer than the training.

    For tests in this process that ask about what comes before it, or how often.
    """
    leave_out_exports(monkeypatch)


def leave_out_exports(
    patch: pytest.MonkeyPatch, place: str = "tf_hub_export.export_saved_model"
) -> None:
    """Does what `no_exports` says, from now on and for what calls it by that name."""

    def export(model: keras.Model, path: str, **_: object) -> None:
        os.makedirs(path, exist_ok=True)
        Path(path, "saved_model.pb").touch()

    patch.setattr(place, export)


def printed_by(folder: Path, *arguments: str) -> str:
    """Runs the tiny command in a folder, for fixtures of several tests; returns what it printed."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        assert main(["simclr-tf", *TINY, *arguments]) == 0
    return out.getvalue()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the tiny command with changes, expects an exit code; returns what it printed."""

    def run(*arguments: str, code: int = 0, defaults: list[str] = TINY) -> str:
        capsys.readouterr()
        assert main(["simclr-tf", *defaults, *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out + err if code else out

    return run


def process(
    *arguments: str, defaults: list[str] = TINY, wait: bool = True, **variables: str
) -> processes.Process:
    """Starts the command as a process of its own."""
    started = processes.start(
        "-m", "simclr_tf.run", *defaults, *arguments, env={**os.environ, **variables}
    )
    if wait:
        finish(started)
    return started


def finish(started: processes.Process, timeout: float = 240) -> str:
    """Waits for a process, expects success; returns what it printed."""
    try:
        out, err = started.communicate(timeout=timeout)
    finally:
        started.kill()
    assert started.returncode == 0, err[-3000:]
    return out


def weights(prefix: Path | str) -> dict[str, np.ndarray]:
    """Returns the model's variables in a checkpoint."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {
        name.removeprefix("model/").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(
            name
        )
        for name in names
    }


def assert_same_weights(first: Path, second: Path, only: str = "", rtol: float = 1e-5) -> None:
    ours, theirs = weights(first), weights(second)
    names = [name for name in theirs if only in name]
    assert names
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=1e-6, err_msg=name)


def rows(folder: Path, name: str = "metrics.csv") -> list[dict[str, float]]:
    """Returns the rows of a table that a run wrote."""
    with open(folder / name, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def results(folder: Path, name: str = "result.json") -> dict[str, float]:
    return json.loads((folder / name).read_text())


def summaries(folder: Path) -> dict[str, set[int]]:
    """Returns tag -> steps of the TensorBoard events directly in a folder."""
    found: dict[str, set[int]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, set()).add(event.step)
    return found


def write_folder(folder: Path, classes: dict[str, int]) -> Path:
    """Writes a folder of 12-pixel images: class name ('' for none) -> number of images."""
    from PIL import Image

    random = np.random.RandomState(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random.randint(0, 256, (12, 12, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder
