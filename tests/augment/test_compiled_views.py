"""The views of processors: the same as the batched form's, in every case that picks its own way."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.augment import compiled as compiled_views
from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.config import Config
from simclr_tf.images import geometry, resizing
from simclr_tf.runs import building

SEED = (3, 4)
# A float32 distance between pixels of a 320-pixel image is exact to 3e-5 of a pixel.
TOLERANCE = 2e-4


def images_of(count, height, width, channels=3, dtype="uint8"):
    bytes_ = np.random.RandomState(0).randint(0, 256, (count, height, width, channels))
    return tf.constant(bytes_.astype(dtype) if dtype == "uint8" else bytes_ / 255.0, dtype)


def both(images, **settings):
    """Returns the views in the batched form and in the form for processors, of one seed."""
    plain, compiled = (SimCLRAugment(jit_compile=on, **settings) for on in (False, True))
    views = [tf.function(lambda x, a=a: a(x, seed=SEED))(images) for a in (plain, compiled)]
    assert compiled._compiled is not None and plain._compiled is None
    return views


def assert_equal(one, other):
    """Equal but for single pixels: where two channels meet, hue turns on the last bit."""
    difference = np.abs(one.numpy() - other.numpy())
    assert difference.shape[0] > 0
    assert np.quantile(difference, 0.9999) <= TOLERANCE
    assert difference.max() <= 50 * TOLERANCE


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        # What XLA makes of the other cases holds the same ops.
        pytest.param((90, 120), {"image_size": 70}, marks=pytest.mark.one_lane),
        # enlarged: narrow bands
        pytest.param(
            (40, 50),
            {"image_size": (80, 72), "brightness": "v1", "use_blur": False},
            marks=pytest.mark.one_lane,
        ),
        pytest.param(
            (90, 70),
            {"image_size": 70, "augmentations": "crop,color,blur,flip,solarize,noise,rotate"},
            marks=pytest.mark.second_lane,
        ),
        pytest.param(
            (90, 70),
            {"image_size": 70, "augmentations": "crop,blur,sobel,affine,cutout"},
            marks=pytest.mark.one_lane,
        ),
    ],
    ids=["simclr", "enlarged, v1", "extras", "blur first"],
)
def test_large_views_one_by_one(source, settings):
    assert_equal(*both(images_of(12, *source), **settings))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param({"dtype": "float32"}, "crop,flip", marks=pytest.mark.one_lane),
        pytest.param({"channels": 1}, "crop,flip,blur", marks=pytest.mark.second_lane),
    ],
)
def test_large_views_of_floats_and_of_grey_images(kind, names):
    assert_equal(*both(images_of(4, 80, 80, **kind), image_size=66, augmentations=names))


@pytest.mark.one_lane
def test_large_views_of_canvases():
    inputs = {"image": images_of(6, 96, 96), "size": tf.constant([[200, 400], [96, 96]] * 3)}
    assert_equal(*both(inputs, image_size=70, augmentations="crop"))


@pytest.mark.parametrize(
    "count",
    [pytest.param(8, marks=pytest.mark.one_lane), pytest.param(7, marks=pytest.mark.second_lane)],
)
def test_small_views(count):
    assert_equal(*both(images_of(count, 36, 36), image_size=32))


@pytest.mark.one_lane
def test_views_too_small_for_a_blur():
    assert_equal(*both(images_of(2, 20, 20), image_size=18, augmentations="crop,blur"))


@pytest.mark.one_lane
@pytest.mark.parametrize("side", [32, 36])
def test_views_without_a_crop(side):
    assert_equal(*both(images_of(3, side, side), image_size=32, augmentations="flip,color"))


@pytest.mark.second_lane
def test_batches_of_any_size():
    layer = SimCLRAugment(70, augmentations="crop,flip", jit_compile=True)
    spec = tf.TensorSpec([None, 80, 80, 3], tf.uint8)
    function = tf.function(lambda x: layer(x, seed=SEED), input_signature=[spec])
    for count in (1, 5):
        plain = SimCLRAugment(70, augmentations="crop,flip")(images_of(count, 80, 80), seed=SEED)
        assert_equal(plain, function(images_of(count, 80, 80)))


def chosen(monkeypatch, jit_compile, size, accelerated, xla=None):
    def views(options):  # compiling them would take most of the test
        return lambda images, params, copies: tf.zeros([tf.shape(images)[0], size, size, 3])

    monkeypatch.setattr(compiled_views, "ViewStages", views)
    monkeypatch.setattr(compiled_views, "accelerated", lambda: accelerated)
    layer = SimCLRAugment(size, jit_compile=jit_compile)
    tf.function(lambda x: layer(x, seed=SEED), jit_compile=xla)(images_of(2, 20, 20))
    return layer._compiled is not None


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("jit_compile", "size", "accelerated", "expected"),
    [
        (None, 80, False, True),
        (None, 80, True, False),
        (None, 16, False, False),
        (True, 16, False, True),
        (False, 80, False, False),
    ],
)
def test_where_it_is_chosen(monkeypatch, jit_compile, size, accelerated, expected):
    assert chosen(monkeypatch, jit_compile, size, accelerated) is expected


def test_not_inside_xla_nor_eagerly(monkeypatch):
    assert chosen(monkeypatch, True, 16, False, xla=True) is False
    layer = SimCLRAugment(16, jit_compile=True)
    layer(images_of(2, 20, 20), seed=SEED)
    assert layer._compiled is None


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("size_in", "size_out"), [(320, 224), (224, 224), (30, 100), (9, 33), (3, 7)]
)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("tile", [1, 16])
def test_bands_are_the_whole_resize(size_in, size_out, flip, tile):
    """Each band read back into one matrix, against the pixels that a resize of ones moves."""
    for start, length in ((0.0, size_in), (2.25, size_in / 2), (size_in - 3.0, 3.0)):
        first, bands = resizing.resize_bands(
            tf.constant(start),
            tf.constant(float(length)),
            size_in,
            size_out,
            tf.constant(flip),
            tile,
        )
        matrix = np.zeros([bands.shape[0] * tile, size_in])
        for t, (low, band) in enumerate(zip(first.numpy(), bands.numpy(), strict=True)):
            matrix[tile * t : tile * (t + 1), low : low + band.shape[1]] = band
        unit = tf.reshape(tf.eye(size_in), [1, size_in, size_in, 1])  # what column j gives
        box = [[0.0, start, size_in, length]]
        moved = geometry.crop_and_resize(unit, box, size_in, size_out, flip=[flip])
        expected = moved[0, :, :, 0].numpy().T
        np.testing.assert_allclose(matrix[:size_out], expected, atol=TOLERANCE)


def test_one_compilation_serves_every_draw():
    """XLA takes the start of a tf.slice as a constant: a drawn one would be compiled each time."""
    stages = compiled_views.ViewStages(SimCLRAugment(80, augmentations="crop").options)
    images, params = images_of(2, 90, 90), {"box": tf.zeros([2, 4]), "size": tf.ones([2, 2])}
    part = stages._part.get_concrete_function(images, params, tf.constant(0), 2, copies=1).graph
    functions = part.as_graph_def().library.function
    (loop,) = [f.node_def for f in functions if "body" in f.signature.name]
    fixed = {node.name for node in loop if node.op == "Const"}
    assert all(node.input[1].split(":")[0] in fixed for node in loop if node.op == "Slice")
    reads = [node for node in loop if node.op == "XlaDynamicSlice"]
    assert len(reads) == 3 + 5  # image and parameters; bands of 16 columns
    assert sum(node.op == "GatherV2" for node in loop) == 4  # the rows


@pytest.mark.parametrize(
    ("choice", "steps", "accelerated", "expected"),
    [
        ("on", 1, True, True),
        ("off", 10_000, False, False),
        ("auto", 199, False, None),
        ("auto", 200, False, True),
        ("auto", 10_000, True, None),
    ],
)
def test_the_flag_decides(monkeypatch, choice, steps, accelerated, expected):
    monkeypatch.setattr(building, "accelerated", lambda: accelerated)
    config = Config(
        dataset="mnist_5k", image_size=8, encoder="mlp:4", proj_out_dim=4,
        augment_jit_compile=choice,
    )  # fmt: skip
    model = building.make_model(config, num_classes=10, num_examples=64, train_steps=steps)
    assert model.augment.jit_compile is expected
