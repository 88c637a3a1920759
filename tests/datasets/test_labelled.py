"""A share of the labels: which images, from every kind of source, and the list that is kept."""

from __future__ import annotations

import copy
import csv
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_runs import write_folder
from tiny_tfds import prepare

from simclr_tf.datasets import ImageSource, InMemorySource, open_source, source_from_dataset
from simclr_tf.datasets.cache import in_memory
from simclr_tf.datasets.labelled import (
    LIST_FILE,
    choose_labelled,
    find_labelled,
    long_tailed,
    write_labelled,
)
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.errors import UserError

SOURCES = ("mnist_5k", "folder", "TFDS", "tf.data")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ImageSource]:
    folder = tmp_path_factory.mktemp("sources")
    write_folder(folder / "photos/train", {"a": 12, "b": 6, "c": 1})
    prepare(folder / "tfds", "few_labels")

    def opened(kind: str) -> ImageSource:
        if kind == "mnist_5k":
            return open_source(kind, "train[:200]")
        if kind == "folder":
            return open_source(str(folder / "photos"), "train")
        if kind == "TFDS":  # its records lie in four files; the split cuts through two of them
            return open_source("few_labels", "train[2:-2]", data_dir=str(folder / "tfds"))
        images = np.arange(20, dtype="uint8")[:, None, None, None] + np.zeros((1, 4, 4, 3), "uint8")
        data = tf.data.Dataset.from_tensor_slices((images, np.arange(20) % 3))
        return source_from_dataset(data, num_classes=3)

    return opened


def examples(source: ImageSource, shuffled: bool = False) -> list[tuple[bytes, int]]:
    """Returns every image, as bytes, with its label."""
    keys = source.shuffled_keys(tf.constant(0, tf.int64), 0, 1 << 20)
    keys = keys if shuffled else source.ordered_keys()
    decoded = keys.map(lambda key: source.decode(key)).as_numpy_iterator()
    return [(e["image"].tobytes(), int(e["label"])) for e in decoded]


def test_tfds_labels_are_read_once(source: Callable[[str], ImageSource], tmp_path: Path) -> None:
    tfds, passes = source("TFDS"), []
    real = tfds.ordered_keys
    tfds.ordered_keys = lambda: passes.append(1) or real()  # type: ignore[method-assign]
    path = str(tmp_path / LIST_FILE)
    positions = find_labelled(tfds, 0.25, 0, path)
    write_labelled(tfds, positions, path)
    assert find_labelled(tfds, 0.25, 0, path).tolist() == positions.tolist()
    assert len(passes) == 1
    hidden = tfds.hide_labels(positions).read_labels()
    assert sorted(np.flatnonzero(hidden >= 0)) == positions.tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_list_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_folder(tmp_path / "in/train", {"a": 3, "b": 3})
    one = next((tmp_path / "in/train/a").iterdir())
    os.rename(one, os.path.join(os.fsencode(one.parent), b"\xff.png"))
    photos, path = open_source(str(tmp_path / "in"), "all"), str(tmp_path / LIST_FILE)
    write_labelled(photos, np.arange(6), path)
    assert find_labelled(photos, 1.0, 0, path).tolist() == list(range(6))


# Which.


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.25, 1.0])
def test_same_share_of_every_class_and_at_least_one(fraction: float) -> None:
    labels = np.random.RandomState(0).choice(5, 1000, p=[0.5, 0.3, 0.15, 0.045, 0.005])
    found = Counter(labels[choose_labelled(labels, fraction, seed=0)].tolist())
    for label in range(5):
        count = sum(1 for other in labels if other == label)
        wanted = max(1, next(n for n in range(count + 1) if n + 0.5 > fraction * count))
        assert found[label] == wanted


def test_draw_follows_the_seed_and_small_shares_lie_in_large_ones() -> None:
    labels = np.arange(300) % 3
    small, large = (choose_labelled(labels, fraction, 7) for fraction in (0.1, 0.3))
    assert len(small) == 30 and len(large) == 90 and set(small) < set(large)
    assert list(small) == sorted(set(small))
    np.testing.assert_array_equal(small, choose_labelled(labels, 0.1, 7))
    assert set(small) != set(choose_labelled(labels, 0.1, 8))
    # Classes of equal size and place are not drawn alike.
    assert {p // 3 for p in small if p % 3 == 0} != {p // 3 for p in small if p % 3 == 1}


# From every kind of source.


@pytest.mark.parametrize("kind", SOURCES)
def test_labels_are_those_of_the_images(source: Callable, kind: str) -> None:
    opened = source(kind)
    assert opened.read_labels().tolist() == [label for _, label in examples(opened)]


@pytest.mark.parametrize("kind", SOURCES)
def test_subset_holds_the_chosen_images_alone(source: Callable, kind: str) -> None:
    whole = source(kind)
    everything = examples(whole)
    positions = np.array([1, 4, 5, len(everything) - 1])
    subset = whole.subset(positions)
    wanted = [everything[position] for position in positions]
    assert subset.num_examples == 4 and subset.num_classes == whole.num_classes
    assert examples(subset) == wanted
    assert sorted(examples(subset, shuffled=True)) == sorted(wanted)
    assert subset.read_labels().tolist() == [label for _, label in wanted]
    again = subset.subset(np.array([0, 2]))
    assert examples(again) == [wanted[0], wanted[2]]
    assert examples(whole) == everything, "the whole set has changed"


@pytest.mark.parametrize("kind", SOURCES)
def test_hidden_labels_are_minus_one_and_images_stay(source: Callable, kind: str) -> None:
    whole = source(kind)
    everything = examples(whole)
    shown = np.array([0, 3, 7])
    wanted = [(x, y if i in shown else -1) for i, (x, y) in enumerate(everything)]
    hidden = whole.hide_labels(shown)
    assert examples(hidden) == wanted
    assert sorted(examples(hidden, shuffled=True)) == sorted(wanted)
    assert hidden.labelled and examples(whole) == everything
    cached = in_memory(hidden)
    assert cached.read_labels().tolist() == [label for _, label in wanted]


@pytest.mark.parametrize("kind", SOURCES)
def test_training_batches_of_a_subset_hold_each_image_once_an_epoch(
    source: Callable, kind: str
) -> None:
    whole = source(kind)
    subset = whole.subset(np.array([1, 2, 5, 6]))
    data = training_dataset(subset, batch_size=2, image_size=8, seed=0).take(2)
    labels = [int(label) for _, batch in data for label in batch]
    assert sorted(labels) == sorted(whole.read_labels()[[1, 2, 5, 6]].tolist())


def test_labels_of_a_source_without_any(tmp_path: Path) -> None:
    """Each kind says so in one line, also after a choice of images."""
    write_folder(tmp_path / "photos", {"": 4})
    prepare(tmp_path / "tfds", "no_labels", labels=None)
    images = np.zeros((4, 4, 4, 3), np.uint8)
    for whole in (
        InMemorySource(images, None, name="arrays", split="train"),
        open_source(str(tmp_path / "photos"), "all"),
        open_source("no_labels", "train[:4]", data_dir=str(tmp_path / "tfds")),
        source_from_dataset(tf.data.Dataset.from_tensor_slices(images)),
    ):
        for source in (whole, whole.subset(np.array([0, 2]))):
            with pytest.raises(UserError, match="Expected a data set with labels; received: '"):
                source.read_labels()
        with pytest.raises(UserError, match="Expected a data set with labels"):
            whole.hide_labels(np.array([1]))


CHOICES = st.lists(
    st.tuples(st.sampled_from(["subset", "hide_labels"]), st.sets(st.integers(0, 18), min_size=1)),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(choices=CHOICES)
@example(choices=[("hide_labels", {0, 3}), ("subset", {0, 1, 3})])
@example(choices=[("subset", {0, 1, 3}), ("hide_labels", {1}), ("hide_labels", {2})])
@example(choices=[("hide_labels", {1}), ("hide_labels", {2}), ("subset", {1, 2})])
@example(choices=[("subset", {1, 2, 4}), ("hide_labels", {0, 2}), ("subset", {1, 2})])
def test_choices_follow_each_other(
    source: Callable, kind: str, choices: list[tuple[str, set[int]]]
) -> None:
    """A choice among chosen or hidden examples is what it is in a plain list."""
    chosen = source(kind)
    wanted = examples(chosen)
    for how, drawn in choices:
        positions = np.array(sorted({position % len(wanted) for position in drawn}))
        chosen = getattr(chosen, how)(positions)
        if how == "subset":
            wanted = [wanted[position] for position in positions]
        else:
            wanted = [(x, y if i in positions else -1) for i, (x, y) in enumerate(wanted)]
        assert chosen.num_examples == len(wanted)
    assert chosen.read_labels().tolist() == [label for _, label in wanted]
    assert examples(chosen) == wanted


@pytest.mark.parametrize("known", [True, False], ids=["length known", "length unknown"])
def test_a_pass_over_chosen_elements_reads_the_users_data_once(known: bool) -> None:
    read = []

    def elements() -> Iterator[tuple[np.ndarray, int]]:
        for index in range(40):
            read.append(index)
            yield np.full((2, 2, 3), index, np.uint8), index % 3

    signature = (tf.TensorSpec((2, 2, 3), tf.uint8), tf.TensorSpec((), tf.int32))
    data = tf.data.Dataset.from_generator(elements, output_signature=signature)
    whole = source_from_dataset(data, num_classes=3, num_examples=40 if known else None)

    def count(use: Callable[[], object]) -> int:
        read.clear()
        use()
        return len(read)

    positions = np.array([2, 7, 11])
    subset, hidden = whole.subset(positions), whole.hide_labels(positions)
    assert count(lambda: examples(subset)) <= 14, "12 are needed, and what tf.data reads ahead"
    assert count(lambda: examples(hidden)) == 40
    assert count(lambda: [whole.read_labels() for _ in range(5)]) == 40
    assert count(lambda: (whole.subset(positions).read_labels(), hidden.read_labels())) <= 40
    assert count(lambda: whole.hide_labels(positions).read_labels()) == 0
    assert subset.read_labels().tolist() == [2, 1, 2]


@pytest.mark.parametrize("kind", ["TFDS", "tf.data"])
def test_looking_up_many_positions_costs_no_more_than_few(source: Callable, kind: str) -> None:
    """The work for one element must not grow with the positions: none is compared with all."""
    positions = np.arange(19)
    chosen = [source(kind).hide_labels(positions)]
    chosen += [source(kind).subset(positions)] if kind == "tf.data" else []
    for changed in chosen:
        functions = str(changed.ordered_keys()._as_serialized_graph().numpy())
        assert "Any" not in functions and "Equal" not in functions


def test_unreadable_images_are_noted_once_each_and_copies_keep_their_own_list() -> None:
    whole = open_source("mnist_5k", "train[:4]")
    whole._note_bad_image("a.png", "cut off")
    copied = copy.copy(whole)
    copied.bad_images = list(whole.bad_images)
    for path in ("a.png", "b.png", "b.png"):
        copied._note_bad_image(path, "cut off")
    for path in ("b.png", "a.png", "c.png"):
        whole._note_bad_image(path, "cut off")
    assert [path for path, _ in copied.bad_images] == ["a.png", "b.png"]
    assert [path for path, _ in whole.bad_images] == ["a.png", "b.png", "c.png"]


def test_unreadable_file_is_not_replaced_by_one_that_was_not_chosen(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos/train", {"a": 4, "b": 4})
    whole = open_source(str(folder.parent), "train")
    subset = whole.subset(np.array([0, whole.num_examples - 1]))
    Path(subset.paths[0]).write_bytes(b"no image")  # after its header was checked
    decoded = subset.ordered_keys().map(lambda key: subset.decode(key, replace_bad=True))
    assert [int(e["label"]) for e in decoded] == [1, 1]


def test_chosen_records_beyond_memory_are_refused(
    source: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simclr_tf.datasets import chosen_records

    monkeypatch.setattr(chosen_records, "machine_memory", lambda: 100)
    with pytest.raises(UserError, match=r"received: 3 of about .* Choose fewer"):
        source("TFDS").subset(np.array([0, 1, 2]))


# The list.


@pytest.mark.parametrize("kind", ["mnist_5k", "folder", "TFDS"])
def test_list_names_the_images_and_is_found_again(
    source: Callable, kind: str, tmp_path: Path
) -> None:
    opened, path = source(kind), str(tmp_path / LIST_FILE)
    chosen = find_labelled(opened, 0.1, 0, path)
    assert not (tmp_path / LIST_FILE).exists()  # looking writes nothing
    write_labelled(opened, chosen, path)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    labels = opened.read_labels()
    assert [int(row["position"]) for row in rows] == chosen.tolist()
    assert [int(row["label"]) for row in rows] == labels[chosen].tolist()
    assert [row["class"] for row in rows] == [opened.class_names[y] for y in labels[chosen]]
    if kind == "folder":
        assert rows[-1]["file"] == "train/c/0.png"
    # The list wins over fraction and seed.
    np.testing.assert_array_equal(find_labelled(opened, 0.9, 5, path), chosen)


def test_listed_files_are_found_by_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos/train", {"b": 10, "c": 10})
    path = str(tmp_path / LIST_FILE)
    before = open_source(str(folder.parent), "train")
    chosen = find_labelled(before, 0.2, 0, path)
    write_labelled(before, chosen, path)
    for index in range(3):  # they come first: every position moves
        shutil.copy(folder / "b/0.png", folder / f"b/.{index}.png".replace("/.", "/+"))
    after = open_source(str(folder.parent), "train")
    found = find_labelled(after, 0.2, 0, path)
    assert found.tolist() != chosen.tolist()
    assert [after.file_names()[i] for i in found] == [before.file_names()[i] for i in chosen]
    (folder / before.file_names()[chosen[0]].removeprefix("train/")).unlink()
    with pytest.raises(UserError, match="of 1 missing"):
        find_labelled(open_source(str(folder.parent), "train"), 0.2, 0, path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("position,file,label,class\n0,,9,9\n", "another label"),
        ("position,file,label,class\n4000,,1,1\n", "4000 images only"),
        ("position,file,label,class\n-1,,1,1\n", "4000 images only"),
        ("position,file,label,class\n3,,1,1\n3,,1,1\n", "one twice"),
        ("position,file,label,class\n", "no image"),
        ("position,file,label,class\nx,,1,1\n", "can't be read"),
        ("name\na.png\n", "no column class, file, label"),
        ("\0\1", "can't be read"),
    ],
)
def test_list_of_other_images_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / LIST_FILE
    path.write_text(text)
    source = open_source("mnist_5k", "train")
    with pytest.raises(UserError, match=expected) as caught:
        find_labelled(source, 0.1, 0, str(path))
    assert str(path) in str(caught.value) and path.read_text() == text


@pytest.mark.parametrize("ratio", [1, 10, 100])
def test_a_long_tail_falls_from_class_to_class(ratio: float) -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(4), 200))
    positions = long_tailed(labels, ratio, seed=1)
    counts = np.bincount(labels[positions], minlength=4)
    expected = [max(1, round(200 * ratio ** (-c / 3))) for c in range(4)]
    np.testing.assert_allclose(counts, expected, atol=1)
    assert (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(long_tailed(labels, ratio, seed=1), positions)
    if ratio > 1:
        assert set(long_tailed(labels, ratio, seed=2)) != set(positions)


def test_a_long_tail_of_unequal_classes_takes_what_there_is() -> None:
    labels = np.repeat([0, 1, 2], [100, 3, 50])
    counts = np.bincount(labels[long_tailed(labels, 4, seed=0)])
    assert counts.tolist() == [100, 3, 25]


@pytest.mark.parametrize("kind", ["mnist_5k", "folder", "TFDS"])
def test_balanced_batches_hold_classes_equally(source: Callable, kind: str) -> None:
    whole = source(kind)
    labels = whole.read_labels()
    few = np.flatnonzero(labels == labels[0])[:2]
    others = np.flatnonzero(labels != labels[0])
    part = whole.subset(np.sort(np.concatenate([few, others])))
    settings = {"batch_size": 8, "image_size": 8, "seed": 3, "balance_classes": True}
    batches = training_dataset(part, **settings).take(60)
    drawn = [label for _, batch in batches for label in batch.numpy().tolist()]
    shares = np.bincount(drawn) / len(drawn)
    present = np.unique(labels)
    np.testing.assert_allclose(shares[present], 1 / len(present), atol=0.1)
    again = training_dataset(part, **settings, start_example=8).take(2)
    np.testing.assert_array_equal(
        np.concatenate([batch for _, batch in again]), drawn[8:24], "a run goes on anywhere"
    )
