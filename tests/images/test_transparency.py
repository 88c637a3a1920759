"""Transparent images: one rule in every decoder, before any resizing; flat images are counted."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_tf.config import Config, differences
from simclr_tf.datasets import open_source
from simclr_tf.datasets.decoding import decode_file
from simclr_tf.datasets.pipeline import evaluation_dataset, training_dataset
from simclr_tf.errors import UserError
from simclr_tf.images import transparency, transparency_ops
from simclr_tf.runs import folder as run_folder
from tf_hub_export.input_contract import InputContract
from tf_hub_export.signatures import make_signatures

GROUNDS = {"white": 255, "black": 0}


def reference(colours: np.ndarray, alpha: np.ndarray, transparent: str) -> np.ndarray:
    """The rule in floating point, one pixel after the other."""
    if transparent == "keep":
        return colours.astype(float)
    a = alpha.astype(float)
    ground: np.ndarray | float = float(GROUNDS.get(transparent, 255))
    if transparent == "mean" and a.sum():
        ground = np.floor((colours * a[..., None]).sum((0, 1)) / a.sum() + 0.5)
    out = np.empty(colours.shape)
    for y, x in np.ndindex(alpha.shape):
        share = a[y, x] / 255
        out[y, x] = colours[y, x] * share + ground * (1 - share)
    return out


def drawn(seed: int, mode: str = "RGBA", size: tuple[int, int] = (7, 9)) -> np.ndarray:
    random = np.random.RandomState(seed)
    pixels = random.randint(0, 256, (*size, len(mode))).astype(np.uint8)
    pixels[..., -1] = random.choice([0, 1, 77, 128, 254, 255], size)
    return pixels


def png(path: Path, depth: int, kind: int, row: bytes, width: int, clear: bytes = b"") -> None:
    """Writes a PNG of one row by hand, with what its tRNS chunk holds: Pillow writes no such."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *([chunk(b"tRNS", clear)] if clear else [])]
    parts += [chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("transparent", transparency.TRANSPARENT)
def test_both_decoders_follow_the_rule(tmp_path: Path, transparent: str) -> None:
    """Files of every form of opacity: Pillow's side, TensorFlow's, and the rule agree."""
    files: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(name: str, colours: np.ndarray, alpha: np.ndarray) -> Path:
        files[name] = np.broadcast_to(colours, (*alpha.shape, 3)), alpha
        return tmp_path / name

    for seed, mode in enumerate(("RGBA", "LA")):
        pixels = drawn(seed, mode)
        Image.fromarray(pixels, mode).save(add(f"{mode}.png", pixels[..., :-1], pixels[..., -1]))
    nothing = drawn(3)
    nothing[..., 3] = 0
    Image.fromarray(nothing).save(add("nothing.png", nothing[..., :3], nothing[..., 3]))
    # One grey value or one colour that stands for transparent (tRNS), at every depth.
    ramp = {1: [0, 1] * 4, 2: [0, 1, 2, 3] * 2, 4: list(range(16)), 8: list(range(0, 256, 5))}
    for depth, values in ramp.items():
        bits = "".join(f"{v:0{depth}b}" for v in values)
        row = int(bits, 2).to_bytes(len(bits) // 8, "big")
        clear = values[1]
        grey = np.array([values]) * 255 // (2**depth - 1)
        alpha = np.where(np.array([values]) == clear, 0, 255).astype(np.uint8)
        path = add(f"grey{depth}.png", grey[..., None].astype(np.uint8), alpha)
        png(path, depth, 0, row, len(values), struct.pack(">H", clear))
    colours = np.array([[[1, 2, 3], [200, 2, 3], [9, 9, 9]]], np.uint8)
    path = add("rgb.png", colours, np.array([[255, 0, 255]], np.uint8))
    png(path, 8, 2, colours.tobytes(), 3, struct.pack(">3H", 200, 2, 3))
    deep = np.array([[[0xC8C8, 0x0505, 0x0A0A, 0x8080], [0x1010, 0x2020, 0xFEFE, 0]]], np.uint16)
    path = add("deep.png", (deep[..., :3] >> 8).astype(np.uint8), (deep[..., 3] >> 8).astype("u1"))
    png(path, 16, 6, deep.astype(">u2").tobytes(), 2)
    path = add("deep_la.png", (deep[..., :1] >> 8).astype("u1"), (deep[..., 3] >> 8).astype("u1"))
    png(path, 16, 4, deep[..., [0, 3]].astype(">u2").tobytes(), 2)
    path = add("deep_grey.png", np.array([[[7], [200]]], "u1"), np.array([[255, 0]], "u1"))
    row = struct.pack(">2H", 0x0707, 0xC8C8)
    png(path, 16, 0, row, 2, struct.pack(">H", 0xC8C8))
    palette = Image.new("P", (4, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 250, 0, 9, 9, 200])
    palette.putdata([0, 1, 2, 3])
    table = np.array([[[10, 20, 30], [200, 0, 0], [0, 250, 0], [9, 9, 200]]], np.uint8)
    full = np.array([[0, 100, 255, 30]], np.uint8)
    palette.save(add("palette.png", table, full), transparency=full.tobytes())
    single = np.array([[255, 255, 0, 255]], np.uint8)
    palette.save(add("index.png", table, single), transparency=2)
    palette.save(add("index.gif", table, single), transparency=2)
    webp = drawn(5)
    Image.fromarray(webp).save(
        add("lossless.webp", webp[..., :3], webp[..., 3]), lossless=True, exact=True
    )
    decode = tf.function(lambda e: transparency_ops.decode_encoded(e, 3, transparent))
    for name, (stored, alpha) in files.items():
        expected = reference(stored, alpha, transparent)
        ours, _ = decode_file(str(tmp_path / name), transparent=transparent)
        assert ours.dtype == np.uint8
        # A colour of 16 bits is cut, not rounded, by both decoders.
        np.testing.assert_allclose(ours, expected, atol=0.51, err_msg=name)
        if name.endswith(".png"):
            theirs = decode(tf.io.read_file(str(tmp_path / name))).numpy()
            limit = 1 if name.startswith("deep") else 0
            assert np.abs(theirs.astype(int) - ours).max() <= limit, name


def test_opaque_images_are_untouched(tmp_path: Path) -> None:
    pixels = drawn(0)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for transparent in transparency.TRANSPARENT:
        image, _ = decode_file(str(tmp_path / "a.png"), transparent=transparent)
        np.testing.assert_array_equal(image, pixels[..., :3])


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_rotated_by_exif(tmp_path: Path, suffix: str) -> None:
    pixels = drawn(1, size=(6, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    image, size = decode_file(str(tmp_path / f"a.{suffix}"))
    assert size == (10, 6)
    expected = reference(pixels[..., :3], pixels[..., 3], "white")
    np.testing.assert_allclose(image, np.rot90(expected, -1), atol=0.51)


def hidden_red(folder: Path) -> None:
    """A black square on a transparent ground that stores red, and an image of another size."""
    pixels = np.zeros((90, 60, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[30:60, 20:40] = (0, 0, 0, 255)
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "square.png")
    Image.fromarray(pixels[:50]).save(folder / "other.png")


def test_no_fringe_of_hidden_colour_in_any_pipeline(tmp_path: Path) -> None:
    """Whatever resizes, red that nobody sees must not appear: all channels stay equal."""
    hidden_red(tmp_path / "a")
    source = open_source(str(tmp_path / "a"), "all", eval_fraction=0.5)
    batch = next(iter(training_dataset(source, batch_size=2, image_size=16, seed=0)))[0]
    (seen,) = next(iter(evaluation_dataset(source, batch_size=2, image_size=40)))
    contract = InputContract((None, None, None, 3), (40, 40))
    serve = make_signatures(lambda x, t: {"final_avg_pool": x}, contract)["serving_bytes"]
    files = tf.constant([Path(path).read_bytes() for path in source.paths])
    served = serve(files)["features"]
    for image in (batch["image"], seen, served):
        image = np.asarray(image)
        np.testing.assert_allclose(image[..., 0], image[..., 2], atol=1e-6)
        assert image.min() < 0.2 * image.max()
    np.testing.assert_allclose(served, seen, atol=1e-6)


def test_grey_networks_are_served_too() -> None:
    pixels = drawn(2, "LA")
    contract = InputContract((None, 8, 8, 1), (8, 8), "black")
    decoded = transparency_ops.decode_encoded(tf.io.encode_png(pixels), 1, contract.transparent)
    expected = reference(pixels[..., :1], pixels[..., 1], "black")
    np.testing.assert_allclose(decoded, expected, atol=0.51)
    serve = make_signatures(lambda x, t: {"final_avg_pool": x}, contract)["serving_bytes"]
    assert serve(tf.stack([tf.io.encode_png(pixels)]))["features"].shape == (1, 8, 8, 1)


@pytest.mark.parametrize("channels", [3, 4])
def test_data_sets_of_tfds(tmp_path: Path, channels: int) -> None:
    """Also where three channels are declared and the files have four."""
    import tensorflow_datasets as tfds

    pixels = drawn(4)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    class Drawings(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = f"drawings{channels}"

        def _info(self):
            image = tfds.features.Image(shape=(None, None, channels))
            label = tfds.features.ClassLabel(num_classes=2)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"image": str(tmp_path / "a.png"), "label": 1}

    Drawings(data_dir=str(tmp_path / "data")).download_and_prepare()
    for transparent in transparency.TRANSPARENT:
        source = open_source(
            f"drawings{channels}", "train", data_dir=str(tmp_path / "data"),
            transparent=transparent,
        )  # fmt: skip
        (example,) = source.ordered_keys().map(source.decode).as_numpy_iterator()
        expected = reference(pixels[..., :3], pixels[..., 3], transparent)
        np.testing.assert_allclose(example["image"], expected, atol=0.51)
        assert example["label"] == 1


def test_flat_images_are_counted_named_and_kept(tmp_path: Path) -> None:
    Image.fromarray(drawn(0)).save(tmp_path / "drawing.png")
    for name in ("b.png", "a.png"):
        Image.new("RGBA", (40, 30), (255, 255, 255, 255)).save(tmp_path / name)
    dot = np.full((40, 30, 3), 9, np.uint8)
    dot[7, 5] = 10  # where a sparse look does not fall
    Image.fromarray(dot).save(tmp_path / "dot.png")
    source = open_source(str(tmp_path), "all", eval_fraction=0.3)
    assert source.notices() == []
    for _ in range(2):  # an image counts once
        assert len(list(source.ordered_keys().map(source.decode))) == 4
    (line,) = source.notices()
    assert line.startswith(f"Kept 2 image(s) that are one flat colour, the first being {tmp_path}")
    assert "a.png" in line


def test_wrong_choice(tmp_path: Path) -> None:
    for dataset in (str(tmp_path), "mnist_5k"):
        with pytest.raises(UserError, match="white, black, keep, mean; received: 'grey'"):
            open_source(dataset, "train", transparent="grey")


def test_a_run_of_an_earlier_version_goes_on_as_it_began(tmp_path: Path) -> None:
    config = Config(dataset="mnist_5k", model_dir=str(tmp_path))
    settings = {n: v for n, v in config.to_dict().items() if n != "transparent"}
    (tmp_path / "flags.json").write_text(json.dumps(settings))
    for _ in range(2):  # and again, however often it resumes
        resumed, (line,) = run_folder.as_begun(config)
        assert resumed.transparent == "keep" and "--transparent=keep" in line
        assert run_folder.open_folder(resumed) == []
        run_folder.write_settings(resumed)
    black = Config(dataset="mnist_5k", model_dir=str(tmp_path), transparent="black")
    with pytest.raises(UserError, match="transparent .keep there, black now"):
        run_folder.open_folder(run_folder.as_begun(black)[0])
    assert run_folder.complete(settings)["transparent"] == "keep"
    assert differences(config.to_dict(), config) == ({}, {})
