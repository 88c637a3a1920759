"""The input pipeline: forms of a batch, order and resuming, sharding, views on the host."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import SOURCES, N, folder, numbered, options, stream, take_labels
from PIL import Image
from tensorflow.python.autograph.pyct.transpiler import PyToPy

from simclr_tf.datasets import InMemorySource, open_source, pipeline, source_from_dataset
from simclr_tf.datasets.canvas import host_size, resize_to_uint8
from simclr_tf.datasets.pipeline import evaluation_dataset, training_dataset
from simclr_tf.errors import UserError
from simclr_tf.images.pixel_values import to_float

__all__ = ["folder"]  # a fixture

# --------------------------------------------------------------------------------- what a batch is


@pytest.mark.parametrize(
    ("image_size", "side"), [(224, 320), (32, 46), (28, 40), (7, 10), (8, 12), (1, 2)]
)
def test_host_size(image_size, side):
    assert host_size(image_size) == side


def test_images_of_one_small_size_stay_as_they_are():
    data = training_dataset(open_source("mnist_5k", "train"), **options(image_size=28))
    assert data.element_spec == (
        tf.TensorSpec((2, 28, 28, 3), tf.uint8),
        tf.TensorSpec((2,), tf.int64),
    )
    assert data.cardinality() == tf.data.INFINITE_CARDINALITY
    images, labels = next(iter(training_dataset(numbered(), **options())))
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_images_of_one_large_size_go_on_the_canvas():
    x, labels = next(iter(training_dataset(numbered(side=11), **options(image_size=7))))
    assert x["image"].shape == (2, 10, 10, 3) and x["image"].dtype == tf.uint8
    assert x["size"].dtype == tf.int32 and x["size"].numpy().tolist() == [[11, 11]] * 2
    np.testing.assert_array_equal(x["image"][:, 3, 3, 0], labels)


@pytest.mark.parametrize("cache", [False, True])
def test_images_of_mixed_sizes_go_on_the_canvas(folder, cache):
    source = open_source(folder, "all", eval_fraction=0.5)
    data = training_dataset(source, **options(image_size=16, batch_size=5, cache=cache))
    x, labels = data.element_spec
    assert x["image"] == tf.TensorSpec((5, 23, 23, 3), tf.uint8)
    assert x["size"] == tf.TensorSpec((5, 2), tf.int32)
    assert labels == tf.TensorSpec((5,), tf.int64)
    for x, labels in data.take(2):
        for image, size, label in zip(x["image"], x["size"], labels.numpy(), strict=True):
            assert size.numpy().tolist() == [30 - label, 20 + 3 * label]
            np.testing.assert_array_equal(image, np.full((23, 23, 3), 20 * label))


def test_autograph_rewrites_nothing_of_ours(folder, monkeypatch):
    """It takes seconds at the start of a run, and our code has no `if` or `for` over a tensor."""
    rewritten = []
    transform = PyToPy.transform_function

    def noted(self, function, context):
        rewritten.append(function.__module__)
        return transform(self, function, context)

    monkeypatch.setattr(PyToPy, "transform_function", noted)
    next(iter(tf.data.Dataset.range(1).map(lambda number: -number)))
    assert rewritten == [__name__]
    source = open_source(folder, "all", eval_fraction=0.5)
    next(iter(training_dataset(source, **options(image_size=16))))
    next(iter(evaluation_dataset(source, batch_size=2, image_size=16)))
    assert rewritten == [__name__]


def test_canvas_is_an_antialiased_squash():
    rng = np.random.RandomState(0)
    image = rng.randint(0, 256, (64, 48, 3)).astype(np.uint8)
    source = InMemorySource(image[None], None, name="x", split="train")
    (x,) = next(iter(training_dataset(source, **options(batch_size=1, image_size=11))))
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.BICUBIC)).astype(int)
    # Pillow's bicubic is the same filter (a = -0.5), with 8-bit weights: off by one at most here.
    assert np.abs(x["image"][0].numpy().astype(int) - expected).max() <= 2
    assert np.abs(image[::4, ::3].astype(int) - expected).max() > 50  # not plain subsampling


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((375, 500, 3), 320), ((260, 131, 1), 130), ((2, 97, 140, 4), 96), ((130, 130, 3), 130),
        ((1, 300, 3), 100), ((40, 50, 3), 23),
    ],
)  # fmt: skip
def test_the_fast_way_to_the_canvas_gives_the_same_bits(shape, side, dtype):
    values = np.random.RandomState(side).rand(*shape)
    scale = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    image = tf.constant((values * scale).astype(dtype))
    as_floats = tf.cast(image, tf.float32) if dtype == "uint8" else to_float(image) * 255.0
    expected = tf.image.resize(as_floats, (side, side), method="bicubic", antialias=True)
    expected = tf.cast(tf.clip_by_value(tf.round(expected), 0.0, 255.0), tf.uint8)
    of_any_size = [tf.TensorSpec([None] * (len(shape) - 1) + [shape[-1]], image.dtype)]
    traced = tf.function(lambda image: resize_to_uint8(image, side), input_signature=of_any_size)
    np.testing.assert_array_equal(resize_to_uint8(image, side), expected)
    np.testing.assert_array_equal(traced(image), expected)


def test_large_jpegs_may_be_decoded_smaller(tmp_path):
    for i in range(2):
        Image.new("RGB", (400 + i, 300), (10, 100, 200)).save(tmp_path / f"{i}.jpg")
    source = open_source(str(tmp_path), "all", eval_fraction=0.5)
    asked = []
    original, source._load = source._load, lambda *a: asked.append(a[1]) or original(*a)
    (x,) = next(iter(training_dataset(source, **options(image_size=16))))
    assert set(asked) == {46} and sorted(x["size"].numpy().tolist()) == [[300, 400], [300, 401]]


def test_unlabelled_batches_have_one_part():
    data = training_dataset(numbered(labels=False), **options())
    assert data.element_spec == (tf.TensorSpec((2, 6, 6, 3), tf.uint8),)
    evaluation = evaluation_dataset(numbered(labels=False), batch_size=4, image_size=6)
    assert evaluation.element_spec == (tf.TensorSpec((None, 6, 6, 3), tf.float32),)


def test_user_float_images_of_any_channels():
    images = np.random.RandomState(0).rand(4, 6, 9, 1)
    source = source_from_dataset(tf.data.Dataset.from_tensor_slices(images))
    (x,) = next(iter(training_dataset(source, **options(image_size=7, shuffle=False))))
    assert x.dtype == tf.float32
    np.testing.assert_allclose(x, images[:2], rtol=1e-6)
    (x,) = next(iter(training_dataset(source, **options(image_size=4, shuffle=False))))
    assert x["image"].dtype == tf.uint8 and x["image"].shape == (2, 6, 6, 1)
    np.testing.assert_allclose(x["image"][0].numpy().mean(), images[0].mean() * 255, atol=4)


# --------------------------------------------------------------------------------- order and resume


@pytest.mark.parametrize("kind", SOURCES)
def test_every_epoch_is_a_new_permutation_fixed_by_the_seed(folder, kind):
    def epochs(seed, count=3):
        data = training_dataset(SOURCES[kind](folder), **options(seed=seed))
        return take_labels(data, count * N // 2).reshape(count, N)

    first = epochs(0)
    assert all(sorted(row) == list(range(N)) for row in first)
    assert len({tuple(row) for row in first}) == 3
    np.testing.assert_array_equal(epochs(0), first)
    assert not np.array_equal(epochs(1), first)


def test_order_does_not_depend_on_earlier_use_of_tensorflow_seeds():
    def order():
        return take_labels(training_dataset(numbered(), **options()), 10)

    first = order()
    tf.random.normal([3])
    np.testing.assert_array_equal(order(), first)


def test_positions_are_uniform():
    # Each example stands first equally often: 600 epochs, 60 expected, five standard deviations.
    source = numbered()
    epochs = tf.data.Dataset.range(600)
    first = list(
        epochs.flat_map(lambda e: source.shuffled_keys(e, 3, 0).take(1)).as_numpy_iterator()
    )
    assert np.abs(np.bincount(first, minlength=N) - 60).max() < 5 * (600 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("start", [2, 20, 36])
def test_resume_is_exact(folder, kind, start):
    whole = take_labels(training_dataset(SOURCES[kind](folder), **options()), 25)
    data = training_dataset(SOURCES[kind](folder), **options(start_example=start))
    np.testing.assert_array_equal(take_labels(data, (50 - start) // 2), whole[start:])


def test_resume_of_data_of_unknown_length():
    whole = take_labels(training_dataset(stream(known=False), **options()), 15)
    data = training_dataset(stream(known=False), **options(start_example=16))
    np.testing.assert_array_equal(take_labels(data, 7), whole[16:])


def test_resume_decodes_nothing_that_is_passed_over(folder):
    source = open_source(folder, "all", eval_fraction=0.5)
    decoded = []
    original, source._load = source._load, lambda *a: decoded.append(a[0]) or original(*a)
    next(iter(training_dataset(source, **options(start_example=10_000))))
    assert len(decoded) < 1000


def test_batches_run_across_epochs_and_are_full():
    data = training_dataset(numbered(), **options(batch_size=4))
    labels = take_labels(data, 5)  # 20 examples: two epochs, no remainder dropped
    assert sorted(labels[:N]) == sorted(labels[N:]) == list(range(N))


@pytest.mark.parametrize("kind", SOURCES)
def test_without_shuffling_the_order_is_the_source_s(folder, kind):
    source = SOURCES[kind](folder)
    expected = [int(source.decode(key)["label"]) for key in source.ordered_keys()]
    data = training_dataset(source, **options(shuffle=False))
    np.testing.assert_array_equal(take_labels(data, N), expected * 2)


# ----------------------------------------------------------------------------------------- workers


def context(worker, workers, replicas):
    return tf.distribute.InputContext(workers, worker, replicas)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("cache", [False, True])
def test_workers_share_each_epoch_without_overlap(folder, kind, cache):
    source = SOURCES[kind](folder)
    shares = []
    for worker in range(2):
        data = training_dataset(
            source, **options(batch_size=4, cache=cache, input_context=context(worker, 2, 4))
        )
        assert data.element_spec[-1].shape == (1,)  # one of four replicas, two to a worker
        shares.append(take_labels(data, N))
    for half in (slice(0, N // 2), slice(N // 2, N)):
        assert sorted(np.concatenate([share[half] for share in shares])) == list(range(N))
    alone = take_labels(training_dataset(source, **options(batch_size=1, cache=cache)), 2 * N)
    np.testing.assert_array_equal(np.stack(shares, 1).ravel(), alone)


def test_workers_resume_exactly():
    def labels(worker, start, batches):
        ctx = context(worker, 2, 2)
        data = training_dataset(numbered(), **options(start_example=start, input_context=ctx))
        return take_labels(data, batches)

    for worker in range(2):
        np.testing.assert_array_equal(labels(worker, 14, 8), labels(worker, 0, 15)[7:])


def test_one_worker_never_decodes_the_other_s_share(folder):
    source = open_source(folder, "all", eval_fraction=0.5)
    decoded = []
    original, source._load = source._load, lambda *a: decoded.append(a[0]) or original(*a)
    data = training_dataset(source, **options(shuffle=False, input_context=context(1, 2, 2)))
    take_labels(data, 10)
    assert set(decoded) == {1, 3, 5, 7, 9}


def test_under_a_strategy_each_replica_gets_its_own_examples():
    cpus = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([cpu.name for cpu in cpus[:2]])
    replicas = strategy.num_replicas_in_sync
    data = strategy.distribute_datasets_from_function(
        lambda ctx: training_dataset(numbered(), **options(input_context=ctx))
    )
    seen = []
    for _, labels in itertools.islice(data, N // 2):
        local = strategy.experimental_local_results(labels)
        assert len(local) == replicas and all(part.shape == (2 // replicas,) for part in local)
        seen += np.concatenate([part.numpy() for part in local]).tolist()
    assert sorted(seen) == list(range(N))


# ------------------------------------------------------------------------------- views on the host


@pytest.mark.parametrize("cache", [False, True])
def test_host_transform_sees_the_original_and_a_seed_of_its_own(folder, cache):
    source = open_source(folder, "all", eval_fraction=0.5)

    def fake_views(image, seed):
        first = tf.cast(tf.stack([tf.shape(image)[0], tf.shape(image)[1]]), tf.float32)
        return first, tf.cast(seed, tf.float32)

    data = training_dataset(source, **options(seed=5, cache=cache, host_transform=fake_views))
    seeds = []
    for (sizes, seed), labels in data.take(N):
        expected = np.stack([30 - labels.numpy(), 20 + 3 * labels.numpy()], 1)
        np.testing.assert_array_equal(sizes, expected)
        seeds += seed.numpy().tolist()
    assert seeds == [[5, position] for position in range(2 * N)]  # distinct in the second epoch too
    resumed = training_dataset(
        source, **options(seed=5, host_transform=fake_views, start_example=8)
    )
    assert next(iter(resumed))[0][1].numpy().tolist() == seeds[8:10]


def test_host_transform_with_one_view_and_without_labels():
    def one_view(image, seed):
        return image[:4, :4]

    data = training_dataset(numbered(), **options(host_transform=one_view))
    assert data.element_spec[0] == tf.TensorSpec((2, 4, 4, 3), tf.uint8)

    def two_views(image, seed):
        return [image, image]

    data = training_dataset(numbered(labels=False), **options(host_transform=two_views))
    assert len(data.element_spec) == 1 and len(data.element_spec[0]) == 2


def test_seeds_of_very_long_runs_stay_distinct():
    seeds = [pipeline._example_seed(7, 5 + k * 2**31).numpy().tolist() for k in range(3)]
    assert seeds == [[7, 5], [8, 5], [9, 5]]


# ------------------------------------------------------------------------------------- wrong input


def test_batch_larger_than_the_data():
    with pytest.raises(UserError, match="at most 10, .* received: 11"):
        training_dataset(numbered(), **options(batch_size=11))
    training_dataset(numbered(), **options(batch_size=10))


def test_batch_that_does_not_divide():
    with pytest.raises(UserError, match="that 4 replicas can share equally; received: 6"):
        training_dataset(numbered(), **options(batch_size=6, input_context=context(0, 2, 4)))


def test_unreadable_image_with_fail_stops_training(tmp_path):
    for i in range(4):
        Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / f"{i}.png")
    source = open_source(str(tmp_path), "all", eval_fraction=0.5, on_bad_image="fail")
    with open(source.paths[0], "wb"):
        pass  # emptied after the check
    data = training_dataset(source, **options(image_size=20))
    with pytest.raises(UserError, match="the file is empty"), source.user_errors():
        list(data.take(4))
