"""Speech, text, pictures with captions: what is made, its views, and the commands as typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fresh_python import run_module_without_tensorflow

from simclr_tf.errors import UserError
from simclr_tf.examples import captions, multimodal, sentences, sounds, speech, text
from simclr_tf.examples.frozen import some_of_each
from simclr_tf.examples.multimodal_retrieval import recalls
from simclr_tf.examples.spectrograms import Drawn, apply, draw, log_mel, spectrogram_views
from simclr_tf.examples.text_features import bag_of_words, masked_words, sentence_encoder

DOORS: dict[str, Any] = {"speech": speech, "text": text, "multimodal": multimodal}
SHORT = {
    "speech": ["--clips=60", "--test_clips=12", "--labelled=30"],
    "text": ["--sentences=40", "--test_sentences=12", "--labelled=24"],
    "multimodal": ["--pairs=32", "--test_pairs=9"],
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an example, expects an exit code; returns what it printed."""

    def run(name: str, *arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        argv = [name, *SHORT[name], "--steps=2", "--batch_size=8", *arguments]
        assert DOORS[name].main(argv) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert not code or err.splitlines()[-1].startswith(f"simclr_tf.examples.{name}: error: ")
        return err if code else out

    return run


# The commands.


@pytest.mark.parametrize("name", ["speech", "text"])
def test_features_beside_their_baselines(command: Callable[..., str], name: str) -> None:
    said = command(name)
    baselines = {"speech": "spectrograms", "text": "bag-of-words"}[name]
    scores = re.findall(rf"(\d\.\d+) (?:pretrained|untrained|{baselines})", said)
    assert len(scores) == 3 and all(0 <= float(score) <= 1 for score in scores)
    assert " 12 test " in said


@pytest.mark.second_lane
def test_retrieval_both_ways(command: Callable[..., str]) -> None:
    lines = command("multimodal").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["trained", "untrained", "chance"]
    assert re.findall(r"\d\.\d+", lines[3]) == ["0.111", "0.556"] * 2


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("speech", ["--steps=0"], "--steps of at least 1"),
        ("speech", ["--batch_size=61"], "--batch_size from 2 to the 60 clips"),
        ("speech", ["--labelled=61"], "--labelled of at most the 60 clips"),
        ("speech", ["--labelled=5"], "--labelled of at least two of each of 10 classes"),
        (
            "speech",
            ["--dataset=no_such_words"],
            "Expected words, or the name of a TensorFlow Datasets",
        ),
        ("text", ["--seed=-1"], r"--seed in [0, 2**31)"),
        ("text", ["--test_sentences=0"], "--test_sentences of at least 1"),
        ("multimodal", ["--batch_size=1"], "--batch_size from 2 to the 32 pairs"),
        ("multimodal", ["--test_pairs=481"], "--test_pairs of at most 480"),
        ("multimodal", ["--labelled=3"], "Unrecognized arguments"),
    ],
)
def test_wrong_arguments(
    command: Callable[..., str], name: str, arguments: list[str], expected: str
) -> None:
    assert expected in command(name, *arguments, code=2)


@pytest.mark.parametrize("name", DOORS)
def test_help_imports_no_tensorflow(tmp_path: Path, name: str) -> None:
    done = run_module_without_tensorflow(tmp_path, f"simclr_tf.examples.{name}", "--help")
    assert done.returncode == 0 and "--batch_size" in done.stdout, done.stderr
    assert "imported" not in done.stderr


@pytest.mark.one_lane  # docs/modalities.md has both lanes' figures, at the defaults
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "baseline", "margin"),
    [
        ("speech", ["--clips=500", "--steps=70", "--labelled=40"], "spectrograms", 0.05),
        ("text", ["--sentences=2000", "--steps=100", "--labelled=48"], "untrained", 0.15),
    ],
)
def test_pretraining_beats_a_baseline(
    command: Callable[..., str], name: str, settings: list[str], baseline: str, margin: float
) -> None:
    test = {"speech": "--test_clips=200", "text": "--test_sentences=300"}[name]
    said = command(name, *settings, test, "--batch_size=96")
    found = {kind: float(score) for score, kind in re.findall(r"(\d\.\d{3}) ([a-z]+)", said)}
    assert found["pretrained"] > found[baseline] + margin, said


@pytest.mark.one_lane
@pytest.mark.slow
def test_captions_are_found(command: Callable[..., str]) -> None:
    said = command("multimodal", "--pairs=1000", "--test_pairs=100", "--steps=80",
                   "--batch_size=64")  # fmt: skip
    trained = [float(x) for x in re.findall(r"\d\.\d+", said.splitlines()[1])]
    assert min(trained[1::2]) > 0.2, said  # recall@5; chance 0.05


# Speech.


@pytest.mark.one_lane
def test_words_follow_the_seed_and_differ() -> None:
    clips = sounds.make_words(60, seed=3)
    fewer = sounds.make_words(2, seed=3)
    np.testing.assert_array_equal(clips.waves[:2], fewer.waves)
    assert clips.waves.shape == (60, 3200) and clips.waves.dtype == np.float32
    assert len(np.unique(clips.labels)) == len(sounds.WORDS)
    assert (sounds.make_words(2, seed=4).waves != fewer.waves).any()
    assert 0.1 < np.abs(clips.waves).max() < 3


def test_a_tone_lies_in_its_mel_band() -> None:
    time = np.arange(8000) / 8000
    tones = [np.sin(2 * np.pi * hertz * time) for hertz in (300, 1000, 3000)]
    bands = log_mel(np.float32(tones), 8000).mean(axis=1)
    assert bands.shape == (3, 32)
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (80, 300, 1000, 3000, 4000)]
    expected = [33 * (m - mel[0]) / (mel[-1] - mel[0]) - 1 for m in mel[1:-1]]
    np.testing.assert_allclose(bands.argmax(axis=1), expected, atol=1.01)
    silent = log_mel(np.zeros([1, 8000], np.float32), 8000)
    assert np.isfinite(silent).all()


def test_views_equal_a_loop() -> None:
    frames, bands = 11, 5
    random = np.random.RandomState(0)
    given = random.normal(size=(2, frames, bands)).astype("float32")
    drawn = Drawn(
        shifts=tf.constant([[2, -1], [-3, 1]]),
        time_mask=tf.constant([[0.3, 0.25], [0.9, 0.1]]),
        mel_mask=tf.constant([[0.0, 0.4], [0.5, 0.0]]),
        loudness=tf.constant([0.5, -0.25]),
        noise=tf.constant(random.normal(size=(2, frames, bands)).astype("float32")),
    )
    views = apply(tf.constant(given), drawn).numpy()
    for n, frame, band in np.ndindex(2, frames, bands):
        at = np.clip(frame - int(drawn.shifts[n, 0]), 0, frames - 1)
        mel = np.clip(band - int(drawn.shifts[n, 1]), 0, bands - 1)
        value = given[n, at, mel] + float(drawn.loudness[n]) + float(drawn.noise[n, frame, band])
        for place, mask in (((frame + 0.5) / frames, drawn.time_mask[n]),
                            ((band + 0.5) / bands, drawn.mel_mask[n])):  # fmt: skip
            if float(mask[0]) <= place < float(mask[0]) + float(mask[1]):
                value = 0.0
        assert views[n, frame, band] == pytest.approx(value, abs=1e-6)


def test_draws_stay_in_range_and_follow_the_seed() -> None:
    shape = tf.constant([500, 30, 32])
    drawn = draw(shape, tf.constant([1, 2]))
    assert np.abs(drawn.shifts[:, 0]).max() == 7 and np.abs(drawn.shifts[:, 1]).max() == 2
    for mask, longest in ((drawn.time_mask, 0.25), (drawn.mel_mask, 0.2)):
        assert mask[:, 0].numpy().min() >= 0 and mask.numpy().sum(1).max() <= 1
        assert 0.9 * longest < mask[:, 1].numpy().max() <= longest
    x = tf.zeros([4, 30, 32])
    first, second = (spectrogram_views(x, tf.constant([1, seed])) for seed in (2, 3))
    np.testing.assert_array_equal(first, spectrogram_views(x, tf.constant([1, 2])))
    assert (first.numpy() != second.numpy()).any() and (first[0].numpy() != first[1].numpy()).any()


def test_clips_of_a_data_set(command: Callable[..., str], tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.core.registered.skip_registration():

        class Said(tfds.core.GeneratorBasedBuilder):
            name = "said"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "audio": tfds.features.Audio(sample_rate=2000),
                            "label": tfds.features.ClassLabel(names=["low", "high"]),
                        }
                    ),
                )

            def _split_generators(self, manager: Any) -> Any:
                return {"train": self._generate_examples(24), "test": self._generate_examples(9)}

            def _generate_examples(self, count: int) -> Any:
                for index in range(count):
                    # Some are shorter than a second, one is longer.
                    wave = np.sin(np.arange(1500 + 70 * index) * (0.3 + index % 2))
                    yield index, {"audio": np.int64(2**14 * wave), "label": index % 2}

    Said(data_dir=str(tmp_path)).download_and_prepare()
    clips = sounds.read_clips("said", "train", 20, str(tmp_path))
    assert clips.waves.shape == (20, 2000) and clips.rate == 2000
    assert np.abs(clips.waves).max() == pytest.approx(0.5, abs=0.01)
    assert set(clips.labels) == {0, 1} and not clips.waves[0, -100:].all()
    said = command("speech", "--dataset=said", f"--data_dir={tmp_path}", "--labelled=8")
    assert "Accuracy on 9 test clips, logistic regression on 8" in said
    with pytest.raises(UserError, match="split validation; received: .said. with train, test"):
        sounds.read_clips("said", "validation", 20, str(tmp_path))


# Text.


@pytest.mark.one_lane
def test_sentences_are_of_their_topic() -> None:
    made = sentences.make_sentences(400, seed=0)
    again = sentences.make_sentences(400, seed=0)
    assert made.texts == again.texts and made.texts != sentences.make_sentences(400, 1).texts
    lengths = [len(words.split()) for words in made.texts]
    np.testing.assert_array_equal(made.mask.sum(1), lengths)
    assert min(lengths) >= 5 and max(lengths) <= sentences.LENGTH
    assert set(made.topics) == set(range(6))
    for row, words in zip(made.ids, made.texts, strict=True):
        assert [sentences.WORDS[i - 2] for i in row if i] == words.split()
    counts = bag_of_words(made.ids)
    assert counts.sum() == sum(lengths) and counts.shape == (400, len(sentences.WORDS))
    sea = made.topics == sentences.TOPICS.index("sea")
    boat = counts[:, sentences.WORDS.index("boat")]
    assert boat[sea].mean() > 3 * boat[~sea].mean()


def test_masked_words_and_padding() -> None:
    made = sentences.make_sentences(200, seed=0)
    inputs = {name: tf.constant(part) for name, part in made.inputs().items()}
    views = masked_words(inputs, tf.constant([0, 1]))
    ids = views["ids"].numpy()
    masked = ids == sentences.MASKED
    np.testing.assert_array_equal(ids[~masked], made.ids[~masked])
    assert not masked[made.mask == 0].any()
    assert masked[made.mask > 0].mean() == pytest.approx(0.3, abs=0.03)
    # What stands behind the end changes no feature.
    encoder = sentence_encoder()
    filled = {**made.inputs(), "ids": np.where(made.mask > 0, made.ids, 7)}
    plain, other = (encoder.predict(x, verbose=0) for x in (made.inputs(), filled))
    np.testing.assert_allclose(plain, other, atol=1e-5)


# Pictures and captions.


@pytest.mark.one_lane
def test_captions_say_what_is_seen() -> None:
    pairs = captions.make_pairs("test", 480, seed=0, distinct=True)
    words = [set(caption.split()) for caption in pairs.captions]
    half = captions.SIDE // 2
    assert pairs.images.min() >= 0 and pairs.images.max() <= 1
    seen = set()
    for image, said, row in zip(pairs.images, words, pairs.ids, strict=True):
        ink = image.sum(-1)
        centre = [
            (ink.sum(1 - axis) * np.arange(captions.SIDE)).sum() / ink.sum() for axis in (0, 1)
        ]
        assert ("bottom" in said) == (centre[0] > half) and ("right" in said) == (centre[1] > half)
        red, green, blue = image.max(axis=(0, 1))
        if "red" in said:
            assert red > 2 * max(green, blue)
        if "green" in said:
            assert green > 2 * max(red, blue)
        assert {captions.WORDS[i - 1] for i in row if i} == said
        meaning = said - {"a", "at", "the", "is", "in", "and"}
        seen.add(frozenset(meaning))
    assert len(seen) == 480
    np.testing.assert_array_equal(
        pairs.images[:3], captions.make_pairs("test", 480, 0, distinct=True).images[:3]
    )


@pytest.mark.one_lane
def test_recalls_equal_a_loop() -> None:
    random = np.random.RandomState(0)
    first, second = random.normal(size=(2, 30, 4))
    second += first
    found = recalls(first, second)
    for side, (queries, gallery) in zip(found, ((first, second), (second, first)), strict=True):
        for k, share in zip((1, 5), side, strict=True):
            right = 0
            for i, query in enumerate(queries):
                cosine = [query @ g / np.linalg.norm(query) / np.linalg.norm(g) for g in gallery]
                right += sum(c > cosine[i] for c in cosine) < k
            assert share == pytest.approx(right / 30)


@pytest.mark.one_lane
def test_labelled_rows_are_spread_over_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 8, 3])
    chosen = some_of_each(labels, 12, seed=0)
    assert len(set(chosen)) == 12
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [5, 4, 3])
    with pytest.raises(UserError, match="two of each of 3 classes"):
        some_of_each(labels, 5, seed=0)
    with pytest.raises(UserError, match="two classes or more"):
        some_of_each(np.zeros(9, int), 5, seed=0)
