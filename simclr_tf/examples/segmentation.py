"""A small segmenter on an encoder's pyramid of endpoints: pretrained compared with from scratch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.examples.arguments import TEST_SEED
from simclr_tf.examples.pictures import save_figure
from simclr_tf.examples.pyramid import convolution, feature_pyramid
from simclr_tf.examples.scene_training import (
    beside_scratch,
    outputs_of,
    scene_side,
    train_on_scenes,
)
from simclr_tf.examples.scenes import NUM_CLASSES, make_scenes

_BACKGROUND = 0.1  # weight of a background pixel; nine of ten are
_DRAWN = 4


class Comparison(NamedTuple):
    """How two networks of one architecture segment the same test scenes.

    Attributes:
        pretrained: Mean IoU over the ten digits, in [0, 1], of the pretrained one.
        scratch: That of the one from random weights.
        images: uint8 (N, s, s, 3), the test scenes.
        classes: int32 (N, s, s), their true classes.
        found: The two networks' predictions, int32 (N, s, s) each.
    """

    pretrained: float
    scratch: float
    images: np.ndarray
    classes: np.ndarray
    found: tuple[np.ndarray, np.ndarray]


def compare(
    encoder: keras.Model,
    digit_side: int,
    *,
    scenes: int = 100,
    test_scenes: int = 100,
    steps: int = 200,
    batch_size: int = 16,
    seed: int = 0,
) -> Comparison:
    """Trains the same segmenter from a pretrained encoder and from a fresh one.

    Both see the same scenes in the same order with the same settings; nothing is frozen.

    Args:
        encoder: The pretrained one; it is trained further, in place.
        digit_side: Size of the digits: the side in pixels of the images of its pretraining.
        scenes: Labelled scenes to train on, of digits of the training split.
        test_scenes: Scenes to score on, of digits of the test split.
        steps: Training steps.
        batch_size: Scenes a step; even, at most `scenes`.
        seed: Draws scenes, order and fresh weights.

    Returns:
        A `Comparison`.

    Raises:
        UserError: The encoder has no pyramid.

    Example:
        >>> compare(simclr.encoder, digit_side=40, scenes=50).pretrained
    """
    side = scene_side(digit_side)
    train = make_scenes("train", scenes, side, digit_side, seed)
    test = make_scenes("test", test_scenes, side, digit_side, TEST_SEED)

    def predict(network: keras.Model) -> np.ndarray:
        model = pyramid_segmenter(network, side, NUM_CLASSES)
        images, classes = train.images, train.classes
        train_segmenter(model, images, classes, steps=steps, batch_size=batch_size, seed=seed)
        return segment(model, test.images, batch_size)

    found = beside_scratch(encoder, seed, predict)
    scores = [mean_iou(classes, test.classes, NUM_CLASSES) for classes in found]
    return Comparison(scores[0], scores[1], test.images, test.classes, found)


def pyramid_segmenter(encoder: keras.Model, side: int, num_classes: int) -> keras.Model:
    """Builds a feature pyramid network on an encoder, with the class of every pixel as its output.

    A 3x3 convolution and a linear layer on the finest map of `feature_pyramid` give the classes,
    enlarged to the image's size.

    Args:
        encoder: Images (N, h, w, c) to features; its layers are shared, not copied.
        side: Height and width of the images in pixels.
        num_classes: Classes of a pixel, background included.

    Returns:
        A model from images in [0, 1], (N, side, side, c), to logits (N, side, side, num_classes).

    Raises:
        UserError: The encoder has no feature maps of several resolutions.

    Example:
        >>> model = pyramid_segmenter(ResNet(18), side=128, num_classes=11)
    """
    images, x = feature_pyramid(encoder, side)
    x = keras.layers.Conv2D(num_classes, 1, dtype="float32")(convolution(x, 3))
    logits = keras.layers.Resizing(side, side, interpolation="bilinear", dtype="float32")(x)
    return keras.Model(images, logits, name="segmenter")


def train_segmenter(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Trains by cross-entropy over all pixels, background ones at a tenth.

    Args:
        model: As `pyramid_segmenter` makes it.
        images: uint8 (N, s, s, c).
        classes: int32 (N, s, s).
        steps: Training steps.
        batch_size: Scenes a step.
        seed: Draws the order.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = np.where(classes > 0, 1.0, _BACKGROUND).astype(np.float32)
    train_on_scenes(
        model, loss, images, classes, weights, steps=steps, batch_size=batch_size, seed=seed
    )


def segment(model: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the likeliest class of every pixel, int32 (N, s, s), of images uint8 (N, s, s, c)."""
    found = [tf.argmax(x, -1, tf.int32).numpy() for x in outputs_of(model, images, batch_size)]
    return np.concatenate(found)


def mean_iou(found: np.ndarray, classes: np.ndarray, num_classes: int) -> float:
    """Returns intersection over union, as a mean over the classes but background (class 0).

    Args:
        found: int (N, h, w), predictions.
        classes: int (N, h, w), true classes.
        num_classes: Background included.

    Returns:
        In [0, 1]; classes that occur in neither are left out.

    Example:
        >>> mean_iou(np.array([[[0, 1]]]), np.array([[[1, 1]]]), num_classes=2)
        0.5
    """
    pairs = num_classes * classes.ravel().astype(np.int64) + found.ravel()
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    both = np.diag(table)
    either = table.sum(0) + table.sum(1) - both
    held = either[1:] > 0
    return float(np.mean(both[1:][held] / either[1:][held]))


def save_picture(path: str, comparison: Comparison) -> None:
    """Draws some test scenes with their true classes and both predictions.

    Args:
        path: PNG file; complete or absent at any moment.
        comparison: What `compare` returned.

    Raises:
        UserError: The file can't be written.
    """
    from matplotlib.figure import Figure  # pyplot would set a backend for the whole process

    count = min(_DRAWN, len(comparison.images))
    titles = (
        "scene",
        "truth",
        f"pretrained: {comparison.pretrained:.3f}",
        f"from scratch: {comparison.scratch:.3f}",
    )
    figure = Figure(figsize=(7.2, 1.9 * count), layout="constrained")
    axes = figure.subplots(count, 4, squeeze=False)
    for row in range(count):
        maps = (comparison.classes, *comparison.found)
        axes[row, 0].imshow(comparison.images[row])
        for column, values in enumerate(maps, 1):
            axes[row, column].imshow(values[row], cmap="tab20", vmin=0, vmax=19)
        for column, title in enumerate(titles):
            axes[row, column].set_axis_off()
            if row == 0:
                axes[row, column].set_title(title, fontsize=9)
    save_figure(figure, path)
