"""Stored values mean the same whatever VR, sign, depth or syntax a file is written with."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless
from tiny_dicom import tiny_dicom

from hf_radmae.images.dicom import DicomError, read_header, read_radiograph, yes_or_no
from hf_radmae.images.image import ImageError, image_size, read_image

RAMP = np.arange(24 * 32).reshape(24, 32)
TEXTS = ("Manufacturer", "ViewPosition", "BodyPartExamined", "ImageLaterality", "Modality", "ImageType")
SPELLINGS = (
    *("A\tB", "A\0B", "A\xa0B", "A\u3000B", "SCHÄDEL", "胸部", "A\r\nB", "\x1b$B3t", "\x7f", "X" * 300, "\ud800"),
)
COMPRESSED = {
    "native": None,
    "jpeg 2000": (
        JPEG2000Lossless,
        lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
    ),
    "jpeg-ls": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "lossless jpeg": (JPEGLosslessSV1, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16)),
}


def written(values: np.ndarray, codec: str = "native", **elements) -> bytes:
    """A file of 16-bit words in one of the syntaxes."""
    if COMPRESSED[codec] is None:
        return tiny_dicom(values, **elements)
    syntax, encoder = COMPRESSED[codec]
    words = values if codec == "jpeg 2000" else values.view(np.uint16)
    return tiny_dicom(values, syntax=syntax, PixelData=encapsulate([encoder(words)]), **elements)


def with_vr(name: str, vr: str, value: int):
    """Gives an element a VR of one's own."""

    def edit(dataset: Dataset) -> None:
        dataset.add_new(name, vr, value)

    return edit


@settings(max_examples=80)
@given(
    codec=st.sampled_from([*COMPRESSED]),
    signed=st.booleans(),
    vr=st.sampled_from(["US", "SS"]),
    implicit=st.booleans(),
    inverted=st.booleans(),
    value=st.integers(-3000, -1) | st.integers(40000, 65535),
    limit=st.integers(0, 50) | st.none(),
)
def test_padding_is_found_whatever_its_vr(codec, signed, vr, implicit, inverted, value, limit):
    dtype = np.int16 if signed else np.uint16
    pattern = value % 65536
    last = pattern if limit is None else min(pattern + limit, 65535)
    values = (RAMP + 1000).astype(dtype)
    values[:6] = np.array([pattern, last] * 96, np.uint16).view(dtype).reshape(6, 32)
    as_vr = {"US": lambda bits: bits, "SS": lambda bits: bits - 65536 if bits > 32767 else bits}[vr]
    edits = [with_vr("PixelPaddingValue", vr, as_vr(pattern))]
    if limit is not None:
        edits.append(with_vr("PixelPaddingRangeLimit", vr, as_vr(last)))
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    file = written(values, codec, PhotometricInterpretation=photometric, edits=edits, implicit=implicit)
    pixels = read_radiograph(file).pixels.astype(int)
    assert np.ptp(pixels) == np.ptp(RAMP[6:])
    assert (pixels[:6] == pixels[6:].min()).all()
    np.testing.assert_array_equal(np.diff(pixels[6:].ravel()), -1 if inverted else 1)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("kind", ["modality", "voi"])
@pytest.mark.parametrize("first", [0, -200, 40000])
def test_a_look_up_table_begins_where_the_picture_does(implicit, vr, kind, first):
    table = (np.arange(768)[::-1] * 7 + 3).astype(np.uint16)
    item = Dataset()
    wrapped = first % 65536 if vr == "US" else (first + 32768) % 65536 - 32768
    item.add_new("LUTDescriptor", vr, [768, wrapped, 16])
    item.add_new("LUTData", "OW", table.tobytes())
    stored = RAMP + first if first >= 0 or kind == "modality" else RAMP
    values = stored.astype(np.int16 if stored.min() < 0 else np.uint16)
    elements = {"ModalityLUTSequence": [item]} if kind == "modality" else {"VOILUTSequence": [item]}
    if kind == "modality":
        item.ModalityLUTType = "US"
    elif first < 0:  # the values become negative on the way
        elements |= {"RescaleSlope": "1", "RescaleIntercept": str(first)}
    pixels = read_radiograph(tiny_dicom(values, implicit=implicit, **elements), voi="window").pixels
    np.testing.assert_array_equal(pixels, table.reshape(24, 32))


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_values_above_bits_stored_are_kept(codec, photometric):
    values = (RAMP * 6).astype(np.uint16)  # up to 4602 in a file of 12 bits
    pixels = read_radiograph(written(values, codec, BitsStored=12, PhotometricInterpretation=photometric)).pixels
    expected = values if photometric == "MONOCHROME2" else values.max() - values
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("bit", [12, 15])
def test_an_overlay_in_unused_bits_is_left_out(codec, signed, declared, bit):
    values = (RAMP * 2 - (700 if signed else 0)).astype(np.int16 if signed else np.uint16)
    words = values.view(np.uint16) & 0x0FFF
    words[5:9, 4:20] |= 1 << bit
    words[15:18, 10:12] |= 1 << bit
    edits = []
    if declared:
        edits = [with_vr((0x6000, 0x0100), "US", 16), with_vr((0x6000, 0x0102), "US", bit)]
    pixels = read_radiograph(written(words.view(values.dtype), codec, BitsStored=12, edits=edits)).pixels
    np.testing.assert_array_equal(pixels, values)


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("extended", ["sign", "zeros"])
def test_signed_words_of_fewer_bits_are_the_same_extended_by_sign_or_by_zeros(codec, extended):
    values = (RAMP * 5 - 2000).astype(np.int16)
    words = values if extended == "sign" else (values.view(np.uint16) & 0x0FFF).view(np.int16)
    np.testing.assert_array_equal(read_radiograph(written(words, codec, BitsStored=12)).pixels, values)


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_elements_that_are_not_needed_change_nothing(vr):
    edits = [with_vr("SmallestImagePixelValue", vr, 7), with_vr("LargestImagePixelValue", vr, 32000)]
    edits += [with_vr("RedPaletteColorLookupTableDescriptor", vr, [256, 0, 16])]
    np.testing.assert_array_equal(read_radiograph(tiny_dicom(RAMP.astype(np.uint16), edits=edits)).pixels, RAMP)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "ISO_IR 999"])
@pytest.mark.parametrize("text", SPELLINGS)
def test_no_text_costs_a_picture(name, charset, text):
    raw = text.encode("utf-8", "surrogatepass")
    raw += b" " * (len(raw) % 2)
    file = tiny_dicom(
        RAMP.astype(np.uint16), **{name: "Q" * len(raw)}, **({"SpecificCharacterSet": charset} if charset else {})
    )
    file = file.replace(b"Q" * len(raw), raw)
    radiograph = read_radiograph(file)
    np.testing.assert_array_equal(radiograph.pixels, RAMP)
    for shown in (*vars(radiograph).values(), *radiograph.image_type):
        assert not isinstance(shown, str) or (shown.isprintable() and len(shown) <= 64)


@pytest.mark.parametrize(
    ("elements", "named"),
    [
        ({"RescaleSlope": "1", "RescaleIntercept": "7"}, "RescaleIntercept"),
        ({"NumberOfFrames": 7}, "NumberOfFrames"),
    ],
)
def test_an_error_names_the_element_and_quotes_nothing(elements, named):
    file = tiny_dicom(RAMP.astype(np.uint16), **elements).replace(b"\2\x007 ", b"\2\x00Z ")
    with pytest.raises(DicomError, match=f"{named} is no") as caught:
        read_radiograph(file)
    assert "Z" not in str(caught.value).replace(named, "")


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("text", ["monochrome1", "Monochrome1 ", "MONOCHROME1\0"])
def test_the_photometric_interpretation_is_known_in_any_case(codec, text):
    values = RAMP.astype(np.uint16)
    pixels = read_radiograph(written(values, codec, BitsStored=12, PhotometricInterpretation=text)).pixels
    np.testing.assert_array_equal(pixels, 4095 - values)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("elements", "shape"),
    [
        ({"PixelAspectRatio": [2, 1]}, (48, 32)),
        ({"PixelAspectRatio": [1, 2]}, (24, 64)),
        ({"PixelAspectRatio": [1, 1]}, (24, 32)),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (48, 32)),
        ({"PixelSpacing": [0.1, 0.15]}, (24, 48)),
        ({"PixelSpacing": [0.1, 0.1004]}, (24, 32)),
        ({"PixelSpacing": [0.1, 100]}, (24, 32)),
        ({"PixelAspectRatio": [0, 1]}, (24, 32)),
    ],
)
def test_pixels_become_square(elements, shape, inverted):
    drop = ("ImagerPixelSpacing",) if "PixelAspectRatio" in elements else ()
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    file = tiny_dicom(RAMP.astype(np.uint16), drop=drop, PhotometricInterpretation=photometric, **elements)
    image = read_image(file)
    assert image.shape == image_size(file) == read_header(file).shape == shape
    assert image.dtype == np.uint16 and np.ptp(image) == np.ptp(RAMP)
    plain = read_image(tiny_dicom(RAMP.astype(np.uint16), PhotometricInterpretation=photometric))
    back = image.reshape(24, shape[0] // 24, 32, shape[1] // 32).mean((1, 3)) if shape[1] != 48 else plain
    assert np.abs(back[1:-1, 1:-1] - plain[1:-1, 1:-1]).max() <= 1


def test_thirty_two_bits_keep_their_values():
    values = RAMP.astype(np.uint32) + 2**31
    pixels = read_radiograph(tiny_dicom(values)).pixels
    assert pixels.dtype == np.float64
    np.testing.assert_array_equal(pixels, values)


@pytest.mark.parametrize(("text", "kept"), [("YES", "YES"), ("NO", "NO"), ("", None), ("yes ", "YES"), ("Max", None)])
def test_what_the_header_says_about_names_is_read(text, kept):
    header = read_header(tiny_dicom(BurnedInAnnotation=text, PatientIdentityRemoved=text))
    assert yes_or_no(header.burned_in_annotation) == yes_or_no(header.patient_identity_removed) == kept


@pytest.mark.parametrize("kind", ["path", "bytes", "row"])
def test_a_damaged_picture_is_an_image_error_whose_reason_names_no_file(kind, tmp_path):
    content = tiny_dicom(RAMP.astype(np.uint16), drop=("Rows",))
    path = tmp_path / "Mustermann.dcm"
    path.write_bytes(content)
    source = {"path": str(path), "bytes": content, "row": {"bytes": content, "path": str(path)}}[kind]
    for read in (read_image, image_size):
        with pytest.raises(ImageError) as caught:
            read(source)
        assert caught.value.reason == "its header has no Rows; complete it or remove the file"
    with pytest.raises(ImageError):
        read_image(tiny_dicom(RAMP.astype(np.uint16))[:-100])
