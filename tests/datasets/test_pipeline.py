"""The input pipeline: forms of a batch, order and resuming, sharding, cache, evaluation."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from peak_memory import last_number
from PIL import Image

from simclr_tf.datasets import InMemorySource, cache, open_source, pipeline, source_from_dataset
from simclr_tf.datasets.cache import in_memory
from simclr_tf.datasets.canvas import host_size
from simclr_tf.datasets.pipeline import evaluation_dataset, training_dataset
from simclr_tf.devices import memory
from simclr_tf.errors import UserError

N = 10


def numbered(n=N, side=6, labels=True):
    """Images whose every pixel, and label, is their index."""
    ids = np.arange(n)
    images = np.broadcast_to(ids[:, None, None, None], (n, side, side, 3)).astype(np.uint8)
    return InMemorySource(
        images, ids if labels else None, name="numbered", split="train",
        num_classes=n if labels else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten grey PNG files of mixed sizes whose every pixel is 20 * their label."""
    root = tmp_path_factory.mktemp("images")
    for i in range(N):
        (root / f"class{i}").mkdir()
        value = (20 * i,) * 3
        Image.new("RGB", (20 + 3 * i, 30 - i), value).save(root / f"class{i}" / "a.png")
    return str(root)


def stream(n=N, known=True):
    """The numbered images through a user's tf.data: no random access."""
    source = numbered(n)
    data = source.ordered_keys().map(
        lambda key: (source.decode(key)["image"], source.decode(key)["label"])
    )
    if not known:
        data = data.filter(lambda *_: True)
    return source_from_dataset(data, num_classes=n)


def take_labels(data, batches):
    return np.concatenate([batch[-1].numpy() for batch in data.take(batches)])


def options(**changes):
    return {"batch_size": 2, "image_size": 6, "seed": 0, **changes}


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


def test_canvas_is_an_antialiased_squash():
    rng = np.random.RandomState(0)
    image = rng.randint(0, 256, (64, 48, 3)).astype(np.uint8)
    source = InMemorySource(image[None], None, name="x", split="train")
    (x,) = next(iter(training_dataset(source, **options(batch_size=1, image_size=11))))
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.BICUBIC)).astype(int)
    # Pillow's bicubic is the same filter (a = -0.5), with 8-bit weights: off by one at most here.
    assert np.abs(x["image"][0].numpy().astype(int) - expected).max() <= 2
    assert np.abs(image[::4, ::3].astype(int) - expected).max() > 50  # not plain subsampling


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


# -------------------------------------------------------------------------------- order and resume

SOURCES = {
    "memory": lambda folder: numbered(),
    "folder": lambda folder: open_source(folder, "all", eval_fraction=0.5),
    "stream": lambda folder: stream(),
}


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


# ------------------------------------------------------------------------------------------- cache


def test_cache_decodes_each_image_once_and_keeps_the_order(folder):
    plain = open_source(folder, "all", eval_fraction=0.5)
    expected = take_labels(training_dataset(plain, **options()), 15)
    source = open_source(folder, "all", eval_fraction=0.5)
    decoded = []
    original, source._load = source._load, lambda *a: decoded.append(a[0]) or original(*a)
    data = training_dataset(source, **options(cache=True))
    np.testing.assert_array_equal(take_labels(data, 15), expected)
    assert sorted(decoded) == list(range(N))


def test_cached_stream_gives_whole_permutations():
    data = training_dataset(stream(), **options(cache=True, shuffle_buffer_bytes=1))
    labels = take_labels(data, N).reshape(2, N)
    assert [sorted(row) for row in labels.tolist()] == [list(range(N))] * 2
    assert labels[0].tolist() != labels[1].tolist()


def test_cache_leaves_unreadable_images_out(tmp_path):
    for i in range(4):
        noise = np.random.RandomState(i).randint(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    source = open_source(str(tmp_path), "all", eval_fraction=0.5)
    path = pathlib.Path(source.paths[2])
    broken = bytearray(path.read_bytes())
    broken[500:540] = bytes(40)
    path.write_bytes(broken)
    cached = in_memory(source)
    assert cached.num_examples == 3 and len(cached.bad_images) == 1
    assert in_memory(cached) is cached
    batches = list(evaluation_dataset(source, batch_size=2, image_size=20))
    assert [len(batch[0]) for batch in batches] == [2, 1]


def test_cache_that_cannot_fit():
    source = source_from_dataset(
        tf.data.Dataset.from_tensors(tf.zeros([9, 9, 3], tf.uint8)), num_examples=10**12
    )
    with pytest.raises(UserError, match="fit in memory .*Do not pass --cache_dataset"):
        training_dataset(source, **options(cache=True))
    with pytest.raises(UserError, match="known length to cache"):
        training_dataset(stream(known=False), **options(cache=True))


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


# -------------------------------------------------------------------------------------- evaluation


def test_evaluation_at_32_pixels_and_below_changes_nothing():
    source = open_source("mnist_5k", "test")
    batches = list(evaluation_dataset(source, batch_size=300, image_size=28))
    assert [len(images) for images, _ in batches] == [300, 300, 300, 100]
    images, labels = source.as_numpy()
    np.testing.assert_allclose(np.concatenate([b[0] for b in batches]), images / 255, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches]), labels)
    assert batches[0][0].dtype == tf.float32 and batches[0][1].dtype == tf.int64


def test_evaluation_resizes_small_images_of_another_size_without_cropping():
    images = np.zeros((1, 40, 40, 3), np.uint8)
    images[:, :2] = 255  # a border that the central crop would lose
    source = InMemorySource(images, None, name="x", split="test")
    (view,) = next(iter(evaluation_dataset(source, batch_size=1, image_size=20)))
    assert view.shape == (1, 20, 20, 3)
    assert view[0, 0].numpy().min() > 0.8 and 0 <= view.numpy().min() <= view.numpy().max() <= 1


def test_evaluation_above_32_pixels_crops_the_centre():
    images = np.zeros((1, 64, 64, 3), np.uint8)
    images[:, 4:60, 4:60] = 200  # exactly 0.875 of 64
    source = InMemorySource(images, None, name="x", split="test")
    (view,) = next(iter(evaluation_dataset(source, batch_size=1, image_size=56)))
    np.testing.assert_allclose(view, np.full((1, 56, 56, 3), 200 / 255), atol=1e-6)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("image_size", [16, 40])
def test_evaluation_of_mixed_sizes(folder, image_size, cache):
    source = open_source(folder, "all", eval_fraction=0.5)
    data = evaluation_dataset(source, batch_size=4, image_size=image_size, cache=cache)
    assert data.element_spec[0].shape.as_list() == [None, image_size, image_size, 3]
    for _ in range(2):
        seen = []
        for images, labels in data:
            expected = np.broadcast_to(labels.numpy()[:, None, None, None] * 20 / 255, images.shape)
            np.testing.assert_allclose(images, expected, atol=1e-5)
            seen += labels.numpy().tolist()
        assert sorted(seen) == list(range(N))


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


@pytest.mark.parametrize("dtype, channels", [("uint8", 1), ("uint8", 3), ("float32", 3)])
def test_memory_of_a_cache_is_counted_by_type_and_channels(
    dtype: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tf.zeros([10, 8, 8, channels], dtype)
    source = source_from_dataset(tf.data.Dataset.from_tensor_slices(images))
    held = images.numpy().nbytes + 10 * 128
    monkeypatch.setattr(cache, "available_memory", lambda: int(held / 0.8) - 2)
    with pytest.raises(UserError, match=r"80% of what is free\); received: 10 images that need"):
        in_memory(source)
    monkeypatch.setattr(cache, "available_memory", lambda: int(held / 0.8) + 2)
    assert in_memory(source).num_examples == 10


def test_memory_of_images_of_many_sizes_is_counted_as_they_come(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No size is known before an image is decoded: the count stops with both numbers."""
    source = open_source(folder, "all", eval_fraction=0.5)
    whole = in_memory(source)
    assert not whole.static_shape
    sizes = [whole.decode(i)["image"].numpy().nbytes + 128 for i in range(whole.num_examples)]
    monkeypatch.setattr(cache, "available_memory", lambda: int(sum(sizes) / 0.8) + 2)
    assert in_memory(source).num_examples == len(sizes)
    monkeypatch.setattr(cache, "available_memory", lambda: int(sum(sizes[:4]) / 0.8) + 2)
    with pytest.raises(UserError, match=f"received: 5 of {len(sizes)} images that take"):
        in_memory(source)


MEASURE = """
import tensorflow as tf
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.datasets import source_from_dataset

shape = [512, 512, 3]
images = tf.data.Dataset.range(200).map(
    lambda i: tf.ensure_shape(tf.fill(shape, tf.cast(i % 256, tf.uint8)), shape))

def read(count):
    source = source_from_dataset(images.take(count), num_examples=count)
    data = training_dataset(source, batch_size=2, image_size=512, seed=0, cache=True)
    for _ in zip(range(100), data):
        pass

read(2)
before = peak()
read(200)
print(100 * (peak() - before) * 1024 // (200 * 512 * 512 * 3))
"""


@pytest.mark.slow
@pytest.mark.one_lane
def test_a_cache_takes_the_memory_that_was_counted() -> None:
    """Not twice: neither while it is filled nor while tf.data reads it."""
    assert 80 < last_number(MEASURE) < 135


def test_memory_is_read_from_the_system_and_the_container(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2**20 < memory.available_memory() <= memory.machine_memory()
    files = {
        "/proc/self/cgroup": "0::/box/job\n",
        "/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    4000000 kB\n",
        "/sys/fs/cgroup/box/memory.max": "1000000000\n",
        "/sys/fs/cgroup/box/memory.current": "900000000\n",
        "/sys/fs/cgroup/box/memory.stat": "anon 1\ninactive_file 300000000\n",
        "/sys/fs/cgroup/box/job/memory.max": "max\n",
    }
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert memory.machine_memory() == 10**9
    assert memory.available_memory() == 400_000_000
    files["/sys/fs/cgroup/box/memory.max"] = "max\n"
    assert memory.available_memory() == 4_096_000_000
    files["/proc/self/cgroup"] = "5:cpu:/a\n7:memory:/b\n"
    files["/sys/fs/cgroup/memory/b/memory.limit_in_bytes"] = "5000\n"
    files["/sys/fs/cgroup/memory/b/memory.usage_in_bytes"] = "4000\n"
    assert (memory.machine_memory(), memory.available_memory()) == (5000, 1000)
    assert memory.in_words(5000) == "4.9 KiB" and memory.in_words(3.3 * 2**30) == "3.3 GiB"
