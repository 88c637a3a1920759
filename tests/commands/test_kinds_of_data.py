"""The command on other data than the digits: without labels, a folder of few images, a TFDS set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import (
    TUNE,
    Command,
    assert_same_weights,
    command,
    no_exports,
    results,
    working_folder,
    write_folder,
)

pytestmark = pytest.mark.one_lane  # data and plans; what Keras makes of them is asked elsewhere

__all__ = ["command", "no_exports", "working_folder"]  # fixtures


def test_pretraining_without_labels(command: Command, working_folder: Path) -> None:
    folder = write_folder(working_folder / "photos", {"": 24})
    said = command(
        f"--dataset={folder}", "--train_split=train", "--eval_split=test", "--eval_fraction=0.3",
        "--mode=train_then_eval", "--model_dir=run", "--train_steps=1", "--eval_baselines=always",
    )  # fmt: skip
    assert "17 images" in said and "no labels" in said and "No accuracy" in said
    found = results(working_folder / "run")
    assert {"eval/contrast_loss", "eval/contrast_acc", "eval/contrast_entropy"} < set(found)
    assert all(math.isfinite(value) for value in found.values())
    module = tf.saved_model.load("run/saved_model/1")
    assert "logits_sup" not in module(tf.zeros([1, 8, 8, 3]), trainable=False)


@pytest.mark.one_lane
@pytest.mark.slow
@pytest.mark.parametrize("classes", [{"cats": 30}, {"cats": 20, "dogs": 2}, {"a": 2, "b": 2}])
def test_small_folders_are_compared_or_not(
    command: Command, no_exports: None, working_folder: Path, classes: dict[str, int]
) -> None:
    """One class, a rare class, fewer images than neighbours: no crash at the end of a run."""
    write_folder(working_folder / "photos", classes)
    said = command(
        "--dataset=./photos", "--train_split=train", "--eval_split=test", "--train_steps=1",
        "--train_batch_size=2", "--mode=train_then_eval", "--model_dir=run",
        "--eval_baselines=always",
    )  # fmt: skip
    assert "raw pixels" in said or (len(classes) == 1 and "No accuracy" in said)
    assert results(working_folder / "run")["global_step"] == 1


def test_decoded_images_on_disk_serve_every_run(
    command: Command, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(working_folder / "home"))
    folder = write_folder(working_folder / "photos", {"cats": 20, "dogs": 20})
    data = [*TUNE, f"--dataset={folder}", "--train_split=train", "--image_size=4",
            "--train_steps=4"]  # fmt: skip
    on_disk = [*data, "--cache_dataset=disk", "--cache_dir=kept"]
    planned = command(*on_disk, "--dry_run")
    assert "a run would first write them to kept/photos-6-" in planned
    assert not (working_folder / "kept").exists()
    said = command(*on_disk, "--model_dir=first")
    assert "Decoding 36 images of" in said and "once, into kept/photos-6-" in said
    assert "Using 36 decoded images in kept/" in command(*on_disk, "--model_dir=second")
    assert len(list((working_folder / "kept").iterdir())) == 1
    # Alone the flag means memory, and each gives the same batches.
    command(*data, "--cache_dataset", "--model_dir=third")
    for other in ("second", "third"):
        assert_same_weights(Path("first/ckpt-4"), Path(f"{other}/ckpt-4"))
    assert not (working_folder / "home").exists()
    (working_folder / "kept" / "file").write_text("")
    refused = command(*data, "--cache_dataset=disk", "--cache_dir=kept/file/x", code=2)
    assert "place for decoded images" in refused and "Not a directory" in refused


def test_prepared_tfds_data_set(command: Command, no_exports: None, working_folder: Path) -> None:
    """With the default seed, by name, from --data_dir, offline."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Spots(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> tfds.core.DatasetInfo:
                label = tfds.features.ClassLabel(names=["dark", "bright"])
                features = {"image": tfds.features.Image(shape=(12, 12, 1)), "label": label}
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, manager: object) -> dict:
                return {"train": self._generate_examples(40), "test": self._generate_examples(16)}

            def _generate_examples(self, count: int) -> Iterator[tuple[int, dict]]:
                for index in range(count):
                    image = np.full((12, 12, 1), 200 * (index % 2), "uint8")
                    yield index, {"image": image, "label": index % 2}

        Spots.name = "spots"
        Spots(data_dir=str(working_folder / "data")).download_and_prepare()
    said = command(
        *TUNE, "--dataset=spots:1.0.0", "--data_dir=data", "--train_split=train",
        "--eval_split=test", "--mode=train_then_eval", "--model_dir=run", "--train_steps=2",
    )  # fmt: skip
    assert "40 images" in said and "2 classes" in said
    assert results(working_folder / "run")["global_step"] == 2
