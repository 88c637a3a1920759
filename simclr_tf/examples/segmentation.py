"""A small segmenter on an encoder's pyramid of endpoints: pretrained compared with from scratch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices.process_state import isolated
from simclr_tf.errors import UserError
from simclr_tf.examples.pictures import save_figure
from simclr_tf.examples.scenes import NUM_CLASSES, make_scenes
from simclr_tf.models.endpoints import endpoint_model, find_endpoints

_CHANNELS = 32  # of the pyramid
_RATE = 3e-3  # Adam's, at the start of a cosine
_BACKGROUND = 0.1  # weight of a background pixel; nine of ten are
_TEST_SEED = 1_000_003  # the test scenes are the same whatever the seed of a run
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
    side = -(-3 * digit_side // 32) * 32  # about three digits wide, and a multiple of 2**5
    train = make_scenes("train", scenes, side, digit_side, seed)
    images, classes = make_scenes("test", test_scenes, side, digit_side, _TEST_SEED)
    with isolated(seed=seed):
        fresh = type(encoder).from_config(encoder.get_config())
        scores, found = [], []
        for network in (encoder, fresh):
            keras.utils.set_random_seed(seed)  # both pyramids start from the same weights
            model = pyramid_segmenter(network, side, NUM_CLASSES)
            train_segmenter(model, *train, steps=steps, batch_size=batch_size, seed=seed)
            found.append(segment(model, images, batch_size))
            scores.append(mean_iou(found[-1], classes, NUM_CLASSES))
    return Comparison(scores[0], scores[1], images, classes, (found[0], found[1]))


def pyramid_segmenter(encoder: keras.Model, side: int, num_classes: int) -> keras.Model:
    """Builds a feature pyramid network on an encoder, with the class of every pixel as its output.

    It uses the last endpoint of each resolution. From the coarsest to the finest, each is brought
    to 32 channels and added to the enlarged sum of the coarser ones; a 3x3 convolution and a
    linear layer then give the classes, enlarged to the image's size.

    Args:
        encoder: Images (N, h, w, c) to features; its layers are shared, not copied.
        side: Height and width of the images in pixels.
        num_classes: Classes of a pixel, background included.

    Returns:
        A model from images in [0, 1], (N, side, side, c), to logits (N, side, side, num_classes).

    Raises:
        UserError: The encoder has no feature maps of several resolutions.

    Source: Lin et al. 2017, "Feature Pyramid Networks for Object Detection" (arXiv:1612.03144).

    Example:
        >>> model = pyramid_segmenter(ResNet(18), side=128, num_classes=11)
    """
    encoder.trainable = True  # fine-tuning may have frozen a part of it
    images = keras.Input((side, side, encoder.input_shape[-1]))
    outputs = endpoint_model(encoder)(images)
    in_order = [outputs[name] for name in find_endpoints(encoder)]
    maps = {int(x.shape[1]): x for x in in_order if len(x.shape) == 4}  # the last of each size
    if len(maps) < 2:
        raise UserError(
            f"Expected an encoder with feature maps of several resolutions; {encoder.name} has "
            f"{len(maps)}. Use a convolutional one, such as resnet."
        )
    x = None
    for size, tensor in sorted(maps.items()):
        lateral = _convolution(tensor, 1)
        if x is not None:
            enlarged = keras.layers.Resizing(size, size, interpolation="bilinear")(x)
            lateral = keras.layers.Add()([lateral, enlarged])
        x = lateral
    x = keras.layers.Conv2D(num_classes, 1, dtype="float32")(_convolution(x, 3))
    logits = keras.layers.Resizing(side, side, interpolation="bilinear", dtype="float32")(x)
    return keras.Model(images, logits, name="segmenter")


def _convolution(x: tf.Tensor, size: int) -> tf.Tensor:
    x = keras.layers.Conv2D(_CHANNELS, size, padding="same", use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


def train_segmenter(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Trains by cross-entropy over all pixels, background ones at a tenth; Adam with a cosine.

    Args:
        model: As `pyramid_segmenter` makes it.
        images: uint8 (N, s, s, c).
        classes: int32 (N, s, s).
        steps: Training steps.
        batch_size: Scenes a step.
        seed: Draws the order.

    """
    data = tf.data.Dataset.from_tensor_slices((images, classes)).shuffle(len(images), seed=seed)
    data = data.repeat().batch(batch_size)
    data = data.map(
        lambda x, y: (tf.cast(x, tf.float32) / 255.0, y, tf.where(y > 0, 1.0, _BACKGROUND))
    )
    schedule = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss=loss)
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)


def segment(model: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the likeliest class of every pixel, int32 (N, s, s), of images uint8 (N, s, s, c)."""
    data = tf.data.Dataset.from_tensor_slices(images).batch(batch_size)
    found = [
        tf.argmax(model(tf.cast(batch, tf.float32) / 255.0, training=False), -1, tf.int32)
        for batch in data
    ]
    return np.concatenate([np.asarray(batch) for batch in found])


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
