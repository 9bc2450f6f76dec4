"""Every container gives back the numbers that were stored in it: depths, byte orders, codecs, layouts, polarities."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from damaged import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_radmae.images.image import ImageError, image_size, read_image

SHAPE = (48, 40)
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
DTYPES = [*UNSIGNED.values(), np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]
CODECS = {
    "none": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 16)},
    "lzw": {"compression": "lzw"},
    "lzw, predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib", "predictor": True},
    "packbits": {"compression": "packbits"},
    "zstd, tiles": {"compression": "zstd", "tile": (32, 32)},
}


def values(dtype, shape=SHAPE, seed=0) -> np.ndarray:
    """Numbers over the whole range of a type."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    known = np.iinfo(dtype)
    return rng.integers(known.min, known.max, shape, dtype, endpoint=True)


def tiff(array: np.ndarray, **options) -> bytes:
    """A TIFF of an array, as tifffile writes it."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "minisblack", "metadata": None, **options})
    return stream.getvalue()


def png(samples: np.ndarray, colour: int, bits: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples (height, width, ...) of 8 or 16 bits, with further chunks in front of the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601, in double precision."""
    return rgb[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_tiff_keeps_every_number_in_both_polarities(dtype, codec, byteorder):
    options = CODECS[codec]
    if np.dtype(dtype).itemsize == 8 and np.dtype(dtype).kind != "f" and "predictor" in options:
        options = {**options, "predictor": False}
    stored = values(dtype)
    for bigtiff in (False, True):
        content = tiff(stored, byteorder=byteorder, bigtiff=bigtiff, **options)
        image = read_image(content)
        assert image.dtype == (np.float32 if dtype == np.float16 else stored.dtype)
        np.testing.assert_array_equal(image, stored)
        assert image_size(content) == SHAPE
    white = read_image(tiff(stored, byteorder=byteorder, **{**options, "photometric": "miniswhite"}))
    if stored.dtype.kind == "f":  # mirrored within its own range
        expected = stored.max() + stored.min() - stored.astype(np.float64)
        np.testing.assert_allclose(white, expected, atol=1e-4)
    else:  # within the range of its type
        np.testing.assert_array_equal(white, ~stored)


@settings(max_examples=60)
@given(st.integers(1, 16), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_tiff_of_any_number_of_bits_keeps_its_values_and_its_polarity(bits, white, big, seed):
    """Bits that are packed without gaps, rows padded to bytes, as scanners write 12 bits."""
    stored = np.random.default_rng(seed).integers(0, 2**bits, SHAPE)
    stored[0, :2] = 0, 2**bits - 1
    spread = (stored[..., None] >> np.arange(bits)[::-1]) & 1
    data = np.packbits(spread.reshape(SHAPE[0], -1).astype(np.uint8), axis=1).tobytes()
    if bits == 16 and not big:
        data = stored.astype("<u2").tobytes()
    order, tags = ">" if big else "<", []
    for tag, kind, value in (
        *((256, 4, SHAPE[1]), (257, 4, SHAPE[0]), (258, 3, bits), (259, 3, 1), (262, 3, 0 if white else 1)),
        *((273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (278, 4, SHAPE[0]), (279, 4, len(data))),
    ):
        tags.append(
            struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}{'I' if kind == 4 else 'H2x'}", value)
        )
    content = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}IH", 8, 9) + b"".join(tags) + bytes(4) + data
    shown = 2**bits - 1 - stored if white else stored
    if bits < 8:
        shown = np.rint(shown * 255 / (2**bits - 1))
    np.testing.assert_array_equal(read_image(content), shown)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("codec", ["none", "tiles", "lzw, predictor"])
def test_colour_of_a_tiff_becomes_its_luma_at_full_depth(dtype, layout, alpha, codec):
    rgb = values(dtype, (*SHAPE, 4 if alpha else 3))
    samples = np.moveaxis(rgb, 2, 0) if layout == "separate" else rgb
    options = {"photometric": "rgb", "planarconfig": layout, **CODECS[codec]}
    image = read_image(tiff(samples, **options, **({"extrasamples": ["unassalpha"]} if alpha else {})))
    atol = 1.0 if dtype in (np.uint8, np.uint16) else 0
    np.testing.assert_allclose(image, luma(rgb), atol=atol, rtol=1e-6)
    grey = np.stack([rgb[..., 0]] * 3, axis=0 if layout == "separate" else 2)  # grey stored as colour: exact
    np.testing.assert_array_equal(read_image(tiff(grey, **options)), rgb[..., 0])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("white", [False, True])
def test_alpha_beside_grey_is_left_out(bits, white):
    stored = values(UNSIGNED[bits], (*SHAPE, 2))
    options = {"photometric": "miniswhite" if white else "minisblack", "extrasamples": ["unassalpha"]}
    expected = 2**bits - 1 - stored[..., 0] if white else stored[..., 0]
    np.testing.assert_array_equal(read_image(tiff(stored, planarconfig="contig", **options)), expected)


@pytest.mark.parametrize(
    ("bits", "colour", "samples"), [(8, 0, 1), (16, 0, 1), (16, 2, 3), (16, 4, 2), (16, 6, 4), (8, 4, 2)]
)
def test_a_png_keeps_every_bit_of_grey_alpha_and_colour(bits, colour, samples):
    stored = values(UNSIGNED[bits], (*SHAPE, samples))
    transparent = (b"tRNS", struct.pack(f">{samples}H", *stored[0, 0].tolist()))  # the pixels of one value
    for chunks in ([], [transparent] if colour in (0, 2) else [(b"gAMA", struct.pack(">I", 45455))]):
        image = read_image(png(stored, colour, bits, *chunks))
        if samples < 3:
            np.testing.assert_array_equal(image, stored[..., 0])
        else:
            np.testing.assert_allclose(image, luma(stored), atol=0.51)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_spread_over_eight(bits):
    stored = np.random.default_rng(bits).integers(0, 2**bits, SHAPE).astype(np.uint8)
    expected = np.rint(stored * (255 / (2**bits - 1)))
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].reshape(-1)).tobytes() for row in stored
    )
    whole = png(np.zeros((*SHAPE, 1)), 0, 8)
    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    np.testing.assert_array_equal(read_image(whole[:8] + b"".join(chunks)), expected)


@pytest.mark.parametrize("most", [15, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_a_portable_map_keeps_its_values_whatever_its_brightest(kind, most):
    stored = np.random.default_rng(most).integers(0, most, (*SHAPE, 3 if kind in (3, 6) else 1), endpoint=True)
    header = f"P{kind}\n# a comment\n{SHAPE[1]} {SHAPE[0]}\n{most}\n".encode()
    body = stored.astype("u1" if most < 256 else ">u2").tobytes()
    content = header + (" ".join(map(str, stored.ravel())).encode() if kind < 4 else body)
    expected = np.rint(stored * (255 / most)) if most < 255 else stored
    expected = luma(expected) if kind in (3, 6) else expected[..., 0]
    np.testing.assert_allclose(read_image(content), expected, atol=0.51 if kind in (3, 6) else 0)
    assert image_size(content) == SHAPE
    with pytest.raises(ImageError, match="bytes of its pixels are missing"):
        read_image(content[:-9] if kind > 4 else content[: len(content) // 2])


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("container", ["jp2", "j2k", "tiff"])
@pytest.mark.parametrize("samples", [1, 3])
def test_jpeg_2000_keeps_every_bit(bits, container, samples):
    dtype = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(bits).integers(0, 2**bits, (*SHAPE, samples)).astype(dtype).squeeze()
    if container == "tiff":
        if bits not in (8, 16):
            pytest.skip("tifffile writes the depth of the type")
        colour = {"photometric": "rgb"} if samples == 3 else {}
        content = tiff(stored, compression="jpeg2000", compressionargs={"reversible": True, "level": 0}, **colour)
    else:
        options = {"level": 0, "reversible": True, "codecformat": container, "bitspersample": bits}
        content = imagecodecs.jpeg2k_encode(stored, **options)
    expected = luma(stored) if samples == 3 else stored
    np.testing.assert_allclose(read_image(content), expected, atol=1.0 if samples == 3 else 0)
    assert image_size(content) == SHAPE


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_lossless_jpeg_and_jpeg_ls_keep_every_bit(bits):
    stored = np.random.default_rng(bits).integers(0, 2**bits, SHAPE).astype(np.uint8 if bits == 8 else np.uint16)
    for content in (
        imagecodecs.jpegls_encode(stored),
        imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=bits),
    ):
        np.testing.assert_array_equal(read_image(content), stored)
        assert image_size(content) == SHAPE


def test_a_jpeg_of_twelve_bits_is_read_at_twelve():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    stored = (y * 50 + x * 40).astype(np.uint16)
    content = imagecodecs.jpeg8_encode(stored, level=95, bitspersample=12)
    image = read_image(content)
    assert image.max() > 3000 and np.abs(image.astype(int) - stored).mean() < 20
    assert image_size(content) == SHAPE


@pytest.mark.parametrize("place", ["behind", "in front", "marked", "below", "pyramid"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_smaller_versions_of_the_picture_are_left_aside(place, dtype):
    stored = values(dtype, (96, 80))
    pages = {
        "behind": [(stored, {}), (stored[::4, ::4], {})],
        "in front": [(stored[::4, ::4], {}), (stored, {})],
        "marked": [(stored[::2, ::2][:40], {"subfiletype": 1}), (stored, {"subfiletype": 0})],
        "below": [(stored, {"subifds": 1}), (stored[::2, ::2], {"subfiletype": 1})],
        "pyramid": [(stored, {}), *((stored[::s, ::s], {"subfiletype": 1}) for s in (2, 4, 8))],
    }[place]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for page, options in pages:
            writer.write(page, photometric="minisblack", metadata=None, **options)
    np.testing.assert_array_equal(read_image(stream.getvalue()), stored)
    assert image_size(stream.getvalue()) == (96, 80)


@pytest.mark.parametrize("kind", ["pages", "imagej", "other aspect", "volume"])
def test_several_pictures_are_refused_by_number(kind):
    stack = values(np.uint16, (3, *SHAPE))
    stream = io.BytesIO()
    if kind == "other aspect":
        with tifffile.TiffWriter(stream) as writer:
            for page in (stack[0], stack[1, :20], stack[2, :, :16]):
                writer.write(page, photometric="minisblack", metadata=None)
    else:
        options = {"imagej": {"imagej": True}, "volume": {"volumetric": True, "tile": (3, 16, 16)}}.get(kind, {})
        tifffile.imwrite(stream, stack, photometric="minisblack", **options)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match="has 3 frames: a radiograph has one"):
            read(stream.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_deep_tiff_is_turned_as_pillow_turns_a_shallow_one(orientation, dtype):
    stored = values(np.uint8)
    content, deep = (tiff(a, extratags=[(274, 3, 1, orientation, True)]) for a in (stored, stored.astype(dtype)))
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(read_image(content), expected)
    np.testing.assert_array_equal(read_image(deep), expected)
    assert image_size(deep) == expected.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_palette_keeps_the_depth_of_its_colours(dtype):
    stored = values(np.uint8)
    colours = values(np.uint16, (3, 256))
    colours = colours if dtype == np.uint16 else (colours >> 8) * 257
    image = read_image(tiff(stored, photometric="palette", colormap=colours))
    shown = colours.T[stored] if dtype == np.uint16 else (colours.T >> 8)[stored]
    np.testing.assert_allclose(image, luma(shown), atol=1)


def test_inks_become_light_and_other_colours_are_refused_by_name():
    inks = values(np.uint8, (*SHAPE, 4))
    expected = Image.frombytes("CMYK", SHAPE[::-1], inks.tobytes()).convert("L")
    found = read_image(tiff(inks, photometric="separated"))
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2
    with pytest.raises(ImageError, match="has colours CIELAB: export it as grey or RGB"):
        read_image(tiff(inks[..., :3], photometric="cielab"))
    with pytest.raises(ImageError, match=r"has 5 samples a pixel of MINISBLACK"):
        read_image(tiff(values(np.uint8, (*SHAPE, 5)), planarconfig="contig"))
    with pytest.raises(ImageError, match="samples of 64 bits in format 6"):
        read_image(tiff(values(np.float32).astype(np.complex64)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_cut_tiff_is_refused(codec, part):
    content = tiff(values(np.uint16, (96, 80)), **CODECS[codec])
    with pytest.raises(ImageError):
        read_image(content[: int(len(content) * part)])


@pytest.mark.parametrize("codec", ["lzw", "deflate", "packbits", "zstd, tiles"])
@pytest.mark.parametrize("part", [0.4, 0.6])
def test_a_tiff_whose_compressed_part_is_overwritten_with_zeros_is_refused(codec, part):
    content = bytearray(tiff(values(np.uint16, (96, 80)), **CODECS[codec]))
    start = int(len(content) * part)
    content[start : start + len(content) // 4] = bytes(len(content) // 4)
    with pytest.raises(ImageError):
        read_image(bytes(content))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_phones_jpeg_shows_its_first_picture(width):
    """A second picture of the same size too: a stereo pair, a depth map."""
    first, second = values(np.uint8, (64, 64)), values(np.uint8, (64 // width, 64 // width), 1)
    content = encode(Image.fromarray(first), "MPO", save_all=True, append_images=[Image.fromarray(second)])
    np.testing.assert_array_equal(read_image(content), read_image(encode(Image.fromarray(first), "JPEG")))
    assert image_size(content) == (64, 64)


@pytest.mark.parametrize(
    "content", [png(values(np.uint16, (*SHAPE, 3)), 2, 16), tiff(values(np.uint16), photometric="miniswhite")]
)
def test_a_picture_that_pillow_has_opened_keeps_its_depth_until_pillow_decodes_it(content):
    expected = read_image(content)
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(read_image(opened), expected)
        opened.load()
        if opened.format == "TIFF":  # of a PNG nothing tells any more that it was deeper
            with pytest.raises(ImageError, match="give its path or its bytes"):
                read_image(opened)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC or AVIF"),
        (b"%PDF-1.7\n" + bytes(50), "PDF"),
        (b"PK\3\4" + bytes(50), "zip"),
    ],
)
def test_a_kind_that_is_not_read_is_called_by_its_name(content, kind):
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=f"is a {kind} file, which is not read: export it"):
            read(content)


def test_a_tiff_that_declares_too_much_is_not_believed():
    small = tiff(np.zeros(SHAPE, np.uint8), rowsperstrip=SHAPE[0])
    for tag, value in ((256, 60000), (257, 60000)):
        place = small.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in small else -1
        kind = 4 if place >= 0 else 3
        place = place if place >= 0 else small.index(struct.pack("<HHI", tag, 3, 1))
        small = small[: place + 8] + struct.pack("<I" if kind == 4 else "<H2x", value) + small[place + 12 :]
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match="declares 60000x60000 pixels"):
            read(small)
