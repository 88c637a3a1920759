"""Boxes: targets, decoding, loss and average precision against loops, the command as typed."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from fresh_python import run_module_without_tensorflow
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow import keras

from simclr_tf.examples.average_precision import average_precision
from simclr_tf.examples.boxes import Found, assign_targets, decode, generalized_iou
from simclr_tf.examples.detect import main
from simclr_tf.examples.detection import (
    detect,
    detection_loss,
    pyramid_detector,
    train_detector,
)
from simclr_tf.examples.scenes import Scenes, make_scenes
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.resnet import ResNet
from simclr_tf.training.simclr import SimCLR

pytestmark = pytest.mark.usefixtures("half_as_deep")

SHORT = ["--scenes=4", "--test_scenes=2", "--steps=1", "--batch_size=2"]


def some_boxes(random: np.random.RandomState, *shape: int) -> np.ndarray:
    """Boxes of 4 to 24 pixels within 32."""
    sides = random.uniform(4, 24, (*shape, 2))
    corners = random.uniform(0, 32 - sides)
    return np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)


def small_encoder() -> keras.Model:
    images = keras.Input((None, None, 3))
    x = images
    for width in (8, 16, 32):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def iou(first: np.ndarray, second: np.ndarray) -> float:
    height = min(first[2], second[2]) - max(first[0], second[0])
    width = min(first[3], second[3]) - max(first[1], second[1])
    both = max(0.0, height) * max(0.0, width)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return both / (sum(areas) - both)


def perfect(targets: np.ndarray, classes: int) -> np.ndarray:
    """What a detector would say that knows the targets."""
    ids, distances, centred = targets[..., 0], targets[..., 1:5], targets[..., 5:]
    logits = np.where(np.arange(classes) == ids[..., None], 12.0, -12.0)
    centred = np.clip(centred, 1e-4, 1 - 1e-4)
    outputs = [logits, distances, np.log(centred / (1 - centred))]
    return np.concatenate(outputs, axis=-1).astype(np.float32)


def found_in(outputs: np.ndarray, stride: int) -> Found:
    return Found(*(np.asarray(part) for part in decode(tf.constant(outputs), stride)))


# Targets.


@pytest.mark.one_lane
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_targets_equal_a_loop(seed: int) -> None:
    random = np.random.RandomState(seed)
    boxes, labels = some_boxes(random, 2, 3), random.randint(-1, 4, (2, 3))
    targets = assign_targets(boxes, labels, size=8, stride=4)
    for n, i, j in np.ndindex(2, 8, 8):
        y, x = 4 * i + 2, 4 * j + 2
        best, wanted = np.inf, [-1, 0, 0, 0, 0, 0]
        for (top, left, bottom, right), label in zip(boxes[n], labels[n], strict=True):
            area = (bottom - top) * (right - left)
            near = max(abs(y - (top + bottom) / 2), abs(x - (left + right) / 2)) <= 6
            if label >= 0 and top < y < bottom and left < x < right and near and area < best:
                t, l, b, r = y - top, x - left, bottom - y, right - x  # noqa: E741
                centred = np.sqrt(min(t, b) / max(t, b) * min(l, r) / max(l, r))
                best, wanted = area, [label, t / 4, l / 4, b / 4, r / 4, centred]
        np.testing.assert_allclose(targets[n, i, j], wanted, atol=1e-4)


def test_a_perfect_prediction_decodes_to_every_box() -> None:
    scenes = make_scenes("test[:50]", 8, side=64, digit_side=20, seed=1)
    targets = assign_targets(scenes.boxes, scenes.labels, size=16, stride=4)
    outputs = perfect(targets, 10)
    found = found_in(outputs, 4)
    assert average_precision(scenes.boxes, scenes.labels, found) == (1.0, 1.0)
    for boxes, labels, n in zip(scenes.boxes, scenes.labels, range(8), strict=True):
        count = int((labels >= 0).sum())
        assert found.counts[n] == count
        order = [np.lexsort(part[:count].T) for part in (boxes, found.boxes[n])]
        np.testing.assert_allclose(boxes[order[0]], found.boxes[n][order[1]], atol=1e-3)
        np.testing.assert_array_equal(labels[order[0]], found.labels[n][order[1]])
    # Another class is wrong; another place is too, sooner for the stricter mean.
    others = np.where(scenes.labels < 0, -1, (scenes.labels + 1) % 10)
    assert average_precision(scenes.boxes, others, found).at_half < 0.5
    moved = average_precision(scenes.boxes + 1, scenes.labels, found)
    assert 0.2 < moved.over_ious < moved.at_half


def test_of_overlapping_boxes_of_a_class_the_best_is_kept() -> None:
    outputs = np.full((1, 8, 8, 7), -12.0, np.float32)
    outputs[..., 2:6] = 3.0  # boxes of 6 strides
    outputs[..., 6] = 12.0
    outputs[0, 4, 4, 0], outputs[0, 4, 5, 0], outputs[0, 4, 4, 1] = 3.0, 2.0, 1.0
    found = found_in(outputs, 4)
    assert found.counts[0] == 2 and found.labels[0, :2].tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes[0, :2], [[6, 6, 30, 30]] * 2)
    wanted = 1 / np.sqrt(1 + np.exp([-3.0, -1.0]))
    np.testing.assert_allclose(found.scores[0, :2], wanted, atol=1e-4)


# Average precision.


def slow_average_precision(
    boxes: np.ndarray, labels: np.ndarray, found: Found, least: float
) -> float:
    """By the words of the COCO page: greedy matches, 101 recalls, a mean over classes."""
    values = []
    for label in np.unique(labels[labels >= 0]):
        guesses = [
            (found.scores[n, k], n, found.boxes[n, k])
            for n, count in enumerate(found.counts)
            for k in range(count)
            if found.labels[n, k] == label
        ]
        free = {(n, m) for n, m in np.argwhere(labels == label).tolist()}
        total, right = len(free), []
        for _, n, box in sorted(guesses, key=lambda guess: -guess[0]):
            near = [(iou(box, boxes[n, m]), m) for k, m in free if k == n]
            best = max(near, default=(0.0, -1))
            right.append(best[0] >= least)
            if right[-1]:
                free.remove((n, best[1]))
        precision = [sum(right[:k]) / k for k in range(1, len(right) + 1)]
        recall = [sum(right[:k]) / total for k in range(1, len(right) + 1)]
        points = []
        for wanted in np.linspace(0, 1, 101):
            reached = [p for p, r in zip(precision, recall, strict=True) if r >= wanted - 1e-9]
            points.append(max(reached, default=0.0))
        values.append(np.mean(points))
    return float(np.mean(values))


@pytest.mark.one_lane
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_average_precision_equals_a_loop(seed: int) -> None:
    random = np.random.RandomState(seed)
    boxes, labels = some_boxes(random, 4, 3), random.randint(-1, 3, (4, 3))
    labels[0, 0] = 0
    # Each box twice, a little off, often of the right class; and some anywhere.
    guesses = np.concatenate([boxes, boxes, some_boxes(random, 4, 2)], axis=1)
    guesses += random.normal(0, 1, guesses.shape)
    names = np.concatenate([labels, labels, random.randint(0, 4, (4, 2))], axis=1)
    names = np.where((random.rand(*names.shape) < 0.3) | (names < 0), 1, names)
    scores = random.permutation(names.size).reshape(names.shape) / names.size
    found = Found(guesses, scores, names, np.array([8, 5, 0, 8]))
    scored = average_precision(boxes, labels, found)
    ious = [slow_average_precision(boxes, labels, found, t) for t in np.linspace(0.5, 0.95, 10)]
    assert scored.at_half == pytest.approx(ious[0], abs=1e-6)
    assert scored.over_ious == pytest.approx(np.mean(ious), abs=1e-6)


def test_average_precision_of_known_cases() -> None:
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], np.float32)
    labels = np.array([[3, 3]])

    def score(guesses: list, scores: list) -> tuple[float, float]:
        count = len(scores)
        found = Found(np.array([guesses]), np.array([scores]), np.full((1, count), 3),
                      np.array([count]))  # fmt: skip
        return average_precision(boxes, labels, found)

    assert score([[0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.8]) == (1.0, 1.0)
    # IoU 0.7: found at five of ten thresholds. The other box is missed: 51 of 101 recalls.
    over, half = score([[0, 0, 10, 7]], [0.9])
    assert half == pytest.approx(51 / 101) and over == pytest.approx(0.5 * half, abs=1e-3)
    # One wrong box of higher score halves the precision; of lower score it costs nothing.
    right = [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert score([*right, [0, 20, 9, 30]], [0.9, 0.8, 0.7])[1] == 1.0
    assert score([*right, [0, 20, 9, 30]], [0.8, 0.7, 0.9])[1] == pytest.approx(2 / 3)
    assert score([], []) == (0.0, 0.0)
    with pytest.raises(ValueError, match="boxes to score against"):
        average_precision(boxes, np.full((1, 2), -1), Found(*np.zeros((3, 1, 0)), np.zeros(1, int)))


# Loss and network.


def test_generalised_iou_equals_boxes_in_a_plane() -> None:
    random = np.random.RandomState(0)
    first, second = random.uniform(0.1, 3, (2, 20, 4)).astype(np.float32)
    signs = np.array([-1, -1, 1, 1])
    for ours, one, other in zip(generalized_iou(first, second).numpy(), first, second, strict=True):
        around = np.maximum(one, other)
        hull = (around[0] + around[2]) * (around[1] + around[3])
        areas = [(b[0] + b[2]) * (b[1] + b[3]) for b in (one, other)]
        plain = iou(signs * one, signs * other)
        either = sum(areas) / (1 + plain)
        assert ours == pytest.approx(plain - (hull - either) / hull, abs=1e-5)
    assert generalized_iou(tf.zeros([4]), tf.zeros([4])).numpy() == 0


def test_loss_equals_a_loop() -> None:
    random = np.random.RandomState(0)
    boxes, labels = some_boxes(random, 2, 3), random.randint(0, 3, (2, 3))
    targets = assign_targets(boxes, labels, size=8, stride=4)
    outputs = random.normal(0, 1, (2, 8, 8, 8)).astype(np.float32)
    outputs[..., 3:7] = np.abs(outputs[..., 3:7]) + 0.1
    count = (targets[..., 0] >= 0).sum()
    focal = entropy = apart = weights = 0.0
    overlaps = generalized_iou(targets[..., 1:5], outputs[..., 3:7]).numpy()
    for place in np.ndindex(2, 8, 8):
        label, centred = int(targets[place][0]), targets[place][5]
        for k in range(3):
            p = 1 / (1 + np.exp(-outputs[place][k]))
            focal -= 0.25 * (1 - p) ** 2 * np.log(p) if k == label else 0.75 * p**2 * np.log(1 - p)
        if label >= 0:
            p = 1 / (1 + np.exp(-outputs[place][7]))
            entropy -= centred * np.log(p) + (1 - centred) * np.log(1 - p)
            apart += centred * (1 - overlaps[place])
            weights += centred
    wanted = focal / count + apart / weights + entropy / count
    assert detection_loss(targets, outputs).numpy() == pytest.approx(wanted, rel=1e-4)
    empty = assign_targets(boxes, np.full((2, 3), -1), size=8, stride=4)
    assert 0 < detection_loss(empty, outputs).numpy() < np.inf
    # What is right costs next to nothing but the entropy of centre-ness itself.
    right = perfect(targets, 3)
    centred = targets[..., 5][targets[..., 0] >= 0].astype(np.float64)
    of_itself = -(np.log(centred) * centred + np.log1p(-centred) * (1 - centred))
    assert detection_loss(targets, right).numpy() == pytest.approx(np.mean(of_itself), abs=0.01)


def test_gradients_reach_encoder_and_every_output() -> None:
    keras.utils.set_random_seed(0)
    network = ResNet(18, 0.125)
    model = pyramid_detector(network, side=64, num_classes=3)
    assert model.output_shape == (None, 16, 16, 8)
    small = pyramid_detector(ResNet(18, 0.125, cifar_stem=True), side=32, num_classes=3)
    assert small.output_shape == (None, 8, 8, 8)
    boxes, labels = some_boxes(np.random.RandomState(0), 2, 3), np.array([[0, 1, 2], [2, -1, -1]])
    targets = assign_targets(boxes, labels, size=16, stride=4)
    images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 0])
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = detection_loss(targets, outputs)
    assert outputs.dtype == tf.float32 and outputs[..., 3:7].numpy().min() >= 0
    assert tf.sigmoid(outputs[..., :3]).numpy().mean() < 0.05  # few locations hold anything
    gradients = tape.gradient(loss, model.trainable_variables)
    # Every level takes part: the stem is finer than the map, but the others are made of it.
    assert all(g is not None for g in gradients)
    ours = {id(v) for v in model.trainable_variables}
    assert all(id(v) in ours for v in network.trainable_variables)


@pytest.mark.one_lane  # both lanes train one step and more, in the command below
def test_detector_learns_what_it_sees() -> None:
    """Bright and dark squares: their grey value is their class."""
    random = np.random.RandomState(0)
    images = np.zeros((8, 32, 32, 3), np.uint8)
    boxes, labels = np.zeros((8, 2, 4), np.float32), random.randint(0, 2, (8, 2))
    for n in range(8):
        for k in range(2):
            top, left = random.randint(0, 5), 16 * k + random.randint(0, 5)
            boxes[n, k] = top, left, top + 11, left + 11
            images[n, top : top + 11, left : left + 11] = 120 + 120 * labels[n, k]
    scenes = Scenes(images, images[..., 0], boxes, labels)
    keras.utils.set_random_seed(0)
    model = pyramid_detector(small_encoder(), side=32, num_classes=2)
    train_detector(model, scenes, steps=60, batch_size=8, seed=0)
    assert average_precision(boxes, labels, detect(model, images, 8)).at_half > 0.6


# The command.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose encoder is as small as one with a pyramid can be."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    SimCLR(small_encoder(), ProjectionHead(mode="none")).save(path)
    return path


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Runs the command in a folder of its own, expects an exit code; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["detect", "--saved_model=nowhere", *SHORT, *arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert not code or err.splitlines()[-1].startswith("simclr_tf.examples.detect: error: ")
        return err if code else out

    return run


def test_the_command_scores_and_draws(
    command: Callable[..., str], saved: Path, tmp_path: Path
) -> None:
    said = command(f"--saved_model={saved}", "--digit_size=20", "--output=boxes.png")
    scores = [float(value) for value in re.findall(r"(\d\.\d+) (?:pretrained|from scratch)", said)]
    assert len(scores) == 4 and all(0 <= score <= 1 for score in scores)
    assert "AP@[.5:.95]" in said and "AP50" in said and "Wrote boxes.png." in said
    with Image.open(tmp_path / "boxes.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nowhere"),
        (["--batch_size=3"], "even --batch_size of at most 4"),
        (["--test_scenes=0"], "--test_scenes of at least 1"),
        (["--output=boxes.gif"], "end in .png"),
        (["--output=mine.png"], "does not exist; received: 'mine.png'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_wrong_arguments(
    command: Callable[..., str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "mine.png").write_text("mine")
    assert expected in command(*arguments, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


@pytest.mark.one_lane
def test_a_missing_package_is_named_before_work_begins(
    command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "pycocotools" else find(name, *more),
    )
    assert "pip install 'simclr-tf[detection]'" in command(code=2)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--steps=0"], 2)])
def test_help_and_missing_arguments_import_no_tensorflow(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    done = run_module_without_tensorflow(tmp_path, "simclr_tf.examples.detect", *arguments)
    assert done.returncode == code and "--saved_model" in done.stdout + done.stderr
    assert "imported" not in done.stderr
