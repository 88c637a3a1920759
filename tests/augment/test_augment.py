"""The augmentation layer and its host form: geometry, seeds, compilation, GPU kernels."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tensorflow as tf
from gpu_kernels import ops_without_gpu_kernel
from scipy import ndimage
from tensorflow import keras

from simclr_tf.augment import layer as augment_module
from simclr_tf.augment.layer import KNOWN_AUGMENTATIONS, SimCLRAugment, host_views
from simclr_tf.errors import UserError
from simclr_tf.images import geometry

SEED = (20, 7)
EVERYTHING = ",".join(KNOWN_AUGMENTATIONS)


def images_of(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


# ------------------------------------------------------------------------ geometry of a canvas


def test_canvas_boxes_are_drawn_in_the_original_geometry():
    layer = SimCLRAugment(16, augmentations="crop")
    size = tf.constant([[100, 140]] * 4)
    params = layer.draw(4, size[:, 0], size[:, 1], tf.constant(SEED))
    canvas = images_of(4, 20, 20, 3)
    views = layer({"image": canvas, "size": size}, seed=tf.constant(SEED))
    boxes = params["box"].numpy() * [0.2, 20 / 140, 0.2, 20 / 140]
    expected = geometry.crop_and_resize(canvas, boxes, 16, 16)
    np.testing.assert_allclose(views, geometry.clip(expected), atol=1e-4)


def test_a_canvas_of_the_original_size_changes_nothing():
    images = images_of(6, 30, 30, 3)
    layer = SimCLRAugment(16)
    plain = layer(images, seed=tf.constant(SEED))
    sized = layer({"image": images, "size": np.full((6, 2), 30)}, seed=tf.constant(SEED))
    np.testing.assert_array_equal(plain, sized)


# ----------------------------------------------------------------------------------- seeds


def test_one_seed_one_result_and_rows_differ():
    images = np.concatenate([images_of(1, 40, 40, 3)] * 8)
    layer = SimCLRAugment(32, augmentations=EVERYTHING)
    first = layer(images, seed=tf.constant(SEED)).numpy()
    np.testing.assert_array_equal(first, layer(images, seed=tf.constant(SEED)))
    other = layer(images, seed=tf.constant([SEED[0], SEED[1] + 1])).numpy()
    assert len(np.unique(np.concatenate([first, other]).reshape(16, -1), axis=0)) == 16


def test_without_a_seed_calls_differ_and_can_be_repeated():
    images = images_of(4, 20, 20, 3)
    layers = [SimCLRAugment(16, seed=seed) for seed in (5, 5, 6)]
    views = [[layer(images).numpy() for _ in range(2)] for layer in layers]
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0][0], views[0][1])
    assert not np.array_equal(views[0], views[2])


def test_replicas_without_a_seed_differ(strategy):
    images = tf.constant(images_of(4, 20, 20, 3))
    with strategy.scope():
        layer = SimCLRAugment(16, augmentations="crop")
        layer(images)  # outside of the replicas too
    run = tf.function(lambda: strategy.run(layer, args=(images,)))
    calls = [strategy.experimental_local_results(run()) for _ in range(2)]
    views = np.stack([view for call in calls for view in call])
    assert len(np.unique(views.reshape(4, -1), axis=0)) == 4


def test_options_do_not_change_what_others_draw():
    args = (4, 30, 30, tf.constant(SEED))
    few = SimCLRAugment(16, augmentations="crop,flip").draw(*args)
    many = SimCLRAugment(16, augmentations=EVERYTHING).draw(*args)
    np.testing.assert_array_equal(few["box"], many["box"])
    np.testing.assert_array_equal(few["flip"], many["flip"])


def test_a_slice_of_the_parameters_is_a_micro_batch():
    images = images_of(8, 24, 24, 3)
    layer = SimCLRAugment(16, augmentations=EVERYTHING)
    params = layer.draw(8, 24, 24, tf.constant(SEED))
    whole = layer.apply(images, params)
    part = layer.apply(images[2:5], {name: value[2:5] for name, value in params.items()})
    np.testing.assert_allclose(whole[2:5], part, atol=1e-5)


# ---------------------------------------------------------------------- compilation, kernels


# Of those that only one lane has here, the other has the form for processors, compiled too.
COMPILED = {
    "crop,flip,color,blur": (),
    "padded_crop,solarize,noise,rotate": pytest.mark.one_lane,
    "padded_crop,sobel,affine,cutout": pytest.mark.second_lane,
}


@pytest.mark.parametrize("names", [pytest.param(n, marks=m) for n, m in COMPILED.items()])
def test_compiles_under_xla_and_gives_the_same(names):
    assert set(",".join(COMPILED).split(",")) == set(KNOWN_AUGMENTATIONS)
    images = tf.constant(images_of(16, 40, 40, 3))
    layer = SimCLRAugment(32, augmentations=names)
    plain = tf.function(lambda x: layer(x, seed=tf.constant(SEED)))(images)
    compiled = tf.function(lambda x: layer(x, seed=tf.constant(SEED)), jit_compile=True)(images)
    np.testing.assert_allclose(plain, compiled, atol=1e-5)


@pytest.mark.second_lane
def test_every_op_has_a_gpu_kernel():
    layer = SimCLRAugment(40, augmentations=EVERYTHING)
    function = tf.function(layer.call).get_concrete_function(
        {
            "image": tf.TensorSpec([None, 48, 48, 3], tf.uint8),
            "size": tf.TensorSpec([None, 2], tf.int32),
        },
        seed=tf.TensorSpec([2], tf.int32),
    )
    assert ops_without_gpu_kernel(function) == []
    function = tf.function(lambda x: layer(x, training=False)).get_concrete_function(
        tf.TensorSpec([None, 48, 48, 3], tf.uint8)
    )
    assert ops_without_gpu_kernel(function) == []


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (lambda x: tf.image.resize(x, [8, 8], "bicubic"), "ResizeBicubic"),
        (lambda x: tf.random.shuffle(x), "RandomShuffle"),
        (
            lambda x: tf.image.sample_distorted_bounding_box(
                tf.shape(x)[1:], tf.zeros([1, 0, 4]), use_image_if_no_bounding_boxes=True
            )[0],
            "SampleDistortedBoundingBoxV2",
        ),
    ],
)
def test_the_kernel_test_finds_planted_ops_inside_functions(op, name):
    function = tf.function(
        lambda x: tf.while_loop(lambda i: i < 1, lambda i: i + tf.size(op(x)), [tf.constant(0)])
    ).get_concrete_function(tf.TensorSpec([2, 16, 16, 3]))
    assert ops_without_gpu_kernel(function) == [name]


# ------------------------------------------------------------------------------- Keras layer


def test_config_round_trip():
    layer = SimCLRAugment((20, 30), 0.5, False, "v1", "crop,noise", (0.1, 0.9), (0.5, 2.0), 3)
    config = layer.get_config()
    arguments = set(inspect.signature(SimCLRAugment.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    again = SimCLRAugment.from_config(config)
    assert again.get_config() == config and again.options == layer.options


def test_keras_save_and_load(tmp_path):
    inputs = keras.Input((24, 24, 3), dtype="uint8")
    layer = SimCLRAugment(16, seed=9, augmentations="crop,flip")
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 16, 16, 3)
    model.save(tmp_path / "views.keras")
    again = keras.models.load_model(tmp_path / "views.keras")
    images = images_of(2, 24, 24, 3)
    views = [
        m.layers[-1](images, seed=tf.constant(SEED), training=True).numpy() for m in (model, again)
    ]
    np.testing.assert_array_equal(*views)


def test_mixed_precision_leaves_views_alone():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        views = SimCLRAugment(16)(tf.zeros([2, 20, 20, 3]), seed=tf.constant(SEED))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert views.dtype == tf.float32


def test_not_training_only_resizes():
    images = images_of(2, 24, 30, 3)
    same = SimCLRAugment((24, 30))(images, training=False)
    np.testing.assert_allclose(same, images / 255.0, atol=1e-6)
    smaller = SimCLRAugment(16)(images, training=False)
    expected = tf.image.resize(images / 255.0, [16, 16], method="bicubic")
    np.testing.assert_allclose(smaller, geometry.clip(expected), atol=1e-3)


@pytest.mark.parametrize("shape", [(10, 20, 1), (20, 10, 2)])
def test_other_arrays(shape):
    names = "crop,flip,blur,noise,rotate,affine,sobel,cutout,solarize"
    layer = SimCLRAugment((24, 32), augmentations=names)
    views = layer(images_of(4, *shape), seed=tf.constant(SEED))
    assert views.shape == (4, 24, 32, shape[-1])
    first, second = host_views(images_of(*shape), SEED, image_size=(24, 32), augmentations=names)
    assert first.shape == (24, 32, shape[-1]) and not np.array_equal(first, second)
    for call in (
        lambda: SimCLRAugment(24)(images_of(4, *shape), seed=tf.constant(SEED)),
        lambda: host_views(images_of(*shape), SEED, image_size=24),
    ):
        with pytest.raises(UserError, match="Expected RGB images"):
            call()


@pytest.mark.one_lane
def test_extras_do_what_they_say():
    images = tf.constant(np.random.RandomState(3).rand(64, 16, 16, 3).astype(np.float32))

    def run(name):
        layer = SimCLRAugment(16, augmentations=name)
        params = layer.draw(64, 16, 16, tf.constant(SEED))
        return layer.apply(images, params).numpy(), {k: v.numpy() for k, v in params.items()}

    views, params = run("cutout")
    for view, image, cut, (y, x) in zip(
        views, images.numpy(), params["cutout"], params["cutout_centre"], strict=True
    ):
        expected = image.copy()
        if cut:
            y, x = int(y), int(x)
            expected[max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4] = 0
        np.testing.assert_array_equal(view, expected)
    assert 0 < params["cutout"].sum() < 64
    views, params = run("solarize")
    inverted = np.where(images < 0.5, images, 1 - images)
    expected = np.where(params["solarize"][:, None, None, None], inverted, images)
    np.testing.assert_allclose(views, expected, atol=1e-6)
    assert 0 < params["solarize"].sum() < 64
    views, params = run("rotate")
    expected = [np.rot90(image, k) for image, k in zip(images, params["turns"], strict=True)]
    np.testing.assert_array_equal(views, np.stack(expected))
    assert set(params["turns"]) == {0, 1, 2, 3}
    views, params = run("noise")
    np.testing.assert_allclose(views, np.clip(images + params["noise"], 0, 1), atol=1e-6)
    assert params["noise"].std() == pytest.approx(0.1, rel=0.05)
    views, params = run("sobel")
    edges = np.sqrt(np.square(tf.image.sobel_edges(images)).sum(-1)) / 4
    expected = np.where(params["sobel"][:, None, None, None], np.clip(edges, 0, 1), images)
    np.testing.assert_allclose(views, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(17, 17), (12, 21)])
def test_affine_equals_scipy(size):
    """Turned clockwise after a slant to the right, about the centre, as SciPy resamples."""
    images = np.random.RandomState(3).rand(16, *size, 3).astype(np.float32)
    layer = SimCLRAugment(size, augmentations="affine")
    params = layer.draw(16, *size, tf.constant(SEED))
    views = layer.apply(images, params).numpy()
    angles = np.stack([params["affine_turn"], params["affine_slant"]])
    assert np.all(np.abs(angles) <= np.radians(15)) and np.all(np.abs(angles).max(1) > 0.2)
    middle = (np.array(size) - 1) / 2
    for view, image, turn, slant in zip(views, images, *angles.astype(float), strict=True):
        # (row, column), rows downwards: a clockwise turn takes the column axis to the rows'.
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        slanted = np.array([[1, 0], [-np.tan(slant), 1]])
        back = np.linalg.inv(turned @ slanted)
        expected = [
            ndimage.affine_transform(channel, back, middle - back @ middle, order=1, mode="nearest")
            for channel in image.transpose(2, 0, 1)
        ]
        np.testing.assert_allclose(view.transpose(2, 0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(17, 17), (8, 33)])
def test_padded_crop_equals_slices(size):
    images = np.random.RandomState(3).rand(40, *size, 3).astype(np.float32)
    layer = SimCLRAugment(size, augmentations="padded_crop")
    params = layer.draw(40, *size, tf.constant(SEED))
    views = layer.apply(images, params).numpy()
    rows, columns = size[0] // 8, size[1] // 8
    padded = np.pad(images, [(0, 0), (rows, rows), (columns, columns), (0, 0)])
    tops, lefts = np.array(params["padded_crop"]).T
    assert {*tops} == {*range(2 * rows + 1)} and {*lefts} == {*range(2 * columns + 1)}
    for view, image, top, left in zip(views, padded, tops, lefts, strict=True):
        np.testing.assert_allclose(view, image[top : top + size[0], left : left + size[1]])


def test_blur_follows_color_and_order_is_the_lists():
    images = images_of(8, 16, 16, 3)
    one = SimCLRAugment(16, augmentations="noise,solarize")(images, seed=tf.constant(SEED))
    two = SimCLRAugment(16, augmentations="solarize,noise")(images, seed=tf.constant(SEED))
    assert not np.allclose(one, two)
    blurless = SimCLRAugment(16, use_blur=False).draw(2, 16, 16, tf.constant(SEED))
    assert "sigma" not in blurless and "color" in blurless


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": (8, 8, 3)}, "image_size"),
        ({"augmentations": "crop,colour"}, "received: colour"),
        ({"augmentations": "crop,crop"}, "each once"),
        ({"brightness": "v3"}, "'v3'"),
        ({"color_jitter_strength": -1}, "color_jitter_strength"),
        ({"crop_area": (0.5, 0.2)}, "crop_area"),
        ({"gray_probability": 1.2}, "gray_probability"),
        ({"crop_aspect_ratio": (0.0, 1.0)}, "crop_aspect_ratio"),
    ],
)
def test_mistakes_have_one_clear_line(changes, words):
    with pytest.raises(UserError, match="Expected .*; received: .*") as caught:
        SimCLRAugment(**{"image_size": 32, **changes})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_inputs():
    layer = SimCLRAugment(16)
    with pytest.raises(UserError, match="batch of images"):
        layer(tf.zeros([16, 16, 3]))
    with pytest.raises(UserError, match="'image' and 'size'"):
        layer({"image": tf.zeros([1, 16, 16, 3])})


def test_missing_keras_cv_is_named(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "keras_cv":
            raise ImportError("No module named 'keras_cv'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install keras-cv"):
        augment_module.SimCLRAugment(16, augmentations="crop,cutout")
