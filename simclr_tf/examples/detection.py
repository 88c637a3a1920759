"""A small detector without anchors on an encoder's pyramid: pretrained beside from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.examples.arguments import TEST_SEED
from simclr_tf.examples.average_precision import (
    AveragePrecision,
    average_precision,
    check_pycocotools,
)
from simclr_tf.examples.boxes import Found, assign_targets, decode, generalized_iou
from simclr_tf.examples.pictures import save_figure
from simclr_tf.examples.pyramid import convolution, feature_pyramid
from simclr_tf.examples.scene_training import (
    beside_scratch,
    outputs_of,
    scene_side,
    train_on_scenes,
)
from simclr_tf.examples.scenes import NUM_DIGITS, Scenes, make_scenes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_STRIDE = 4  # pixels between the locations at which boxes are predicted
_TOWER = 2  # 3x3 convolutions before each output
_FOREGROUND = 0.01  # the class probability that training begins with, as most locations are empty
_FOCAL = {"alpha": 0.25, "gamma": 2.0}
_DRAWN = 4  # scenes of the picture
_LABEL = 8  # pixels that a label takes above its box
_SHOWN, _APART = 0.3, 0.5  # score from which a box is drawn, IoU up to which a worse one is too


class Comparison(NamedTuple):
    """How two networks of one architecture detect digits in the same test scenes.

    Attributes:
        pretrained: Average precision of the pretrained one.
        scratch: That of the one from random weights.
        scenes: The test scenes.
        found: What the two networks found.
    """

    pretrained: AveragePrecision
    scratch: AveragePrecision
    scenes: Scenes
    found: tuple[Found, Found]


def compare(
    encoder: keras.Model,
    digit_side: int,
    *,
    scenes: int = 100,
    test_scenes: int = 100,
    steps: int = 400,
    batch_size: int = 16,
    seed: int = 0,
) -> Comparison:
    """Trains the same detector from a pretrained encoder and from a fresh one.

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
        UserError: The encoder has no pyramid, or pycocotools is not installed.

    Example:
        >>> compare(simclr.encoder, digit_side=40, scenes=50).pretrained.at_half
    """
    check_pycocotools()  # before minutes of training
    side = scene_side(digit_side)
    train = make_scenes("train", scenes, side, digit_side, seed)
    test = make_scenes("test", test_scenes, side, digit_side, TEST_SEED)

    def find(network: keras.Model) -> Found:
        model = pyramid_detector(network, side, NUM_DIGITS)
        train_detector(model, train, steps=steps, batch_size=batch_size, seed=seed)
        return detect(model, test.images, batch_size)

    found = beside_scratch(encoder, seed, find)
    scores = [average_precision(test.boxes, test.labels, boxes) for boxes in found]
    return Comparison(scores[0], scores[1], test, found)


def pyramid_detector(encoder: keras.Model, side: int, num_classes: int) -> keras.Model:
    """Builds a detector on an encoder: FCOS on one map of a feature pyramid.

    Two towers of two 3x3 convolutions each stand on the pyramid's map of four pixels a value (the
    finest of at least that). One ends in the logits of the classes, the other in the distances to
    a box's edges and the centre-ness. One map serves, as digits are of about one size.

    Args:
        encoder: Images (N, h, w, c) to features; its layers are shared, not copied.
        side: Height and width of the images in pixels.
        num_classes: C.

    Returns:
        A model from images in [0, 1], (N, side, side, c), to float32 (N, m, m, C + 5): class
        logits, distances to the top, left, bottom and right edges in strides of side / m pixels,
        and the logit of the centre-ness.

    Raises:
        UserError: The encoder has no feature maps of several resolutions.

    Source: Tian et al. 2019, FCOS (arXiv:1904.01355), section 3.

    Example:
        >>> pyramid_detector(ResNet(18), side=128, num_classes=10).output_shape
        (None, 32, 32, 15)
    """
    images, features = feature_pyramid(encoder, side, _LEAST_STRIDE)
    towers = []
    for _ in range(2):
        x = features
        for _ in range(_TOWER):
            x = convolution(x, 3)
        towers.append(x)
    rare = keras.initializers.Constant(float(np.log(_FOREGROUND / (1 - _FOREGROUND))))
    logits = _output(towers[0], num_classes, bias_initializer=rare)
    distances = keras.layers.Activation("softplus", dtype="float32")(_output(towers[1], 4))
    centred = _output(towers[1], 1)
    outputs = keras.layers.Concatenate(dtype="float32")([logits, distances, centred])
    return keras.Model(images, outputs, name="detector")


def _output(
    x: keras.KerasTensor, channels: int, bias_initializer: object = "zeros"
) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        channels, 3, padding="same", dtype="float32", bias_initializer=bias_initializer
    )(x)


def detection_loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Returns the loss of a batch: classes, boxes and centre-ness, of equal weight.

    Focal loss over all locations and classes, and the cross-entropy of the centre-ness over
    locations that stand for a box, are divided by the number of these; 1 - GIoU of their boxes is
    averaged with their centre-ness as weights.

    Args:
        targets: float32 (N, m, m, 6), as `assign_targets` gives them.
        outputs: float32 (N, m, m, C + 5), as `pyramid_detector` gives them.

    Source: FCOS (arXiv:1904.01355), equation 2; focal loss: Lin et al. 2017 (arXiv:1708.02002),
    equation 5.

    Example:
        >>> detection_loss(assign_targets(boxes, labels, 32, 4), detector(images))
    """
    classes = outputs.shape[-1] - 5
    ids, boxes, centred = tf.split(targets, [1, 4, 1], axis=-1)
    logits, found, centred_logit = tf.split(outputs, [classes, 4, 1], axis=-1)
    stands = tf.cast(ids[..., 0] >= 0, tf.float32)
    count = tf.maximum(tf.reduce_sum(stands), 1.0)
    wanted = tf.one_hot(tf.cast(ids[..., 0], tf.int32), classes)  # of -1: zeros
    focal = keras.losses.binary_focal_crossentropy(
        wanted, logits, apply_class_balancing=True, from_logits=True, **_FOCAL
    )  # a mean over classes
    of_classes = classes * tf.reduce_sum(focal) / count
    weights = stands * centred[..., 0]
    apart = weights * (1.0 - generalized_iou(boxes, found))
    of_boxes = tf.math.divide_no_nan(tf.reduce_sum(apart), tf.reduce_sum(weights))
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(centred[..., 0], centred_logit[..., 0])
    return of_classes + of_boxes + tf.reduce_sum(stands * entropy) / count


def train_detector(
    model: keras.Model, scenes: Scenes, *, steps: int, batch_size: int, seed: int
) -> None:
    """Trains by `detection_loss`.

    Args:
        model: As `pyramid_detector` makes it.
        scenes: To train on.
        steps: Training steps.
        batch_size: Scenes a step.
        seed: Draws the order.
    """
    size, stride = _map_of(model)
    targets = assign_targets(scenes.boxes, scenes.labels, size, stride)
    train_on_scenes(
        model,
        detection_loss,
        scenes.images,
        targets,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )


def detect(model: keras.Model, images: np.ndarray, batch_size: int) -> Found:
    """Returns the boxes that a detector finds in images, uint8 (N, s, s, c)."""
    stride = _map_of(model)[1]
    parts = [decode(outputs, stride) for outputs in outputs_of(model, images, batch_size)]
    joined = (np.concatenate([np.asarray(x) for x in part]) for part in zip(*parts, strict=True))
    return Found(*joined)


def _map_of(model: keras.Model) -> tuple[int, int]:
    """Returns the side of a detector's map of locations, and the pixels between them."""
    size = int(model.output_shape[1])
    return size, int(model.input_shape[1]) // size


def save_picture(path: str, comparison: Comparison) -> None:
    """Draws some test scenes with their true boxes and those of some score that were found.

    Args:
        path: PNG file; complete or absent at any moment.
        comparison: What `compare` returned.

    Raises:
        UserError: The file can't be written.
    """
    from matplotlib.figure import Figure  # pyplot would set a backend for the whole process

    scenes = comparison.scenes
    count = min(_DRAWN, len(scenes.images))
    titles = (
        "truth",
        f"pretrained: AP {comparison.pretrained.over_ious:.3f}",
        f"from scratch: AP {comparison.scratch.over_ious:.3f}",
    )
    figure = Figure(figsize=(8.4, 2.8 * count + 0.3), layout="constrained")
    axes = figure.subplots(count, 3, squeeze=False)
    for row in range(count):
        known = scenes.labels[row] >= 0
        columns: list[tuple[Any, ...]] = [
            (scenes.boxes[row][known], scenes.labels[row][known], None)
        ]
        for found in comparison.found:
            # Of several classes for one digit the best alone.
            shown = tf.image.non_max_suppression(
                found.boxes[row], found.scores[row], len(found.scores[row]), _APART, _SHOWN
            ).numpy()
            part = (found.boxes[row], found.labels[row], found.scores[row])
            columns.append(tuple(values[shown] for values in part))
        for axis, title, boxes in zip(axes[row], titles, columns, strict=True):
            axis.imshow(scenes.images[row])
            axis.set_axis_off()
            _draw_boxes(axis, *boxes)
            if row == 0:
                axis.set_title(title, fontsize=10)
    save_figure(figure, path)


def _draw_boxes(
    axis: Axes, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None
) -> None:
    """Draws boxes with their classes and, where there are any, scores."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for place, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        top, left, bottom, right = box
        colour = colormaps["tab10"](int(label))
        # Pixel 0 is drawn from -0.5 to 0.5.
        corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour))
        axis.text(
            *corner,
            str(label) if scores is None else f"{label} {scores[place]:.2f}",
            fontsize=7,
            color="white",
            va="bottom" if top > _LABEL else "top",
            bbox={"facecolor": colour, "edgecolor": colour, "pad": 0.8},
        )
