"""A compressed picture that is cut, or overwritten with zeros, is an error; no whole one is refused."""

import io

import imagecodecs
import numpy as np
import pytest
from damaged import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from tiny_dicom import tiny_dicom

from hf_radmae.images.image import ImageError, read_image
from hf_radmae.images.streams import check_complete, stream_facts

SHAPE = (160, 200)


def picture(bits: int, kind: str = "smooth", seed: int = 0) -> np.ndarray:
    """A picture of 8 to 16 bits: smooth with noise, with black and white areas, or grey but for a square."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rng = np.random.default_rng(seed)
    values = (np.sin(x / 40) + np.cos(y / 30) + 2) / 4 + rng.normal(0, 0.01, SHAPE)
    if kind == "areas":
        values[: SHAPE[0] // 3], values[:, -40:] = 0, 1
    if kind == "flat":
        values = np.where((abs(y - 60) < 9) & (abs(x - 60) < 9), values, 0.5)
    if kind == "grey end":
        values[-50:] = 0.5
    return (values * (2**bits - 1)).clip(0, 2**bits - 1).round().astype(np.uint8 if bits == 8 else np.uint16)


def jpeg(values: np.ndarray, **options) -> bytes:
    return imagecodecs.jpeg8_encode(values, **options)


def pillow(values: np.ndarray, **options) -> bytes:
    return encode(Image.fromarray(values), "JPEG", **options)


def jpeg2000(values: np.ndarray, bits: int, level: int = 0) -> bytes:
    options = {"reversible": True} if level == 0 else {}
    return imagecodecs.jpeg2k_encode(values, level=level, codecformat="j2k", bitspersample=bits, **options)


def rle(values: np.ndarray) -> bytes:
    from pydicom.pixels import get_encoder

    return get_encoder(RLELossless).encode(
        values, rows=values.shape[0], columns=values.shape[1], samples_per_pixel=1, number_of_frames=1,
        bits_allocated=8 * values.dtype.itemsize, bits_stored=8 * values.dtype.itemsize, pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


CODECS = {
    "jpeg": (JPEGBaseline8Bit, 8, lambda a: jpeg(a, level=90)),
    "jpeg, own tables": (JPEGBaseline8Bit, 8, lambda a: jpeg(a, level=60, optimize=True)),
    "jpeg, restart": (JPEGBaseline8Bit, 8, lambda a: pillow(a, quality=90, restart_marker_rows=2)),
    "jpeg, 12 bit": (JPEGExtended12Bit, 12, lambda a: jpeg(a, level=90, bitspersample=12)),
    "lossless jpeg": (JPEGLosslessSV1, 12, lambda a: jpeg(a, lossless=True, bitspersample=12)),
    "lossless jpeg, 16 bit": (JPEGLosslessSV1, 16, lambda a: jpeg(a, lossless=True, bitspersample=16)),
    "jpeg-ls": (JPEGLSLossless, 12, imagecodecs.jpegls_encode),
    "jpeg-ls, near": (JPEGLSNearLossless, 12, lambda a: imagecodecs.jpegls_encode(a, level=3)),
    "jpeg 2000": (JPEG2000Lossless, 12, lambda a: jpeg2000(a, 12)),
    "jpeg 2000, lossy": (JPEG2000, 12, lambda a: jpeg2000(a, 12, 60)),
    "high-throughput": (HTJ2KLossless, 12, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "rle": (RLELossless, 16, rle),
}
DAMAGE = {
    "cut at half": lambda frame: frame[: len(frame) // 2],
    "cut at a tenth": lambda frame: frame[: len(frame) // 10],
    "cut, end marker kept": lambda frame: frame[: len(frame) // 2] + frame[-2:],
    "zeros to the end": lambda frame: frame[: len(frame) // 2] + bytes(len(frame) - len(frame) // 2),
    "zeros, end marker kept": lambda frame: (
        frame[: len(frame) // 2] + bytes(len(frame) - len(frame) // 2 - 2) + frame[-2:]
    ),
    "zeros in the middle": lambda frame: frame[: len(frame) // 2] + bytes(500) + frame[len(frame) // 2 + 500 :],
}


def dicom(codec: str, frame: bytes, values: np.ndarray) -> bytes:
    syntax, bits, _ = CODECS[codec]
    return tiny_dicom(values, syntax=syntax, BitsStored=bits, PixelData=encapsulate([frame]))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["smooth", "areas", "flat", "grey end"])
@pytest.mark.parametrize("ending", ["as it is", "padded", "without end marker"])
def test_no_whole_picture_is_refused(codec, kind, ending):
    _, bits, encoder = CODECS[codec]
    values = picture(bits, kind)
    frame = encoder(values)
    if ending == "padded":
        frame += bytes(len(frame) % 2 or 2)
    if ending == "without end marker":
        if not codec.startswith(("jpeg,", "lossless")) or frame[-2:] != b"\xff\xd9":
            return  # strict decoders call this a cut
        frame = frame[:-2]
    image = read_image(dicom(codec, frame, values))
    error = np.abs(image.astype(int) - values)
    assert (
        error.max() == 0 if codec in ("lossless jpeg", "jpeg-ls", "jpeg 2000", "rle") else error.mean() < 2**bits / 100
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["smooth", "areas"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_picture_is_refused(codec, kind, damage):
    _, bits, encoder = CODECS[codec]
    values = picture(bits, kind)
    frame = DAMAGE[damage](encoder(values))
    with pytest.raises(ImageError, match=r"cut|damaged|decode|stream|does not fit"):
        read_image(dicom(codec, frame, values))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("damage", [None, *DAMAGE])
def test_a_plain_jpeg_is_checked_like_one_in_dicom(options, mode, damage):
    for kind in ("smooth", "areas"):
        content = encode(Image.fromarray(picture(8, kind)).convert(mode), "JPEG", quality=90, **options)
        if damage is None:
            assert read_image(content).shape == SHAPE
        elif damage != "zeros in the middle" or "progressive" not in options:  # which is not noticed in a scan
            with pytest.raises(ImageError):
                read_image(DAMAGE[damage](content))


@pytest.mark.parametrize("codec", ["jpeg", "jpeg, own tables", "jpeg, restart", "jpeg, 12 bit"])
@pytest.mark.parametrize("lost", [3, 8, 20, 100])
def test_a_jpeg_that_lacks_its_last_bytes_is_refused(codec, lost):
    values = picture(CODECS[codec][1])
    frame = CODECS[codec][2](values)
    frame = frame[: -2 - lost] + frame[-2:]
    for content in (dicom(codec, frame, values), frame):
        with pytest.raises(ImageError, match=r"cut|damaged"):
            read_image(content)


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("kind", ["smooth", "areas", "flat", "grey end"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_plain_jpeg_has_the_pixels_of_pillow(quality, kind, options, mode):
    image = Image.fromarray(np.stack([picture(8, kind, seed) for seed in range(3)], axis=2)).convert(mode)
    content = encode(image, "JPEG", quality=quality, **options)
    np.testing.assert_array_equal(read_image(content), np.asarray(Image.open(io.BytesIO(content)).convert("L")))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG2000"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_other_plain_files_are_checked_too(file_format, damage):
    content = encode(picture(8), file_format)
    with pytest.raises(ImageError):
        read_image(DAMAGE[damage](content))


@settings(max_examples=60)
@given(st.sampled_from(["smooth", "areas", "flat", "grey end"]), st.integers(20, 100), st.booleans(), st.integers(0, 9))
def test_no_whole_jpeg_is_refused_whatever_its_quality_and_content(kind, quality, progressive, seed):
    values = picture(8, kind, seed)
    content = pillow(
        values, quality=quality, progressive=progressive, optimize=seed % 2 == 0, restart_marker_blocks=seed
    )
    check_complete(content, stream_facts(content)[4], np.asarray(Image.open(io.BytesIO(content))))
    check_complete(content, stream_facts(content)[4])


@pytest.mark.parametrize(
    "options", [{}, {"quality_layers": [40, 20, 5, 0]}, {"tile_size": (64, 64)}, {"precinct_size": (64, 64)}]
)
@pytest.mark.parametrize("kind", ["smooth", "areas", "flat"])
def test_no_whole_jpeg_2000_is_refused_whatever_its_layers_tiles_and_precincts(options, kind):
    content = encode(picture(8, kind), "JPEG2000", **options)
    assert read_image(content).shape == SHAPE


@pytest.mark.slow
def test_no_real_radiograph_is_refused(radiographs):
    for path in sorted(radiographs.rglob("*.jpg"))[::4]:
        content = path.read_bytes()
        check_complete(content, stream_facts(content)[4])
