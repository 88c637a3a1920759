"""One image file: every format and mode, 16 bits, rotation, reduced decoding."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from image_files import RED, decode_all, save
from PIL import Image

from simclr_tf.datasets import decoding, open_source

pytestmark = pytest.mark.one_lane
GREY = (90, 90, 90)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPEG", "a.png", "a.PNG", "a.webp", "a.bmp", "a.gif", "a.jfif"]
)
def test_formats_give_the_same_colours(tmp_path, name):
    formats = {".jfif": {"format": "JPEG"}}
    save(tmp_path / name, **formats.get(os.path.splitext(name)[1], {}))
    (example,) = decode_all(open_source(str(tmp_path), "all", eval_fraction=0.5))
    assert example["image"].shape == (10, 12, 3) and example["image"].dtype == np.uint8
    assert example["size"].tolist() == [10, 12] and example["ok"] and "label" not in example
    np.testing.assert_allclose(example["image"].mean((0, 1)), RED, atol=4)


@pytest.mark.parametrize(
    ("mode", "name", "color"),
    [
        ("L", "a.png", GREY), ("L", "a.jpg", GREY), ("LA", "a.png", GREY), ("P", "a.png", RED),
        ("P", "a.gif", RED), ("RGBA", "a.png", RED), ("RGBA", "a.webp", RED),
        ("CMYK", "a.jpg", RED), ("1", "a.png", (255, 255, 255)), ("1", "a.bmp", (0, 0, 0)),
    ],
)  # fmt: skip
def test_modes_become_rgb(tmp_path, mode, name, color):
    save(tmp_path / name, mode=mode, color=color)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode or name.endswith((".gif", ".webp"))  # the case is what it says
    image, size = decoding.decode_file(str(tmp_path / name))
    assert image.shape == (10, 12, 3) and image.dtype == np.uint8 and size == (10, 12)
    np.testing.assert_allclose(image.mean((0, 1)), color, atol=8)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 257], [32768, 65278, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image, _ = decoding.decode_file(str(tmp_path / "deep.png"))
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, -1))


def test_16_bit_colour_png(tmp_path):
    # Pillow does not write 16-bit colour: a PNG by hand, one row of two pixels.
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\0" + struct.pack(">6H", 65535, 32768, 0, 514, 771, 1028)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    image, _ = decoding.decode_file(str(tmp_path / "a.png"))
    np.testing.assert_allclose(image[0].astype(int), [[255, 128, 0], [2, 3, 4]], atol=1)


def test_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), color) for color in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, _ = decoding.decode_file(str(tmp_path / "a.gif"))
    np.testing.assert_allclose(image.mean((0, 1)), RED, atol=8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation(tmp_path, suffix, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # the upper left quarter is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **options)
    # Orientation 6: turn the stored picture clockwise to see it upright; 8: the other way.
    expected = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}
    image, size = decoding.decode_file(str(path))
    np.testing.assert_allclose(image, expected[orientation], atol=6)
    assert (*size, 3) == image.shape == decoding.read_header(str(path))


def test_extension_does_not_matter_for_decoding(tmp_path):
    save(tmp_path / "really_a_png.jpg", format="PNG")
    assert open_source(str(tmp_path), "all", eval_fraction=0.5).num_examples == 1


def test_webp_is_read_in_a_fresh_process(tmp_path):
    # Pillow loads its WebP reader late, and other tests here have loaded it already.
    path = save(tmp_path / "a.webp")
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['decode_file'](sys.argv[2])[1])"
    command = [sys.executable, "-c", code, decoding.__file__, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "(10, 12)", result.stderr


@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_keeps_the_original_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "big.jpg", size=(640, 400), exif=exif)
    original = (400, 640) if orientation == 1 else (640, 400)
    full, _ = decoding.decode_file(str(tmp_path / "big.jpg"))
    small, size = decoding.decode_file(str(tmp_path / "big.jpg"), min_side=100)
    assert full.shape[:2] == size == original
    assert small.shape[:2] == (original[0] // 4, original[1] // 4)
    same, _ = decoding.decode_file(str(tmp_path / "big.jpg"), min_side=500)
    assert same.shape == full.shape
