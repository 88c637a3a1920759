"""A folder of somebody's own images, from pretraining to features in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import processes
import pytest

from simclr_tf.run import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("half_as_deep")]

CLASSES = ("cats", "dogs", "owls")
ENCODER = ["--encoder=resnet", "--resnet_depth=18", "--width_multiplier=0.0625", "--image_size=8",
           "--proj_out_dim=16", "--num_proj_layers=2"]  # fmt: skip
RUN = [*ENCODER, "--mode=train_then_eval", "--train_batch_size=8", "--eval_batch_size=8",
       "--train_steps=3", "--warmup_epochs=0", "--learning_rate=0.1", "--train_split=train",
       "--eval_split=test", "--eval_fraction=0.2", "--eval_baselines=never"]  # fmt: skip
MLP = ["--encoder=mlp:48,32"]  # the other test trains a ResNet

# Four images: TensorFlow 2.21 on the CPU breaks down in the gradient of a strided 1x1 convolution
# of some odd batches (plain tf.nn.conv2d too; not with TF_ENABLE_ONEDNN_OPTS=0).
# What a user of the export runs; it has TensorFlow, and not this package.
FEATURES = """
import sys
import numpy as np, tensorflow as tf
for export in sys.argv[1:]:
    module = tf.saved_model.load(export)
    assert not any(name.split(".")[0] in ("simclr_tf", "tf_hub_export") for name in sys.modules)
    images = tf.constant(np.random.RandomState(0).rand(4, 8, 8, 3).astype("float32"))
    outputs = module(images, trainable=False)
    features = outputs["final_avg_pool"]
    assert features.shape == (4, 32) and np.isfinite(features).all()
    assert np.ptp(features.numpy(), axis=0).max() > 0, "all images have the same features"
    print(" ".join(sorted(outputs)))
    assert module.trainable_variables and module.trainable_variables_list
    with tf.GradientTape() as tape:
        outputs = module(images, trainable=True)
        used = [value for name, value in sorted(outputs.items())
                if name in ("logits_sup", "proj_head_output")]
        loss = tf.add_n([tf.reduce_mean(tf.square(value)) for value in used])
    gradients = tape.gradient(loss, module.trainable_variables)
    missing = [v.name for v, g in zip(module.trainable_variables, gradients) if g is None]
    assert not missing, missing
    assert all(np.isfinite(g.numpy()).all() for g in gradients)
    assert any(np.abs(g.numpy()).max() > 0 for g in gradients)
"""


def write_images(folder: Path, count: int, seed: int) -> None:
    """Writes PNG and JPEG files of mixed sizes and modes, one of them broken."""
    from PIL import Image

    random = np.random.RandomState(seed)
    folder.mkdir(parents=True)
    kinds = ("RGB png", "RGB jpg", "L png", "L jpeg", "RGBA png", "P png", "CMYK jpg", "1 png",
             "I;16 png", "LA PNG")  # fmt: skip
    for index in range(count):
        mode, extension = kinds[index % len(kinds)].split()
        height, width = random.randint(9, 60, 2)
        path = folder / f"picture {index}.{extension}"
        if mode == "I;16":
            deep = random.randint(0, 2**16, (height, width)).astype("uint16")
            Image.fromarray(deep).save(path)
            continue
        pixels = random.randint(0, 256, (height, width, 3)).astype("uint8")
        Image.fromarray(pixels).convert(mode).save(path)
    (folder / "broken.jpg").write_bytes((folder / "picture 1.jpg").read_bytes()[:60])
    (folder / "notes.txt").write_text("not an image")


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command in the test's folder; returns what it said on both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["simclr-tf", *RUN, *arguments]) == 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out + err

    return run


def endpoints(folder: Path, *exports: str) -> list[list[str]]:
    """Extracts features and gradients in a process that does not import this package."""
    (folder / "features.py").write_text(FEATURES)
    done = processes.run("features.py", *exports, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()]


def results(path: Path) -> dict[str, float]:
    return json.loads((path / "result.json").read_text())


@pytest.mark.second_lane
def test_labelled_images(tmp_path: Path, command: Callable[..., str]) -> None:
    for seed, name in enumerate(CLASSES):
        write_images(tmp_path / "photos" / name, 12, seed)
    said = command("--dataset=./photos", "--model_dir=pretrained")
    assert "3 classes" in said and "broken.jpg" in said
    found = results(tmp_path / "pretrained")
    assert 0 <= found["eval/label_top_1_accuracy"] <= 1 and found["global_step"] == 3
    said = command(
        "--dataset=./photos", "--model_dir=tuned", "--train_mode=finetune",
        "--checkpoint=pretrained", "--fine_tune_after_block=2", "--zero_init_logits_layer",
    )  # fmt: skip
    assert "Starting from pretrained" in said
    assert results(tmp_path / "tuned")["global_step"] == 3
    found = endpoints(tmp_path, *(f"{run}/saved_model/3" for run in ("pretrained", "tuned")))
    assert len(found) == 2 and all("logits_sup" in names for names in found)


@pytest.mark.one_lane
def test_unlabelled_images_then_few_labels(tmp_path: Path, command: Callable[..., str]) -> None:
    """Pretraining on images without labels, fine-tuning on a folder of classes."""
    write_images(tmp_path / "all", 30, 0)
    for seed, name in enumerate(CLASSES):
        write_images(tmp_path / "sorted" / name, 10, seed)
    said = command("--dataset=all", *MLP, "--model_dir=pretrained")
    assert "no labels" in said and "No accuracy" in said
    assert "eval/contrast_loss" in results(tmp_path / "pretrained")
    said = command(
        "--dataset=sorted", *MLP, "--model_dir=tuned", "--train_mode=finetune",
        "--checkpoint=pretrained/saved_model/3", "--ft_proj_selector=1",
    )  # fmt: skip
    assert "Starting from pretrained/saved_model/3" in said
    assert "eval/label_top_1_accuracy" in results(tmp_path / "tuned")
    pretrained, tuned = endpoints(tmp_path, "pretrained/saved_model/3", "tuned/saved_model/3")
    assert "logits_sup" not in pretrained and "logits_sup" in tuned
