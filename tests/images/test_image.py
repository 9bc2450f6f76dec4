"""Every kind of file keeps its full depth, and whatever cannot be a radiograph is refused by name and reason."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from damaged import bomb, damaged_files, encode, radiograph
from PIL import ExifTags, Image, ImageOps
from tiny_dicom import tiny_dicom

from hf_radmae.images.fitting import as_tensor, fit_image
from hf_radmae.images.image import MAX_ASPECT, MIN_SIDE, ImageError, check_size, image_size, read_image
from hf_radmae.shards.shrink import encode as encode_for_shard

GREY = radiograph()
DAMAGED = damaged_files()


def ramp(top: int) -> np.ndarray:
    """uint16 (32, 64) from 0 to `top`."""
    return np.linspace(0, top, 2048).round().astype(np.uint16).reshape(32, 64)


def deep_files(top: int) -> dict[str, bytes]:
    """The ramp in every file format of more than eight bits."""
    picture = ramp(top)
    big_endian = Image.frombytes("I;16B", picture.shape[::-1], picture.astype(">u2").tobytes())
    return {
        "png": encode(picture, "PNG"),
        "tiff": encode(picture, "TIFF"),
        "tiff, big-endian": encode(big_endian, "TIFF"),
        "tiff, lzw": encode(picture, "TIFF", compression="tiff_lzw"),
        "tiff, 32 bit": encode(picture.astype(np.int32), "TIFF"),
        "tiff, float": encode(picture.astype(np.float32), "TIFF"),
        "jpeg 2000": encode(picture, "JPEG2000"),
        "dicom": tiny_dicom(picture, BitsStored=int(top).bit_length()),
    }


def shallow_files() -> dict[str, bytes]:
    """One eight-bit picture in every lossless format and colour mode."""
    colour = Image.fromarray(GREY)
    modes = {mode: encode(colour.convert(mode), "PNG") for mode in ("L", "LA", "RGB", "RGBA", "P")}
    formats = {name: encode(colour, name) for name in ("TIFF", "BMP", "GIF", "PPM", "JPEG2000")}
    return modes | formats | {"DICOM": tiny_dicom(GREY)}


@pytest.mark.parametrize("kind", deep_files(4095))
@pytest.mark.parametrize("top", [4095, 32767, 65535])
def test_a_deep_ramp_comes_back_value_for_value(kind, top):
    image = read_image(deep_files(top)[kind])
    assert image.dtype in (np.uint16, np.int32, np.float32)
    np.testing.assert_array_equal(image, ramp(top))


@pytest.mark.parametrize("kind", shallow_files())
def test_an_eight_bit_picture_is_the_same_in_every_lossless_format(kind):
    image = read_image(shallow_files()[kind])
    np.testing.assert_array_equal(image, GREY)


def test_a_jpeg_differs_by_its_own_loss_only():
    for picture in (Image.fromarray(GREY), Image.fromarray(GREY).convert("RGB")):
        image = read_image(encode(picture, "JPEG", quality=95))
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - GREY).mean() < 2


def test_a_picture_of_two_colours_is_black_and_white():
    image = read_image(encode(Image.fromarray(GREY > 127), "PNG"))
    np.testing.assert_array_equal(image, np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("content", [deep_files(4095)["png"], deep_files(4095)["dicom"]], ids=["png", "dicom"])
def test_path_bytes_row_and_picture_agree(content, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(content)
    sources = [path, str(path), content, {"bytes": content, "path": "elsewhere"}, {"bytes": None, "path": str(path)}]
    sources += [memoryview(content), {"bytes": memoryview(content), "path": None}]
    if content[:4] == b"\x89PNG":
        sources += [Image.open(path), np.asarray(Image.open(path))]
    for source in sources:
        np.testing.assert_array_equal(read_image(source), ramp(4095))
        assert image_size(source) == (32, 64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_the_channel_axis_of_an_array_is_averaged_wherever_it_is(dtype):
    grey = radiograph(24, 32).astype(dtype)
    colour = np.stack([grey, grey // 2, grey // 4], axis=-1)
    expected = colour.mean(axis=-1, dtype=np.float32)
    alpha = np.concatenate([colour, np.full((24, 32, 1), 99, dtype)], axis=-1)
    for array in (colour, alpha, colour.transpose(2, 0, 1), alpha.transpose(2, 0, 1)):
        np.testing.assert_allclose(read_image(array), expected, rtol=1e-6)
    for array in (grey, grey[None], grey[..., None]):
        np.testing.assert_array_equal(read_image(array), grey)


@pytest.mark.parametrize("array", [np.zeros((2, 24, 32)), np.zeros((0, 32)), np.zeros(9), np.full((24, 32), "a")])
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(ImageError, match=r"scan\.npy: has (shape|dtype)"):
        read_image(array, name="scan.npy")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_reason(name, tmp_path):
    content, reason = DAMAGED[name]
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, *({"bytes": kind(content), "path": str(path)} for kind in (bytes, memoryview))):
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(source)
        assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_a_picture_of_which_one_pixel_differs_is_not_constant():
    pixels = np.zeros((40, 50), np.uint8)
    with pytest.raises(ImageError, match="is constant: every pixel is 0"):
        read_image(pixels)
    pixels[39, 17] = 1
    np.testing.assert_array_equal(read_image(pixels), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_map_of_a_shard_reads_as_pillow_does_at_its_depth_and_no_cut_one_is_taken(dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (17, 9), dtype, endpoint=True)
    content = encode_for_shard(pixels, "pgm")
    for source in (content, memoryview(content)):
        image = read_image(source)
        assert image.dtype == dtype
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(read_image(content.replace(b"P5\n", b"P5\n# Pillow reads this one\n")), pixels)
    for length in range(len(content)):
        with pytest.raises(ImageError):
            read_image(content[:length])


@pytest.mark.parametrize("name", ["half.jpg", "half.png", "frames.tif", "frames.gif", "long.png", "nan.tif"])
def test_a_picture_that_pillow_opened_is_checked_like_a_file(name, tmp_path):
    content, reason = DAMAGED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with Image.open(path) as image, pytest.raises(ImageError, match=reason):
        read_image(image, name=name)


def test_a_cut_dicom_file_is_refused(tmp_path):
    content = tiny_dicom(ramp(4095))
    for length in (140, 300, len(content) - 100):
        path = tmp_path / f"{length}.dcm"
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match=rf"{length}\.dcm: "):
            read_image(path)


def test_a_missing_file_is_missing_and_a_folder_is_refused(tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for read in (read_image, image_size):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing.png")
        with pytest.raises(ImageError, match=r"folder\.png: cannot be (read|opened)"):
            read(folder)
        with pytest.raises(ImageError, match="row 3: has neither bytes nor a path"):
            read({"bytes": None, "path": None}, name="row 3")


@pytest.mark.parametrize("kind", deep_files(65535) | shallow_files())
def test_the_size_is_that_of_the_decoded_picture(kind):
    content = (deep_files(65535) | shallow_files())[kind]
    assert image_size(content) == read_image(content).shape


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photographed_film_is_turned_as_its_file_says(file_format, orientation):
    """As transformers' `load_image` and `datasets` do, so that sizes, pixels and other readers agree."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode(GREY, file_format, exif=exif, **({"lossless": True} if file_format == "WEBP" else {}))
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("L"))
        np.testing.assert_array_equal(read_image(opened), expected)
    np.testing.assert_array_equal(read_image(content), expected)
    assert image_size(content) == expected.shape == (GREY.shape if orientation < 5 else GREY.shape[::-1])


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x05", b"Exif\0\0noise" * 9])
def test_damaged_exif_costs_no_image(exif):
    content = encode(GREY, "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(content), GREY)
    assert image_size(content) == GREY.shape


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (deep_files(65535)["png"], 33 + 12),
        (deep_files(65535)["tiff"], 400),
        (deep_files(65535)["dicom"], -2000),
        (encode(GREY, "JPEG"), -400),
        (encode(GREY, "GIF"), -400),
    ],
    ids=["png", "tiff", "dicom", "jpeg", "gif"],
)
def test_the_size_is_known_without_the_pixels(content, kept):
    """A file that was cut behind its header has a size and no picture: nothing was decoded for the size."""
    with pytest.raises(ImageError):
        read_image(content[:kept])
    assert image_size(content[:kept]) == image_size(content)


def test_values_that_float32_would_merge_are_told_apart_after_scaling():
    image = read_image(np.where(np.eye(16, dtype=bool), 2**30 + 1, 2**30))
    np.testing.assert_array_equal(fit_image(as_tensor(image), (16, 16))[0], np.eye(16))


def test_a_format_that_no_radiograph_has_is_not_opened():
    """EPS would start Ghostscript, and a DDS of unknown pixels raises what no other format does."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
    dds = b"DDS " + struct.pack("<7I", 124, 0x1007, 16, 16, 0, 0, 0) + bytes(44) + struct.pack("<8I", 32, *[0] * 7)
    for content in (eps, dds + bytes(2000)):
        with pytest.raises(ImageError, match="is no image of a known format"):
            read_image(content)


def test_a_huge_file_is_not_read_into_memory(tmp_path, monkeypatch):
    (tmp_path / "archive.tar").write_bytes(bytes(2000))
    monkeypatch.setattr("hf_radmae.images.image.MAX_BYTES", 1000)
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        read_image(tmp_path / "archive.tar")


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_header_that_declares_too_much_is_not_believed(side):
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match="pixels"):
            read(bomb(side))


def test_the_limits_of_a_size_are_inclusive():
    long = int(MIN_SIDE * MAX_ASPECT)
    for size in ((MIN_SIDE, MIN_SIDE), (MIN_SIDE, long), (long, MIN_SIDE)):
        check_size(*size, name="scan")
        assert read_image(np.indices(size).sum(0)).shape == size
    for size in ((MIN_SIDE - 1, MIN_SIDE), (MIN_SIDE, long + 1), (long + 1, MIN_SIDE), (0, 100)):
        with pytest.raises(ImageError, match=rf"scan: is {size[0]}x{size[1]} pixels"):
            check_size(*size, name="scan")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "JPEG2000", "DICOM"])
def test_any_damage_gives_a_picture_or_an_image_error(kind):
    """Files cut anywhere, with bytes changed or left out; Pillow then raises nearly anything."""
    rng = np.random.default_rng(0)
    content = tiny_dicom(GREY) if kind == "DICOM" else encode(GREY, kind)
    refused = 0
    for _ in range(400):
        broken = bytearray(content)
        way, place = rng.integers(3), int(rng.integers(len(content)))
        if way == 0:
            del broken[place:]
        elif way == 1:
            del broken[place : place + int(rng.integers(1, 50))]
        else:
            for place in rng.integers(min(len(content), 200), size=4):
                broken[place] = rng.integers(256)
        for read in (read_image, image_size):
            try:
                read(bytes(broken), name="scan")
            except ImageError as error:
                assert str(error).startswith("scan: ")
                refused += 1
    assert refused > 100


def test_real_radiographs_are_read_as_pillow_reads_them(radiographs):
    files = sorted(Path(radiographs).rglob("*.png"))[::400] or sorted(Path(radiographs).rglob("*.jp*g"))[::400]
    assert files
    for file in files:
        image = read_image(file)
        with Image.open(file) as picture:
            assert image.shape == picture.size[::-1] == image_size(file)
            if picture.mode == "L":
                np.testing.assert_array_equal(image, np.asarray(picture))


def test_real_dicom_files_are_read_or_refused(dicoms):
    files = [file for file in sorted(Path(dicoms).rglob("*")) if file.is_file()][:40]
    read = 0
    for file in files:
        try:
            read += read_image(file).shape == image_size(file)
        except ImageError:
            continue
    assert read >= 0.5 * len(files)
