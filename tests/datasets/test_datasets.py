"""Splits, the embedded digits, TFDS by name (prepared here, offline), and a user's tf.data."""

from __future__ import annotations

import ast
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tiny_tfds import SIZE, prepare

from simclr_tf import datasets
from simclr_tf.datasets import InMemorySource, open_source, source_from_dataset
from simclr_tf.datasets.splits import SplitRange, resolve_split
from simclr_tf.errors import UserError


def decode_all(source):
    return list(source.ordered_keys().map(source.decode).as_numpy_iterator())


# ----------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("train", [("train", 0, 10)]), ("train[:80%]", [("train", 0, 8)]),
        ("train[80%:]", [("train", 8, 10)]), ("train[:3]", [("train", 0, 3)]),
        ("train[-3:]", [("train", 7, 10)]), ("train[2:-2]", [("train", 2, 8)]),
        ("train[25%:75%]", [("train", 2, 8)]), ("train[-20%:]", [("train", 8, 10)]),
        ("train[:]", [("train", 0, 10)]),
        (" train[ :50% ] + test ", [("train", 0, 5), ("test", 0, 4)]),
        ("val", [("test", 0, 4)]), ("all", [("train", 0, 10), ("test", 0, 4)]),
        ("train[:0]+test[1:2]", [("test", 1, 2)]), ("train[-0%:]+test", [("test", 0, 4)]),
    ],
)  # fmt: skip
def test_split_expressions(expression, expected):
    sizes = {"train": 10, "test": 4}
    ranges = resolve_split(expression, sizes, dataset="digits", aliases={"val": "test"})
    assert ranges == [SplitRange(*item) for item in expected]


@pytest.mark.parametrize("size", [3, 10, 37, 1001])
@pytest.mark.parametrize("bounds", ["[:33%]", "[33%:]", "[10%:90%]", "[:100%]"])
def test_percentages_round_as_in_tfds(size, bounds):
    import tensorflow_datasets as tfds

    text = f"train{bounds}"
    ours = resolve_split(text, {"train": size}, dataset="digits")[0]
    files = tfds.core.ShardedFileTemplate(data_dir="/x", dataset_name="d", split="train")
    info = tfds.core.SplitInfo(
        name="train", shard_lengths=[size], num_bytes=1, filename_template=files
    )
    theirs = tfds.core.ReadInstruction.from_spec(text).to_absolute({"train": info})[0]
    assert (ours.start, ours.stop) == (theirs.from_ or 0, theirs.to if theirs.to else size)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("validation", "train, test.*received: 'validation'"),
        ("train[", "split expression"),
        ("train[3]", "split expression"),
        ("", "split expression"),
        ("train+", "split expression"),
        ("train[a:b]", "in examples .* or percent"),
        ("train[:0.5]", "in examples .* or percent"),
        ("train[:120%]", "between -100 and 100"),
        ("train[:11]", "within the 10 examples"),
        ("train[5:5]", "selects none"),
        ("train[:1%]", "selects none"),
    ],
)
def test_wrong_split_expressions(expression, message):
    with pytest.raises(UserError, match=message) as error:
        resolve_split(expression, {"train": 10, "test": 4}, dataset="digits")
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------- digits


def test_embedded_digits():
    train, test = open_source("mnist_5k", "train"), open_source("mnist_5k", "test")
    assert (train.num_examples, test.num_examples) == (4000, 1000)
    assert train.num_classes == 10 and train.class_names[3] == "3"
    assert train.image_shape == (28, 28, 3)
    images, labels = test.as_numpy()
    assert images.shape == (1000, 28, 28, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [100] * 10
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    part, some = open_source("mnist_5k", "train[80%:]+test[:10]").as_numpy()
    np.testing.assert_array_equal(part[800:], images[:10])
    assert len(some) == 810 and len(np.unique(some[:800])) == 10


def test_embedded_digits_have_no_validation_split():
    with pytest.raises(UserError, match=r"\(train, test\); received: 'validation'"):
        open_source("mnist_5k", "validation")


def test_as_numpy_limits_and_resizes():
    source = open_source("mnist_5k", "test")
    images, labels = source.as_numpy(limit=7, image_size=14)
    assert images.shape == (7, 14, 14, 3) and len(labels) == 7
    full, _ = source.as_numpy(limit=7)
    # Antialiased bicubic at half the size keeps the mean brightness.
    np.testing.assert_allclose(images.mean((1, 2, 3)), full.mean((1, 2, 3)), atol=2.5)


def test_images_of_several_sizes_in_memory():
    images = [np.full((h, 5, 3), h, np.uint8) for h in (4, 6, 9)]
    source = InMemorySource(images, np.array([1, 0, 1]), name="x", split="train", num_classes=2)
    assert not source.static_shape and not source.decodes_batches
    assert [e["image"].shape for e in decode_all(source)] == [(4, 5, 3), (6, 5, 3), (9, 5, 3)]
    assert [e["size"].tolist() for e in decode_all(source)] == [[4, 5], [6, 5], [9, 5]]
    with pytest.raises(UserError, match="Pass image_size"):
        source.as_numpy()
    small, labels = source.as_numpy(image_size=4)
    assert small.shape == (3, 4, 4, 3) and labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(small[:, 0, 0, 0], [4, 6, 9])


def test_no_name():
    for name in ("", "  "):
        with pytest.raises(UserError, match="Pass --dataset"):
            open_source(name, "train")


# ------------------------------------------------------------------------------------------- TFDS


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fails a test that opens a connection."""
    import socket

    def refuse(*_):
        raise AssertionError("opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    prepare(path, "tiny_set")
    return path


def values(examples):
    return sorted(int(e["image"][0, 0, 0]) for e in examples)


def test_prepared_tfds_set_is_read_offline(prepared):
    source = open_source("tiny_set", "train", data_dir=str(prepared))
    assert (source.num_examples, source.num_classes) == (SIZE, 3)
    assert source.class_names == ["x", "y", "z"] and source.image_shape == (9, 11, 3)
    examples = decode_all(source)
    assert values(examples) == list(range(SIZE))
    assert set(examples[0]) == {"image", "size", "ok", "label"}
    for e in examples:
        assert e["label"] == e["image"][0, 0, 0] % 3 and e["size"].tolist() == [9, 11]
        assert e["image"].shape == (9, 11, 3)


def test_tfds_split_expressions(prepared):
    def read(split):
        return values(decode_all(open_source("tiny_set", split, data_dir=str(prepared))))

    first, rest = read("train[:80%]"), read("train[80%:]")
    assert len(first) == 18 and sorted(first + rest) == list(range(SIZE))
    assert sorted(read("train+test")) == [*range(SIZE), *range(100, 107)]
    assert len(read("train[-3:]+test[:2]")) == 5
    assert open_source("tiny_set", "all", data_dir=str(prepared)).num_examples == 30


def test_tfds_shuffling_covers_each_record_and_changes_by_epoch_and_seed(prepared):
    source = open_source("tiny_set", "train", data_dir=str(prepared))

    def order(epoch, seed, memory=1 << 20):
        keys = source.shuffled_keys(tf.constant(epoch, tf.int64), seed, memory)
        return [int(e["image"][0, 0, 0]) for e in keys.map(source.decode)]

    first = order(0, 0)
    assert sorted(first) == list(range(SIZE)) and order(0, 0) == first
    assert order(1, 0) != first and order(0, 1) != first
    assert sorted(order(0, 0, memory=1)) == list(range(SIZE))  # a buffer of one record
    assert order(0, 0, memory=1) != order(1, 0, memory=1)  # files in another order


def test_tfds_config_version_and_home(tmp_path, monkeypatch):
    prepare(tmp_path / "data", "tiny_configured", config="1pct")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("tiny_configured/1pct", "tiny_configured/1pct:1.0.0"):
        for data_dir in (str(tmp_path / "data"), "~/data"):
            assert open_source(name, "train", data_dir=data_dir).num_examples == SIZE


@pytest.mark.parametrize(
    ("options", "pixel"),
    [
        ({"channels": 1}, [5, 5, 5]),
        ({"channels": 4}, [250, 250, 250]),  # 5 of opacity 5, over white
        ({"channels": 1, "dtype": np.uint16}, [5, 5, 5]),
        ({"size": (None, None)}, [5, 5, 5]),
    ],
)
def test_tfds_images_become_rgb_uint8(tmp_path, options, pixel):
    prepare(tmp_path, "tiny_kinds", **options)
    source = open_source("tiny_kinds", "train", data_dir=str(tmp_path))
    assert source.image_shape == (*options.get("size", (9, 11)), 3)
    chosen = [e for e in decode_all(source) if e["image"][0, 0, 0] == pixel[0]]
    assert len(chosen) == 1 and chosen[0]["image"].dtype == np.uint8
    assert chosen[0]["image"][-1, -1].tolist() == pixel


@pytest.mark.parametrize("labels", [None, "missing"])
def test_tfds_without_labels(tmp_path, labels):
    prepare(tmp_path, "tiny_unlabelled", labels=labels)
    source = open_source("tiny_unlabelled", "train", data_dir=str(tmp_path))
    assert source.num_classes is None and source.class_names is None
    assert "label" not in source.ordered_keys().map(source.decode).element_spec


def test_tfds_other_file_format(tmp_path):
    pytest.importorskip("array_record")
    prepare(tmp_path, "tiny_arrays", file_format="array_record")
    with pytest.raises(UserError, match="as tfrecord files; received: array_record"):
        open_source("tiny_arrays", "train[:10]", data_dir=str(tmp_path))


def test_tfds_unknown_split(prepared):
    with pytest.raises(UserError, match=r"\(train, test\); received: 'validation'") as error:
        open_source("tiny_set", "validation", data_dir=str(prepared))
    assert "\n" not in str(error.value)


def test_tfds_unknown_name(tmp_path):
    with pytest.raises(UserError, match="received: 'cifar_10'.*Did you mean .*cifar10"):
        open_source("cifar_10", "train", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="received: 'qqqqqqqqqqqq'") as error:
        open_source("qqqqqqqqqqqq", "train", data_dir=str(tmp_path))
    assert "Did you mean" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["imagenet2012_subset/7pct", "cifar10:99.0.0", "my data"])
def test_tfds_unknown_config_version_or_odd_name(tmp_path, name):
    with pytest.raises(UserError, match=f"received: '{name}'") as error:
        open_source(name, "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match="no route to host.*with network.*--data_dir") as error:
        open_source("cifar10", "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value) and "by hand" not in str(error.value)
    with pytest.raises(UserError, match="by hand and put into .*manual"):
        open_source("imagenet2012_subset/1pct", "train", data_dir=str(tmp_path))


def test_tfds_set_without_images(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class NoImages(tfds.testing.DummyDataset):
        name = "no_images"

    builder = NoImages(data_dir=str(tmp_path))
    builder.download_and_prepare()
    with pytest.raises(UserError, match="Expected a data set of images; received: 'no_images'"):
        open_source("no_images", "train", data_dir=str(tmp_path))


def test_a_folder_of_that_name_comes_before_tfds(prepared, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_set").mkdir()
    for i in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / "tiny_set" / f"{i}.png")
    assert open_source("tiny_set", "all", data_dir=str(prepared)).num_examples == 2
    shutil.rmtree(tmp_path / "tiny_set")
    assert open_source("tiny_set", "train", data_dir=str(prepared)).num_examples == SIZE


def test_tfds_and_pillow_are_imported_only_when_used():
    folder = pathlib.Path(datasets.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:  # the module's own level only
            names = [a.name for a in getattr(node, "names", [])] + [getattr(node, "module", "")]
            heavy = {"tensorflow_datasets", "PIL"} & {str(name).split(".")[0] for name in names}
            assert not (isinstance(node, (ast.Import, ast.ImportFrom)) and heavy), path


# --------------------------------------------------------------------------------- a user's tf.data

IMAGES = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


@pytest.mark.parametrize(
    ("elements", "labelled"),
    [
        ((IMAGES, LABELS), True),
        (IMAGES, False),
        ((IMAGES,), False),
        ({"image": IMAGES, "label": LABELS}, True),
        ({"image": IMAGES, "id": LABELS}, False),
        ((IMAGES.astype(np.float32) / 255, LABELS), True),
    ],
)
def test_user_data(elements, labelled):
    data = tf.data.Dataset.from_tensor_slices(elements)
    source = source_from_dataset(data, num_classes=3 if labelled else None)
    assert source.num_examples == 6 and source.labelled == labelled
    assert source.image_shape == (4, 4, 3)
    examples = decode_all(source)
    assert ("label" in examples[0]) == labelled
    assert examples[0]["image"].dtype in (np.uint8, np.float32)
    images, labels = source.as_numpy()
    np.testing.assert_array_equal(images, IMAGES)
    assert labels is None or labels.tolist() == LABELS.tolist()


def test_user_data_of_unknown_length():
    data = tf.data.Dataset.from_tensor_slices(IMAGES).filter(lambda x: True)
    assert source_from_dataset(data).num_examples is None
    assert source_from_dataset(data, num_examples=6).num_examples == 6


@pytest.mark.parametrize(
    ("elements", "batch"),
    [
        ((IMAGES, LABELS), 2),
        (LABELS, None),
        ((IMAGES, LABELS.astype(np.float32)), None),
        ((IMAGES, IMAGES, LABELS), None),
        ({"picture": IMAGES}, None),
        (IMAGES.astype(np.int64), None),
    ],
)
def test_user_data_of_wrong_form(elements, batch):
    data = tf.data.Dataset.from_tensor_slices(elements)
    with pytest.raises(UserError, match="Expected unbatched elements"):
        source_from_dataset(data.batch(batch) if batch else data, num_classes=3)


def test_user_labels_need_the_number_of_classes():
    with pytest.raises(UserError, match="num_classes"):
        source_from_dataset(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)))
