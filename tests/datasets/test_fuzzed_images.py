"""Image files of any content: read, or refused with one short reason; little memory, no waiting."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutated import cases, mutated
from PIL import Image

from simclr_tf.datasets.decoding import MAX_PIXELS, BadImageError, decode_file, read_header
from simclr_tf.datasets.folder_walk import visited_folders
from simclr_tf.errors import UserError
from simclr_tf.images.transparency import TRANSPARENT, composite

pytestmark = pytest.mark.one_lane
_SIDES = st.sampled_from((0, 1, 300, 13_000, 13_377, 16_383, 50_000, 65_500, 2**24, 2**31 - 1))


def _encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def _originals() -> dict[str, bytes]:
    """Small valid files of every format, with palettes, opacity, rotation, frames."""
    random = np.random.RandomState(0)
    image = Image.fromarray(random.randint(0, 256, (14, 18, 3)).astype("uint8"))
    grey = Image.fromarray(random.randint(0, 65535, (9, 7)).astype("uint16"))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    return {
        "png": _encoded(image.convert("RGBA"), format="PNG", exif=turned),
        "palette": _encoded(image.convert("P"), format="PNG", transparency=3),
        "grey": _encoded(grey, format="PNG"),
        "jpeg": _encoded(image, format="JPEG", exif=turned),
        "progressive": _encoded(image.convert("CMYK"), format="JPEG", progressive=True),
        "bmp": _encoded(image, format="BMP"),
        "gif": _encoded(image, format="GIF", **frames),
        "webp": _encoded(image, format="WEBP", lossless=True, exif=turned),
        "frames": _encoded(image.convert("RGBA"), format="WEBP", **frames),
    }


ORIGINALS = _originals()


def _claiming(name: str, width: int, height: int) -> bytes:
    """Returns one of the files, whose header says another size."""
    content = bytearray(ORIGINALS[name])
    short = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    if content[:4] == b"\x89PNG":
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif content[:2] == b"BM":
        content[18:26] = struct.pack("<ii", width, height)
    elif content[:3] == b"GIF":
        content[6:10] = short
        frame = content.find(b"\x2c")
        content[frame + 5 : frame + 9] = short
    elif content[:4] == b"RIFF":
        canvas = content.find(b"VP8X")
        sides = ((side - 1) % 2**24 for side in (width, height))
        content[canvas + 12 : canvas + 18] = b"".join(side.to_bytes(3, "little") for side in sides)
    else:
        frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        content[frame + 5 : frame + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(content)


def _read(path: Path, transparent: str = "mean") -> str | None:
    """Reads a file in every way; returns why it was refused, None where it was read."""
    reasons = []
    began = time.process_time()
    for read in (
        lambda: read_header(str(path)),
        lambda: decode_file(str(path), transparent=transparent)[0],
        lambda: decode_file(str(path), min_side=4)[0],
    ):
        try:
            image = read()
            assert isinstance(image, tuple) or (image.dtype == np.uint8 and image.shape[2:] == (3,))
        except BadImageError as error:
            reasons.append(str(error))
            assert 0 < len(str(error)) < 300 and "\n" not in str(error)
    assert time.process_time() - began < 10
    return reasons[0] if reasons else None


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images") / "x.png"


@cases(0.12)
@given(content=mutated(*ORIGINALS.values()), transparent=st.sampled_from(TRANSPARENT))
def test_any_content(file: Path, content: bytes, transparent: str) -> None:
    file.write_bytes(content)
    _read(file, transparent)


@cases(0.03)
@given(name=st.sampled_from(sorted(ORIGINALS)), width=_SIDES, height=_SIDES)
def test_any_size_in_the_header(file: Path, name: str, width: int, height: int) -> None:
    """What is allocated by Pillow isn't seen here, what NumPy makes of it is."""
    file.write_bytes(_claiming(name, width, height))
    tracemalloc.start()
    try:
        _read(file)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["png", "jpeg", "progressive", "bmp", "gif", "frames"])
def test_more_pixels_than_the_bytes_can_hold(file: Path, name: str) -> None:
    file.write_bytes(_claiming(name, 13_000, 13_000))
    assert "can't hold 13000 x 13000" in str(_read(file))


@pytest.mark.parametrize("name", ["png", "frames"])
def test_more_pixels_than_anybody_wants(file: Path, name: str) -> None:
    file.write_bytes(_claiming(name, 65_500, 65_500))
    assert f"more than {MAX_PIXELS:,} pixels" in str(_read(file))


def test_a_plain_picture_is_no_trap(file: Path) -> None:
    """One colour compresses better than anything else, and is an image all the same."""
    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True}, {"format": "GIF"}):
        file.write_bytes(_encoded(Image.new("1", (1500, 1000)).convert("L"), **options))
        assert _read(file) is None


def test_a_large_picture_is_laid_over_its_ground_in_strips() -> None:
    colours = np.random.RandomState(0).randint(0, 256, (1200, 1200, 3)).astype("uint8")
    alpha = colours[..., 0]
    tracemalloc.start()
    whole = composite(colours, alpha, "mean")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * colours.nbytes
    weights = alpha[..., np.newaxis].astype(np.int64)
    total = int(alpha.sum(dtype=np.int64))
    ground = (2 * (colours * weights).sum((0, 1)) + total) // (2 * total)
    assert (whole == (colours * weights + ground * (255 - weights) + 127) // 255).all()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "x.png")
    assert "no regular file" in str(_read(tmp_path / "x.png"))


def test_folders_that_link_to_each_other(tmp_path: Path) -> None:
    """Eight of them can be put in order in 40,320 ways."""
    names = [f"class{i}" for i in range(8)]
    for name in names:
        (tmp_path / name).mkdir()
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    with pytest.raises(UserError, match="links in .* lead to"):
        visited_folders(str(tmp_path))
