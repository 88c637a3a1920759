"""Scenes of digits and a segmenter on the pyramid of endpoints: pretrained against from scratch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fresh_python import run_module_without_tensorflow
from tensorflow import keras

from simclr_tf.datasets import open_source
from simclr_tf.errors import UserError
from simclr_tf.examples import segmentation
from simclr_tf.examples.scenes import make_scenes
from simclr_tf.examples.segment import main
from simclr_tf.examples.segmentation import (
    compare,
    mean_iou,
    pyramid_segmenter,
    segment,
    train_segmenter,
)
from simclr_tf.models.encoders import make_encoder, wrap_encoder
from simclr_tf.models.resnet import ResNet
from simclr_tf.run import main as train

pytestmark = pytest.mark.usefixtures("half_as_deep")

TINY = ["--dataset=mnist_5k", "--train_split=train[:64]", "--eval_split=test[:32]",
        "--image_size=8", "--encoder=resnet", "--resnet_depth=18", "--width_multiplier=0.125",
        "--proj_head_mode=none", "--augmentations=crop", "--train_batch_size=16",
        "--eval_batch_size=16", "--train_steps=1", "--warmup_epochs=0", "--learning_rate=0.1",
        "--eval_baselines=never", "--mode=train_then_eval"]  # fmt: skip
SHORT = ["--scenes=4", "--test_scenes=2", "--steps=1", "--batch_size=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(["simclr-tf", *TINY, f"--model_dir={folder}"]) == 0
    return folder


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Runs the command in a folder of its own, expects an exit code; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["segment", f"--saved_model={trained}", *SHORT, *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert not code or err.splitlines()[-1].startswith("simclr_tf.examples.segment: error: ")
        return err if code else out

    return run


# Scenes.


@pytest.mark.one_lane
def test_scenes_follow_the_seed() -> None:
    scenes = make_scenes("train[:50]", 6, side=64, digit_side=20, seed=3)
    images, classes = scenes.images, scenes.classes
    assert images.shape == (6, 64, 64, 3) and images.dtype == np.uint8
    assert classes.shape == (6, 64, 64) and classes.dtype == np.int32
    fewer = make_scenes("train[:50]", 2, side=64, digit_side=20, seed=3)
    for part, whole in zip(fewer, scenes, strict=True):
        np.testing.assert_array_equal(part, whole[:2])
    assert (make_scenes("train[:50]", 6, 64, digit_side=20, seed=4).classes != classes).any()
    assert not (classes[0] == classes[1]).all()


@pytest.mark.one_lane
def test_every_class_is_where_its_ink_is() -> None:
    images, classes, boxes, labels = make_scenes("train[:50]", 20, 64, digit_side=20, seed=0)
    grey, ink = images[..., 0], classes > 0
    assert grey[ink].min() >= 102 and grey[~ink].max() <= 102  # 0.4 * 255, rounded
    assert set(np.unique(classes)) == set(range(11))
    assert 0.02 < (classes > 0).mean() < 0.4
    # Most scenes hold several digits: between 2 and 5 are drawn.
    kinds = [len(np.unique(scene)) - 1 for scene in classes]
    assert max(kinds) <= 5 and np.mean([kind >= 2 for kind in kinds]) > 0.7
    # Every pixel of a digit lies in a box of its class, and the last box is its digit's exactly:
    # nothing covers that one.
    for scene, known, digits in zip(classes, boxes, labels, strict=True):
        count = int((digits >= 0).sum())
        assert 1 <= count <= 5 and (digits[:count] >= 0).all() and not known[count:].any()
        inside = np.zeros_like(scene)
        for (top, left, bottom, right), digit in zip(known.astype(int), digits, strict=True):
            window = scene[top:bottom, left:right]
            inside[top:bottom, left:right] |= window == 1 + digit
        np.testing.assert_array_equal(inside > 0, scene > 0)
        top, left, bottom, right = known[count - 1].astype(int)
        window = scene[top:bottom, left:right] == 1 + digits[count - 1]
        for edge in (window[0], window[-1], window[:, 0], window[:, -1]):
            assert edge.any()


@pytest.mark.one_lane
def test_a_scene_of_one_kind_has_its_class_alone() -> None:
    """Digits of the class that a split holds, and nothing else, are in its scenes."""
    labels = open_source("mnist_5k", "train").read_labels()
    for index in range(3):
        classes = make_scenes(
            f"train[{index}:{index + 1}]", 2, side=48, digit_side=16, seed=0
        ).classes
        assert set(np.unique(classes)) == {0, 1 + labels[index]}


# The score.


@pytest.mark.one_lane
def test_mean_iou_equals_loops() -> None:
    random = np.random.RandomState(0)
    found, classes = random.randint(0, 4, (2, 3, 5, 5))
    found[found == 3], classes[classes == 3] = 2, 1  # class 3 is absent
    values = []
    for k in (1, 2):
        both = either = 0
        for f, c in zip(found.ravel(), classes.ravel(), strict=True):
            both += f == k and c == k
            either += f == k or c == k
        values.append(both / either)
    assert mean_iou(found, classes, 5) == pytest.approx(sum(values) / 2)
    assert mean_iou(classes, classes, 5) == 1.0


# The network.


@pytest.mark.parametrize(
    ("encoder", "sizes"),
    [
        (lambda: ResNet(18, 0.125), [2, 4, 8, 16, 32]),
        (lambda: ResNet(18, 0.125, cifar_stem=True), [4, 8, 16, 32]),
        (lambda: make_encoder("MobileNet", image_size=64), None),
    ],
    ids=["ResNet", "small images", "keras.applications"],
)
def test_gradients_reach_every_level(encoder: Callable, sizes: list[int] | None) -> None:
    network = encoder()
    # Not 64 for small images: TensorFlow on the CPU breaks down in the gradient of a strided 1x1
    # convolution of 64 x 64 maps with 8 channels (plain tf.nn.conv2d too).
    side = sizes[-1] if sizes is not None and sizes[0] == 4 else 64
    model = pyramid_segmenter(network, side=side, num_classes=11)
    images = tf.random.stateless_uniform([2, side, side, 3], [0, 0])
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.square(logits))
    assert logits.shape == (2, side, side, 11) and logits.dtype == tf.float32
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(g is not None for g in gradients)
    if sizes is not None:
        laterals = [layer for layer in model.layers if isinstance(layer, keras.layers.Resizing)]
        # One enlargement a level beyond the coarsest, and the last to the image's size.
        assert [layer.height for layer in laterals] == [*sizes[1:], side]


@pytest.mark.second_lane
def test_encoder_is_shared_and_unfrozen() -> None:
    network = ResNet(18, 0.125, cifar_stem=True)
    for layer in network.layers[:10]:
        layer.trainable = False
    model = pyramid_segmenter(network, side=32, num_classes=3)
    assert len(network.trainable_variables) > 30
    kernel = network.trainable_variables[0]
    before = np.array(kernel)
    images = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype("uint8")
    train_segmenter(model, images, images[..., 0] // 100, steps=1, batch_size=2, seed=0)
    assert not np.array_equal(before, np.array(kernel))


@pytest.mark.one_lane  # both lanes train one step and more, in the tests beside it
def test_segmenter_learns_what_it_sees() -> None:
    """Bright, middle and dark squares: their grey value is their class."""
    random = np.random.RandomState(0)
    classes = np.repeat(np.repeat(random.randint(0, 3, (8, 4, 4)), 8, 1), 8, 2).astype(np.int32)
    images = np.repeat((100 * classes)[..., None], 3, -1).astype(np.uint8)
    model = pyramid_segmenter(ResNet(18, 0.125, cifar_stem=True), side=32, num_classes=3)
    before = mean_iou(segment(model, images, 4), classes, 3)
    train_segmenter(model, images, classes, steps=30, batch_size=4, seed=0)
    after = mean_iou(segment(model, images, 4), classes, 3)
    assert after > 0.6 and after > before + 0.2


def test_no_pyramid_is_refused() -> None:
    with pytest.raises(UserError, match="feature maps of several resolutions"):
        pyramid_segmenter(make_encoder("mlp:16", image_size=16), side=16, num_classes=3)
    # A scene is larger than the images of the pretraining.
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(2, 3, strides=2)(images)
    convolutional = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    for encoder in (make_encoder("mlp:16", image_size=32), wrap_encoder(convolutional)):
        with pytest.raises(UserError, match="takes 32 x 32 alone"):
            pyramid_segmenter(encoder, side=96, num_classes=3)


# The command.


@pytest.mark.one_lane
def test_every_source_of_an_encoder(
    command: Callable[..., str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks are trained once; every other source brings the same encoder to that point."""
    brought, results = [], []

    def compare_once(encoder: keras.Model, *arguments: Any, **settings: Any) -> Any:
        brought.append(encoder.get_weights())  # a copy: training changes the encoder
        if not results:
            results.append(compare(encoder, *arguments, **settings))
            return results[0]
        side = results[0].images.shape[1]
        model = pyramid_segmenter(encoder, side=side, num_classes=11)
        assert np.isfinite(model(results[0].images[:2], training=False)).all()
        return results[0]

    monkeypatch.setattr(segmentation, "compare", compare_once)
    for number, source in enumerate(("", "saved_model/1", "ckpt-1")):
        said = command(f"--saved_model={trained / source}", f"--output={number}.png")
        scores = [float(value) for value in re.findall(r"(\d\.\d+) (?:pretrained|from)", said)]
        assert len(scores) == 2 and all(0 <= score <= 1 for score in scores)
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    for weights in brought[1:]:
        assert len(weights) == len(brought[0]) > 50
        for ours, first in zip(weights, brought[0], strict=True):
            np.testing.assert_array_equal(ours, first)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--saved_model=nowhere"], "nowhere"),
        (["--batch_size=3"], "even --batch_size of at most 4"),
        (["--batch_size=8"], "even --batch_size of at most 4"),
        (["--steps=0"], "--steps of at least 1"),
        (["--digit_size=0"], "--digit_size of at least 1"),
        (["--output=segments.gif"], "end in .png"),
        (["--output=mine.png"], "does not exist; received: 'mine.png'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_arguments(
    command: Callable[..., str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "mine.png").write_text("mine")
    assert expected in command(*arguments, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.png").read_text() == "mine"


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--steps=0"], 2)])
def test_help_and_missing_arguments_import_no_tensorflow(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    module = "simclr_tf.examples.segment"
    done = run_module_without_tensorflow(tmp_path, module, *arguments)
    assert done.returncode == code and "--saved_model" in done.stdout + done.stderr
    assert "imported" not in done.stderr
