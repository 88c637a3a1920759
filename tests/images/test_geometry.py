"""Image operations: equal to the release's recorded results and to slow, obvious loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation

from simclr_tf.augment import color
from simclr_tf.errors import UserError
from simclr_tf.images import geometry

# TensorFlow's bicubic kernel rounds its weights to a table of 1,024 entries; ours is exact.
BICUBIC_TOLERANCE = 5e-4
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _full_float32():
    """Keeps matrix products exact where a GPU would round their inputs to TF32."""
    tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("image_ops")


def random_images(*shape, seed=0):
    return np.random.RandomState(seed).rand(*shape).astype(np.float32)


# ------------------------------------------------------------------------- against the release


@pytest.mark.parametrize("case", range(5))
def test_crop_and_resize_equals_the_release(recorded, case):
    size = int(recorded[f"crop{case}_size"])
    image, box = recorded[f"crop{case}_image"], recorded[f"crop{case}_box"]
    ours = geometry.crop_and_resize(image[np.newaxis], box[np.newaxis], size, size)[0]
    assert deviation(ours, recorded[f"crop{case}_out"]) < BICUBIC_TOLERANCE


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("batched", [False, True])
def test_central_crop_equals_the_release(recorded, case, batched):
    size = int(recorded[f"eval{case}_size"])
    image = recorded[f"eval{case}_image"]
    if batched:
        ours = geometry.central_crop_and_resize(np.stack([image, image]), size, size)[1]
    else:
        ours = geometry.central_crop_and_resize(image, size, size)
    assert deviation(ours, recorded[f"eval{case}_out"]) < BICUBIC_TOLERANCE


@pytest.mark.parametrize("case", range(5))
def test_blur_equals_the_release(recorded, case):
    image, kernel_size = recorded[f"blur{case}_image"], int(recorded[f"blur{case}_kernel_size"])
    # the recorded sigma in a batch with another one: each image keeps its own
    sigma = [0.77, float(recorded[f"blur{case}_sigma"])]
    ours = geometry.gaussian_blur(np.concatenate([image, image]), sigma, kernel_size)[1:]
    assert deviation(ours, recorded[f"blur{case}_out"]) < TOLERANCE


@pytest.mark.parametrize("case", range(4))
def test_color_in_any_order_equals_the_release(recorded, case):
    orders = ["0123", "3210", "2031", "1302"]
    images = np.stack([recorded["color_image"]] * len(orders))
    params = np.stack([recorded[f"color{case}_params"]] * len(orders))
    order = np.array([[int(code) for code in text] for text in orders])
    ours = color.color_jitter(images, params, order)  # four orders in one batch
    for row, text in enumerate(orders):
        assert deviation(ours[row], recorded[f"color{case}_{text}"]) < TOLERANCE


def test_grayscale_equals_the_release(recorded):
    ours = color.grayscale(recorded["color_image"][np.newaxis])[0]
    assert deviation(ours, recorded["grayscale"]) < TOLERANCE


# ----------------------------------------------------------------------------- slow references


def keys_cubic(distance):
    distance = abs(distance)
    if distance < 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    if distance < 2:
        return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return 0.0


def slow_resize(signal, start, length, size):
    """Resizes one row of pixels, tap by tap."""
    result = []
    for i in range(size):
        centre = start + (i + 0.5) * length / size - 0.5
        taps = range(int(np.floor(start)), int(np.ceil(start + length)))
        weights = [keys_cubic(centre - tap) for tap in taps]
        total = sum(weight * signal[tap] for weight, tap in zip(weights, taps, strict=True))
        result.append(total / sum(weights))
    return np.array(result)


@pytest.mark.parametrize("box", [(2, 3, 5, 9), (0, 0, 11, 13), (1.4, 2.5, 6.3, 0.9)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_resize_equals_a_slow_loop(box, flip):
    image = random_images(11, 13, 2)
    y, x, high, wide = box
    rows = np.apply_along_axis(slow_resize, 0, image, y, high, 7)
    expected = np.apply_along_axis(slow_resize, 1, rows, x, wide, 10)
    ours = geometry.crop_and_resize(image[np.newaxis], [box], 7, 10, flip=[flip])[0]
    assert deviation(ours, expected[:, ::-1] if flip else expected) < TOLERANCE


def test_bilinear_equals_tensorflow():
    images = random_images(2, 9, 12, 3)
    ours = geometry.crop_and_resize(images, [[2, 1, 5, 10]] * 2, 8, 6, method="bilinear")
    expected = tf.image.resize(images[:, 2:7, 1:11], [8, 6], method="bilinear")
    assert deviation(ours, expected) < TOLERANCE


@pytest.mark.parametrize("kernel_size", [0, 1, 2, 3, 5])
def test_blur_equals_a_slow_loop(kernel_size):
    image = random_images(6, 8, 1)
    radius, sigma = kernel_size // 2, 0.9
    taps = {d: np.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)}
    total = sum(taps.values()) ** 2
    expected = np.zeros_like(image)
    for y, x, dy, dx in itertools.product(range(6), range(8), taps, taps):
        if 0 <= y + dy < 6 and 0 <= x + dx < 8:
            expected[y, x] += taps[dy] * taps[dx] / total * image[y + dy, x + dx]
    ours = geometry.gaussian_blur(image[np.newaxis], [sigma], kernel_size)[0]
    assert deviation(ours, expected) < TOLERANCE


# -------------------------------------------------------------------------- colour, per image


# beyond [0, 1], as after bicubic interpolation; black, white, grey and two equal channels as well
OVERSHOOT = random_images(5, 16, 16, 3, seed=1) * 1.4 - 0.2
OVERSHOOT[0, 0, :6] = [
    [0, 0, 0],
    [1, 1, 1],
    [0.5] * 3,
    [0.7, 0.7, 0.2],
    [-0.1] * 3,
    [-0.2, 0, -0.1],
]


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (color.adjust_contrast, tf.image.adjust_contrast, [0.0, 0.2, 1.0, 1.4, 1.8]),
        (color.adjust_saturation, tf.image.adjust_saturation, [0.0, 0.2, 1.0, 1.4, 1.8]),
        (color.adjust_hue, tf.image.adjust_hue, [-0.5, -0.2, 0.0, 0.13, 0.2]),
    ],
)
def test_color_operations_equal_tensorflow(ours, theirs, values):
    expected = [theirs(image, value) for image, value in zip(OVERSHOOT, values, strict=True)]
    assert deviation(ours(tf.constant(OVERSHOOT), values), np.stack(expected)) < TOLERANCE


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_brightness(mode):
    amounts = np.array([0.2, -0.5, 1.0, 1.3, 0.0], np.float32)
    column = amounts[:, None, None, None]
    expected = OVERSHOOT * column if mode == "v2" else OVERSHOOT + column
    ours = color.adjust_brightness(tf.constant(OVERSHOOT), amounts, mode)
    assert deviation(ours, expected) < TOLERANCE


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_color_jitter_is_the_four_operations_in_each_of_24_orders(mode):
    orders = list(itertools.permutations(range(4)))
    rs = np.random.RandomState(2)
    images = (rs.rand(24, 12, 10, 3) * 1.4 - 0.2).astype(np.float32)
    low = [0.2, 0.2, 0.2, -0.2] if mode == "v2" else [-0.8, 0.2, 0.2, -0.2]
    params = rs.uniform(low, [1.8, 1.8, 1.8, 0.2], (24, 4)).astype(np.float32)
    apply = rs.rand(24) < 0.7
    ours = color.color_jitter(tf.constant(images), params, orders, mode, apply)
    for row, order in enumerate(orders):
        x = tf.constant(images[row])
        brightness, contrast, saturation, hue = params[row]
        for code in order if apply[row] else ():
            if code == 0:
                x = x * brightness if mode == "v2" else tf.image.adjust_brightness(x, brightness)
            elif code == 1:
                x = tf.image.adjust_contrast(x, contrast)
            elif code == 2:
                x = tf.image.adjust_saturation(x, saturation)
            else:
                x = tf.image.adjust_hue(x, hue)
            x = tf.clip_by_value(x, 0.0, 1.0)
        assert deviation(ours[row], x) < TOLERANCE


def test_grayscale_only_where_asked():
    ours = color.grayscale(tf.constant(OVERSHOOT), [True, False, True, False, False]).numpy()
    np.testing.assert_array_equal(ours[[1, 3, 4]], OVERSHOOT[[1, 3, 4]])
    expected = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(OVERSHOOT[[0, 2]]))
    assert deviation(ours[[0, 2]], expected) < TOLERANCE


# ---------------------------------------------------------------------- types, shapes, mistakes


def test_one_channel_and_non_square():
    images = tf.constant(random_images(3, 10, 17, 1))
    views = geometry.crop_and_resize(images, [[0, 0, 10, 17]] * 3, 6, 9, flip=[True, False, True])
    assert views.shape == (3, 6, 9, 1)
    assert geometry.gaussian_blur(images, [1.0, 0.5, 2.0], 3).shape == images.shape
    assert color.adjust_contrast(images, [0.5] * 3).shape == images.shape
    assert color.adjust_brightness(images, [0.5] * 3).shape == images.shape
    flipped = geometry.flip_left_right(images, [True, False, False])
    np.testing.assert_array_equal(flipped[0], images[0, :, ::-1])
    np.testing.assert_array_equal(flipped[1:], images[1:])


@pytest.mark.parametrize(
    "operation",
    [
        color.grayscale,
        lambda x: color.adjust_hue(x, [0.1]),
        lambda x: color.adjust_saturation(x, [0.1]),
        lambda x: color.color_jitter(x, [[1, 1, 1, 0]], [[0, 1, 2, 3]]),
    ],
)
def test_color_of_one_channel_is_refused(operation):
    with pytest.raises(UserError, match="Expected RGB images .* received: 1 channels"):
        operation(tf.zeros([1, 4, 4, 1]))


def test_types():
    eight_bit = np.array([[[[0], [51], [255]]]], np.uint8)
    np.testing.assert_allclose(geometry.to_float(eight_bit).numpy().ravel(), [0, 0.2, 1])
    np.testing.assert_allclose(geometry.to_float(tf.constant([0.5], tf.float16)), [0.5])
    np.testing.assert_allclose(geometry.to_float(np.array([65535], np.uint16)), [1.0])
    with pytest.raises(UserError, match="received: int64"):
        geometry.to_float(np.array([1], np.int64))
    with pytest.raises(UserError, match="'nearest'"):
        geometry.crop_and_resize(tf.zeros([1, 4, 4, 3]), [[0, 0, 4, 4]], 2, 2, method="nearest")
    with pytest.raises(UserError, match="'v3'"):
        color.adjust_brightness(tf.zeros([1, 4, 4, 3]), [1.0], "v3")


def test_central_crop_in_tf_data_with_unknown_sizes():
    def images():
        yield np.zeros((50, 40, 3), np.uint8)
        yield np.full((30, 90, 3), 255, np.uint8)

    dataset = tf.data.Dataset.from_generator(
        images, output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    ).map(lambda image: geometry.central_crop_and_resize(image, 24, 20))
    assert dataset.element_spec.shape == (24, 20, 3)
    black, white = list(dataset)
    assert float(tf.reduce_max(black)) == 0.0
    assert float(tf.reduce_min(white)) == pytest.approx(1.0, abs=1e-6)
