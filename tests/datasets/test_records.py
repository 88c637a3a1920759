"""TFRecord files of encoded images: order, labels, splits, compressed, damaged."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from image_files import decode_all, noise
from PIL import Image

from simclr_tf.datasets import open_source
from simclr_tf.datasets.example_fields import find_features
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.datasets.records import masked_crc32c
from simclr_tf.errors import UserError


def encoded(seed, size=(9, 7), form="PNG"):
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, form)
    return held.getvalue(), pixels


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    values = value if isinstance(value, list) else [value]
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(**given):
    named = {name.replace("__", "/"): feature(value) for name, value in given.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write(path, seeds, label=None, compression="", **features):
    """Writes one record for each seed; returns the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = []
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression)) as writer:
        for seed in seeds:
            content, array = encoded(seed)
            given = {} if label is None else {"image__class__label": label(seed)}
            writer.write(example(image__encoded=content, image__height=7, **given, **features))
            pixels.append(array)
    return pixels


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_images_and_labels_are_those_that_were_written(tmp_path, compression):
    pixels = write(tmp_path / "a.tfrecord", range(12), lambda s: s % 3, compression)
    source = open_source(str(tmp_path / "a.tfrecord"), "all", eval_fraction=0.2)
    assert source.num_examples == 12 and source.class_names == ["0", "1", "2"]
    assert source.image_shape == (7, 9, 3)
    for name, found in zip(source.file_names(), decode_all(source), strict=True):
        number = int(name.removeprefix("a.tfrecord:"))
        np.testing.assert_array_equal(found["image"], pixels[number])
        assert found["label"] == number % 3


def test_resuming_gives_the_batches_that_follow(tmp_path):
    for shard in range(2):
        name = f"train-0000{shard}-of-00002"
        write(tmp_path / name, range(shard * 8, shard * 8 + 8), lambda s: s % 2)
    settings = {"batch_size": 4, "image_size": 8, "seed": 3}
    source = open_source(str(tmp_path), "train")
    whole = list(training_dataset(source, **settings).take(6).as_numpy_iterator())
    again = open_source(str(tmp_path / "train-*"), "train")
    rest = training_dataset(again, start_example=8, **settings).take(4).as_numpy_iterator()
    for (images, labels), (expected, others) in zip(rest, whole[2:], strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, others)


def test_splits_by_the_names_of_files(tmp_path):
    write(tmp_path / "pets-train.tfrecord-00000-of-00002", range(6), lambda s: s % 2)
    write(tmp_path / "pets-train.tfrecord-00001-of-00002", range(6, 10), lambda s: s % 2)
    write(tmp_path / "pets-val.tfrecord-00000-of-00001", range(3), lambda s: s % 2)
    write(tmp_path / "pets-more.tfrecord-00000-of-00001", range(5))
    (tmp_path / "notes.txt").write_text("no records")
    (tmp_path / "label.labels.txt").write_text("cat\ndog\n")
    counts = {s: open_source(str(tmp_path), s).num_examples for s in ("train", "test", "more")}
    assert counts == {"train": 10, "test": 3, "more": 5}
    assert open_source(str(tmp_path), "train").class_names == ["cat", "dog"]
    assert not open_source(str(tmp_path), "more").labelled
    # Ids stay those of the list, in which names need not be sorted nor all occur.
    (tmp_path / "label.labels.txt").write_text("zebra\napple\nmoth\n")
    listed = open_source(str(tmp_path), "train")
    assert listed.class_names == ["zebra", "apple", "moth"]
    assert set(listed.read_labels()) == {0, 1}
    alone = str(tmp_path / "pets-train.tfrecord-*")
    train, test = (open_source(alone, s, eval_fraction=0.2) for s in ("train", "test"))
    assert (train.num_examples, test.num_examples) == (8, 2)
    assert not set(train.file_names()) & set(test.file_names())


def test_other_names_of_features_and_words_as_labels(tmp_path):
    path = tmp_path / "a.tfrec"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for seed in range(4):
            content = encoded(seed, form="JPEG")[0]
            kind = b"cat" if seed % 2 else b"dog"
            writer.write(example(image=content, label=seed, shot=content, kind=kind))
    assert open_source(str(path), "all").class_names == ["0", "1", "2", "3"]
    columns = {"image_column": "shot", "label_column": "kind"}
    assert open_source(str(path), "all", **columns).class_names == ["cat", "dog"]
    assert not open_source(str(path), "all", label_column="none").labelled
    with pytest.raises(UserError, match="no feature pixels, only image, kind, label, shot"):
        open_source(str(path), "all", image_column="pixels")


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_files_that_are_cut_off(tmp_path, compression):
    path = tmp_path / "a.tfrecord"
    write(path, range(8), lambda s: s % 2, compression)
    path.write_bytes(path.read_bytes()[:-40])
    source = open_source(str(path), "all")
    ((name, reason),) = source.bad_images
    assert source.num_examples == 7 and name == f"{path}:7" and "what follows is lost" in reason
    with pytest.raises(UserError, match="a.tfrecord:7' .the file is damaged") as error:
        open_source(str(path), "all", on_bad_image="fail")
    assert "\n" not in str(error.value)


def test_a_damaged_record_is_skipped_or_stops(tmp_path):
    """Its pixels are found when they are read; what is around them, and its length, at once."""
    path = tmp_path / "a.tfrecord"
    write(path, range(8))
    content = bytearray(path.read_bytes())
    middle = content.find(encoded(3)[0]) + 150
    content[middle] ^= 1
    path.write_bytes(content)
    source = open_source(str(path), "all")
    assert source.num_examples == 8 and not source.bad_images
    found = decode_all(source)
    assert sum(bool(item["ok"]) for item in found) == 7
    ((name, reason),) = source.bad_images
    assert name == f"{path}:3" and "checksum" in reason
    strict = open_source(str(path), "all", on_bad_image="fail")
    with (
        pytest.raises(UserError, match="a.tfrecord:3' .the record is damaged"),
        strict.user_errors(),
    ):
        decode_all(strict)
    content[8] ^= 1  # the checksum of the first length
    path.write_bytes(content)
    with pytest.raises(UserError, match="1 damaged, .*it is no TFRecord file, or cut off"):
        open_source(str(path), "all")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([{"image": 3}], "the feature image is no encoded image"),
        ([{"label": 3}], "no feature image/encoded or image, only label"),
        ([{"image": b"text"}], "none readable, .*no JPEG"),
        ([{"image": b"x", "label": [1, 2]}], "the feature label is no label: 2 values"),
        ([{"image": b"x", "label": 0.5}], "the feature label is no label: numbers with"),
        ([{"image": b"x", "label": 1}, {"image": b"x"}], "1 of 2 without, the first being '.*:1'"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit(tmp_path, records, words):
    path = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for given in records:
            writer.write(example(**given))
    with pytest.raises(UserError, match=words) as error:
        open_source(str(path), "all")
    assert "\n" not in str(error.value)


def test_files_that_are_no_records(tmp_path):
    for name, content, words in (
        ("a.tfrecord", b"", "received: none"),
        ("b.tfrecord", b"some text, and more of it", "no TFRecord file, or cut off"),
        ("c.tfrecord", b"\x1f\x8bno gzip", "no TFRecord file, or cut off"),
        ("d.tfrecord", None, "which no file is called"),
        ("e-*.tfrecord", None, "which no file is called"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            open_source(str(tmp_path / name), "all")
        assert "\n" not in str(error.value)
    with tf.io.TFRecordWriter(str(tmp_path / "f.tfrecord")) as writer:
        writer.write(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01 no example")
    with pytest.raises(UserError, match="it is no tf.train.Example"):
        open_source(str(tmp_path / "f.tfrecord"), "all")


def test_images_beside_records(tmp_path):
    write(tmp_path / "a.tfrecord", range(4))
    noise(tmp_path / "a.png")
    with pytest.raises(UserError, match="either images or TFRecord files .* such as 'a.png'"):
        open_source(str(tmp_path), "all")


def test_splits_that_are_open_share_what_was_read(tmp_path):
    write(tmp_path / "a.tfrecord", range(8), compression="GZIP")
    train, test = (open_source(str(tmp_path), split) for split in ("train", "test"))
    assert train._records is test._records
    write(tmp_path / "a.tfrecord", range(9), compression="GZIP")
    assert open_source(str(tmp_path), "all").num_examples == 9


def test_compressed_files_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    write(tmp_path / "a.tfrecord", range(4), compression="GZIP")
    monkeypatch.setattr("simclr_tf.datasets.records.machine_memory", lambda: 1000)
    with pytest.raises(UserError, match="Unpack them with gunzip"):
        open_source(str(tmp_path / "a.tfrecord"), "all")


def test_features_are_those_that_protocol_buffers_find(tmp_path):
    content = encoded(0)[0]
    record = example(a=content, b=[1, -1, 2**62, 300], c=0.5, d=b"")
    found = find_features(record, 0, len(record), "abcd")
    expected = tf.train.Example.FromString(record).features.feature
    assert set(found) == set(expected)
    (a, b) = found["a"].spans[0]
    assert record[a:b] == content and found["b"].integers == list(expected["b"].int64_list.value)
    assert found["c"].kind == "float" and found["d"].spans[0][0] == found["d"].spans[0][1]


def test_the_checksum_is_that_of_tensorflow(tmp_path):
    random = np.random.RandomState(0)
    contents = [
        random.bytes(n) for n in (0, 1, 3, 4, 63, 64, 65, 127, 128, 129, 1000, 4096, 70_001)
    ]
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for content in contents:
            writer.write(content)
    written = (tmp_path / "a").read_bytes()
    place = 0
    for content in contents:
        parts = (written[place : place + 8], content)
        checks = (written[place + 8 : place + 12], written[place + 12 + len(content) :][:4])
        for part, check in zip(parts, checks, strict=True):
            assert masked_crc32c(part) == int.from_bytes(check, "little"), len(part)
        place += 16 + len(content)
    assert place == len(written)


@pytest.mark.one_lane
def test_a_folder_of_images_stays_one(tmp_path):
    noise(tmp_path / "a.png")
    noise(tmp_path / "b.png")
    (tmp_path / "ckpt-4.data-00000-of-00001").write_bytes(b"a checkpoint")
    (tmp_path / "records").mkdir()
    os.rename(
        tmp_path / "ckpt-4.data-00000-of-00001", tmp_path / "records" / "c.data-00000-of-00001"
    )
    assert open_source(str(tmp_path), "all").num_examples == 2


def test_what_is_no_record_file_beside_others(tmp_path):
    noise(tmp_path / "pets" / "cat" / "a.png")
    noise(tmp_path / "pets" / "dog" / "b.png")
    write(tmp_path / "pets" / "cache.tfrecord", range(3))
    assert open_source(str(tmp_path / "pets"), "all").class_names == ["cat", "dog"]
    write(tmp_path / "shards" / "a.tfrecord", range(3))
    os.mkfifo(tmp_path / "shards" / "b.tfrecord")  # nobody writes into it
    assert open_source(str(tmp_path / "shards"), "all").num_examples == 3
    os.symlink(tmp_path / "nowhere", tmp_path / "shards" / "c.tfrecord")
    with pytest.raises(UserError, match="can be read; received: .*c.tfrecord"):
        open_source(str(tmp_path / "shards"), "all")
