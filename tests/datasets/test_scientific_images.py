"""TIFF of any number of channels and DICOM: values, channels, windows, damage."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from image_files import decode_all, noise, truncate

from simclr_tf.datasets import decoding, open_source
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane
tifffile = pytest.importorskip("tifffile")
pydicom = pytest.importorskip("pydicom")


def random(*shape, dtype=np.uint8, most=256, seed=0):
    return np.random.RandomState(seed).randint(0, most, shape).astype(dtype)


def decoded(path, **options):
    """Decodes a file, and checks that its header tells the same shape."""
    image, size = decoding.decode_file(str(path), **options)
    assert image.dtype == np.uint8 and size == image.shape[:2]
    assert decoding.read_header(str(path)) == image.shape
    return image


# --------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_are_channels(tmp_path, channels, planar):
    values = random(7, 9, channels)
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    options = {"photometric": "minisblack", "planarconfig": planar}
    options["extrasamples"] = [0] * (channels - 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    np.testing.assert_array_equal(decoded(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("kind", [{"imagej": True}, {"ome": True}])
def test_pages_of_channels_are_channels_and_others_are_not(tmp_path, kind):
    values = random(4, 7, 9, dtype=np.uint16, most=65536)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": "CYX"}, **kind)
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(decoded(tmp_path / "a.tif"), np.moveaxis(expected, 0, -1))
    tifffile.imwrite(tmp_path / "b.tif", values, metadata={"axes": "ZYX"}, **kind)
    np.testing.assert_array_equal(decoded(tmp_path / "b.tif")[..., 1], expected[0])
    both = random(3, 2, 7, 9, dtype=np.uint16, most=65536)
    tifffile.imwrite(tmp_path / "c.tif", both, metadata={"axes": "TCYX"}, **kind)
    first = np.moveaxis(np.round(both[0] / 65535 * 255), 0, -1)
    np.testing.assert_array_equal(decoded(tmp_path / "c.tif"), first)


def test_arrays_without_names_of_axes(tmp_path):
    """As tifffile.imwrite(path, array) leaves them."""
    for shape in ((5, 16, 12), (16, 12, 5)):
        values = random(*shape)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
        expected = values if shape[-1] == 5 else np.moveaxis(values, 0, -1)
        np.testing.assert_array_equal(decoded(tmp_path / "a.tif"), expected)
    tifffile.imwrite(tmp_path / "a.tif", random(12, 12, 12), photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        for seed in range(3):
            writer.write(random(9, 9, seed=seed), metadata=None)
    for name in ("a.tif", "b.tif"):
        with pytest.raises(decoding.BadImageError, match="nothing says what are channels"):
            decoding.read_header(str(tmp_path / name))


def test_the_white_level_of_16_bits(tmp_path):
    values = np.array([[0, 100, 2048, 4095, 5000, 65535]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values)
    whole = decoded(tmp_path / "a.tif")[0, :, 0]
    assert whole.tolist() == [round(int(v) / 65535 * 255) for v in values[0]]
    twelve = decoded(tmp_path / "a.tif", white_level=4095)[0, :, 0]
    assert twelve.tolist() == [0, 6, 128, 255, 255, 255]
    source = open_source(str(tmp_path), "all", white_level=4095)
    assert decode_all(source)[0]["image"][0, :, 0].tolist() == twelve.tolist()


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "jpeg"])
def test_compressed_colour(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    values = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, photometric="rgb")
    np.testing.assert_allclose(decoded(tmp_path / "a.tif"), values, atol=3)


def test_inverted_palette_bilevel_and_opacity(tmp_path):
    grey = random(5, 6)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    np.testing.assert_array_equal(decoded(tmp_path / "a.tif")[..., 2], 255 - grey)
    colours = random(3, 256, dtype=np.uint16, most=65536)
    tifffile.imwrite(tmp_path / "b.tif", grey, photometric="palette", colormap=colours)
    expected = np.moveaxis(colours[:, grey] >> 8, 0, -1)
    np.testing.assert_array_equal(decoded(tmp_path / "b.tif"), expected)
    tifffile.imwrite(tmp_path / "c.tif", grey > 128, photometric="minisblack")
    np.testing.assert_array_equal(decoded(tmp_path / "c.tif")[..., 0], 255 * (grey > 128))
    clear = np.zeros((2, 2, 4), np.uint8)
    tifffile.imwrite(tmp_path / "d.tif", clear, photometric="rgb", extrasamples=["unassalpha"])
    assert (decoded(tmp_path / "d.tif") == 255).all()
    assert (decoded(tmp_path / "d.tif", transparent="black") == 0).all()
    # Opacity has a white of its own: the full range, whatever that of the colours.
    half = np.full((2, 2, 4), 20000, np.uint16)
    tifffile.imwrite(tmp_path / "e.tif", half, photometric="rgb", extrasamples=["unassalpha"])
    found = decoded(tmp_path / "e.tif", transparent="black", white_level=20000)
    assert np.abs(found.astype(int) - round(255 * 20000 / 65535)).max() <= 1


def test_orientations_are_those_of_exif(tmp_path):
    from PIL import Image, ImageOps

    values = random(4, 6, 3)
    for orientation in range(1, 9):
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
        image = Image.fromarray(values)
        image.getexif()[274] = orientation
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(decoded(tmp_path / "a.tif"), expected)


def test_all_images_of_a_set_have_as_many_channels(tmp_path):
    for i in range(4):
        tifffile.imwrite(tmp_path / f"{i}.tif", random(6, 8, 5, seed=i))
    source = open_source(str(tmp_path), "all")
    assert source.image_shape == (6, 8, 5)
    assert {e["image"].shape for e in decode_all(source)} == {(6, 8, 5)}
    noise(tmp_path / "a.png")
    with pytest.raises(UserError, match="one number of channels .* with (3|5) and .* with (3|5)"):
        open_source(str(tmp_path), "all")


def test_tiff_that_is_not_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random(6, 8).astype(np.float32))
    tifffile.imwrite(tmp_path / "b.tif", random(60, 80))
    truncate(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", random(6, 8, 4), photometric="separated")
    (tmp_path / "d.tif").write_bytes(b"II*\0" + bytes(40))
    tifffile.imwrite(tmp_path / "e.tif", random(6, 8))
    source = open_source(str(tmp_path), "all")
    reasons = {path[-5]: reason for path, reason in source.bad_images}
    assert set(reasons) == set("abcd") and not any("\n" in reason for reason in reasons.values())
    assert "float32, not uint8 or uint16" in reasons["a"] and "cut off" in reasons["b"]
    assert "SEPARATED, which is not read" in reasons["c"]


@pytest.mark.parametrize(("module", "name"), [("tifffile", "a.tif"), ("pydicom", "a.dcm")])
def test_the_extra_that_is_missing_is_named(tmp_path, monkeypatch, module, name):
    tifffile.imwrite(tmp_path / "a.tif", random(6, 8))
    write_dicom(tmp_path / "a.dcm", random(6, 8))
    for other in {"a.tif", "a.dcm"} - {name}:
        (tmp_path / other).unlink()
    monkeypatch.setitem(sys.modules, module, None)
    extra = "tiff" if module == "tifffile" else "dicom"
    with pytest.raises(UserError, match=rf"pip install 'simclr-tf\[{extra}\]'"):
        open_source(str(tmp_path), "all")


# -------------------------------------------------------------------------------------------- DICOM


def write_dicom(path, values, bits=None, **elements):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    held = Dataset()
    held.file_meta = FileMetaDataset()
    held.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    held.file_meta.MediaStorageSOPClassUID = CTImageStorage
    held.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    colour = values.ndim == 3 and values.shape[-1] == 3
    held.Rows, held.Columns = values.shape[:2] if colour else values.shape[-2:]
    if values.ndim == 3 and not colour:
        held.NumberOfFrames = len(values)
    held.SamplesPerPixel = 3 if colour else 1
    if colour:
        held.PlanarConfiguration = 0
    held.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    held.BitsAllocated = 8 * values.itemsize
    held.BitsStored = bits or held.BitsAllocated
    held.HighBit = held.BitsStored - 1
    held.PixelRepresentation = int(values.dtype.kind == "i")
    held.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(held, name, value)
    held.save_as(path, enforce_file_format=True)
    return path


def test_grey_values_without_a_window_fill_their_bits(tmp_path):
    values = random(6, 8, dtype=np.uint16, most=4096)
    image = decoded(write_dicom(tmp_path / "a.dcm", values, bits=12))
    np.testing.assert_array_equal(image[..., 0], np.rint(values / 4095 * 255))
    inverted = write_dicom(tmp_path / "b.dcm", values, 12, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(decoded(inverted)[..., 1], np.rint((1 - values / 4095) * 255))
    signed = (values.astype(np.int32) - 2048).astype(np.int16)
    image = decoded(write_dicom(tmp_path / "c.dcm", signed, bits=12))
    np.testing.assert_array_equal(image[..., 2], np.rint(values / 4095 * 255))
    frames = decoded(write_dicom(tmp_path / "d.dcm", np.stack([values, values[::-1]]), bits=12))
    np.testing.assert_array_equal(frames[..., 0], np.rint(values / 4095 * 255))


@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_over_rescaled_values(tmp_path, kind):
    """Pixel by pixel, as PS3.3 C.11.2.1.2 and C.11.2.1.3 write it."""
    values = random(6, 8, dtype=np.uint16, most=2000)
    given = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": [40, 300],
             "WindowWidth": [400, 1500], "VOILUTFunction": kind}  # fmt: skip
    image = decoded(write_dicom(tmp_path / "a.dcm", values, **given))
    for stored, shown in zip(values.ravel(), image[..., 0].ravel(), strict=True):
        x, c, w = 2 * int(stored) - 1024, 40, 400
        if kind == "SIGMOID":
            y = 255 / (1 + np.exp(-4 * (x - c) / w))
        elif kind == "LINEAR_EXACT":
            y = 0 if x <= c - w / 2 else 255 if x > c + w / 2 else ((x - c) / w + 0.5) * 255
        elif x <= c - 0.5 - (w - 1) / 2:
            y = 0
        else:
            y = 255 if x > c - 0.5 + (w - 1) / 2 else ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
        assert abs(int(shown) - y) <= 0.5 + 1e-9


def test_colour_and_files_by_content(tmp_path):
    values = random(6, 8, 3)
    image = decoded(write_dicom(tmp_path / "IM0001", values))
    np.testing.assert_array_equal(image, values)
    (tmp_path / "list.txt").write_text("IM0001\n")
    assert open_source(str(tmp_path / "list.txt"), "all").num_examples == 1


def test_dicom_that_is_not_read(tmp_path):
    write_dicom(tmp_path / "a.dcm", random(6, 8))
    write_dicom(tmp_path / "b.dcm", random(60, 80))
    truncate(tmp_path / "b.dcm")
    (tmp_path / "c.dcm").write_bytes(bytes(128) + b"DICM" + b"what follows is none")
    source = open_source(str(tmp_path), "all")
    found = decode_all(source)
    assert sum(bool(item["ok"]) for item in found) == 1
    assert {path[-5] for path, _ in source.bad_images} == {"b", "c"}
    assert not any("\n" in reason for _, reason in source.bad_images)
