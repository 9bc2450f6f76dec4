"""Every way of breaking a DICOM file that was met or thought of, each with the error that it gives."""

import subprocess
import sys
import tracemalloc
import zlib
from traceback import format_exception

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from tiny_dicom import IDENTIFIERS, tiny_dicom

from hf_radmae.images.dicom import DicomError, MultiFrameError, NoPixelsError, read_header, read_radiograph


def encapsulated(frame: bytes, syntax: str = RLELossless, **elements) -> bytes:
    """Return a compressed file around one frame, right or wrong."""
    return tiny_dicom(syntax=syntax, PixelData=encapsulate([frame]), **elements)


def inflating(size: int) -> bytes:
    """Return a deflated file that inflates to `size` null bytes, about a thousand times its own length."""
    whole = tiny_dicom(syntax=DeflatedExplicitVRLittleEndian)
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return whole[: 144 + int.from_bytes(whole[140:144], "little")] + deflate.compress(bytes(size)) + deflate.flush()


def j2k(rows: int, columns: int) -> bytes:
    """Return the start of a JPEG 2000 stream that declares a size."""
    sizes = b"".join(value.to_bytes(4, "big") for value in (columns, rows, 0, 0, columns, rows, 0, 0))
    return b"\xff\x4f\xff\x51\0\x29\0\0" + sizes + b"\0\x01\x0f\x01\x01" + b"\0" * 64


def lut(entries: int) -> list[Dataset]:
    """Return a modality LUT that declares `entries` and holds three."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [entries, 0, 16], b"\0\1" * 3, "US"
    return [item]


PIXELS = np.arange(48, dtype=np.uint16).reshape(6, 8)
WHOLE = tiny_dicom()
MALFORMED = [
    ("empty file", b"", "is empty; remove it"),
    ("text file", b"Befund: keine Fraktur.\n" * 20, r"is no DICOM file \(byte 128 is not followed by 'DICM'\)"),
    ("wrong magic", WHOLE.replace(b"DICM", b"DICN", 1), "not followed by 'DICM'"),
    ("PNG in place of DICOM", b"\x89PNG\r\n\x1a\n" + bytes(200), "is no DICOM file"),
    ("magic alone", WHOLE[:132], "has no pixel data"),
    ("cut in the header", WHOLE[:600], "has no pixel data: a report, a plan, or cut short; remove or copy it again"),
    ("cut in the pixels", WHOLE[:-20], r"pixel data is less than expected \(76 vs 96 bytes\)"),
    ("no pixel data", tiny_dicom(drop=("PixelData",)), "has no pixel data"),
    ("empty pixel data", tiny_dicom(PixelData=b""), "has no pixel data"),
    ("pixels shorter than declared", tiny_dicom(PIXELS[:5], Rows=6), r"less than expected \(80 vs 96 bytes\)"),
    ("zero rows", tiny_dicom(Rows=0), "declares 0 rows x 8 columns: no picture; remove the file"),
    ("no columns", tiny_dicom(drop=("Columns",)), "its header has no Columns; complete it or remove the file"),
    ("huge size", tiny_dicom(Rows=65535, Columns=65535), "65535 x 65535 pixels, more than max_pixels=100000000; raise"),
    (
        "no photometric",
        tiny_dicom(drop=("PhotometricInterpretation",)),
        "has no PhotometricInterpretation; complete it",
    ),
    ("unknown photometric", tiny_dicom(PhotometricInterpretation="CMYK"), "'CMYK' is not supported; export it as MONO"),
    ("three samples of grey", tiny_dicom(SamplesPerPixel=3), "3 samples per pixel do not fit MONOCHROME2; correct"),
    ("no samples", tiny_dicom(drop=("SamplesPerPixel",)), "0 samples per pixel do not fit MONOCHROME2; correct"),
    ("more stored than allocated", tiny_dicom(BitsStored=20), "20 bits stored of 16 allocated.*; correct the header"),
    ("no bits stored", tiny_dicom(BitsStored=0), "0 bits stored of 16 allocated"),
    ("left-aligned bits", tiny_dicom(BitsStored=12, HighBit=15), "12 bits stored of 16 .* high bit 15: expected"),
    ("12 bits allocated", tiny_dicom(BitsAllocated=12, BitsStored=12), "expected 1, 8, 16 or 32 allocated"),
    ("unknown transfer syntax", tiny_dicom(syntax="1.2.3.4"), r"transfer syntax 1\.2\.3\.4 has no decoder; export"),
    ("video", encapsulated(b"\0" * 64, "1.2.840.10008.1.2.4.102"), r"1\.2\.4\.102 has no decoder; export the file as"),
    ("multi-frame", tiny_dicom(NumberOfFrames=12), "multi-frame: 12 frames where one radiograph is expected; remove"),
    (
        "frames are no number",
        tiny_dicom(NumberOfFrames=7).replace(b"\2\x007 ", b"\2\x007A"),
        r"of the wrong kind; correct it .*\(NumberOfFrames is no integer, ElementError\)",
    ),
    ("rescale to nothing", tiny_dicom(RescaleSlope="0", RescaleIntercept="0"), "rescale with slope 0.0 and intercept"),
    ("short look-up table", tiny_dicom(ModalityLUTSequence=lut(256)), "LUT with 3 entries, its descriptor says 256"),
    ("damaged RLE", encapsulated(b"\xff" * 80), "its pixels do not decode .*; export it again"),
    (
        "frame longer than pixels",
        encapsulated(b"\xff" * 99999),
        "compressed bytes for 96 bytes of pixels; correct Rows",
    ),
    ("no JPEG 2000 in it", encapsulated(b"\0" * 64, JPEG2000Lossless), "code stream holds None, its header says"),
    ("JPEG 2000 bomb", encapsulated(j2k(60000, 60000), JPEG2000Lossless), r"code stream holds \(60000, 60000, 1\)"),
    ("damaged JPEG 2000", encapsulated(j2k(6, 8), JPEG2000Lossless), "its pixels do not decode"),
    ("deflate of damaged bytes", inflating(10)[:-4] + b"\xff" * 8, "its header does not parse: the file is damaged"),
]
KINDS = {"multi-frame": MultiFrameError, "has no pixel data": NoPixelsError}


@pytest.mark.parametrize(("name", "file", "text"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_a_malformed_file_gives_its_named_error(tmp_path, name, file, text):
    path = tmp_path / "1.2.3[1]"
    path.write_bytes(file)
    kind = next((kind for start, kind in KINDS.items() if text.startswith(start)), DicomError)
    with pytest.raises(DicomError, match=text) as caught:
        read_radiograph(path)
    assert caught.type is kind and str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("name", "text"), [("", "Is a directory"), ("missing", "No such file"), ("a\0b", "null byte")])
def test_a_path_that_is_no_readable_file_gives_its_named_error(tmp_path, name, text):
    for read in (read_header, read_radiograph):
        with pytest.raises(DicomError, match=rf"cannot be read \(.*{text}.*give one readable DICOM file"):
            read(tmp_path / name)


@pytest.mark.parametrize("cut", range(128, len(WHOLE), 31))
def test_a_file_cut_anywhere_gives_a_named_error(cut):
    with pytest.raises(DicomError):
        read_radiograph(WHOLE[:cut])


def test_a_damaged_file_gives_a_picture_or_a_named_error_and_never_the_patient(recwarn, caplog):
    """Random bytes of the header are overwritten, so that an element may swallow those that follow it."""
    seen, pictures = [], 0
    for seed in range(600):
        random = np.random.default_rng(seed)
        damaged = bytearray(WHOLE)
        for position in random.integers(132, len(WHOLE), random.integers(1, 9)):
            damaged[position] = random.integers(256)
        try:
            radiograph = read_radiograph(bytes(damaged))
            assert radiograph.pixels.shape == (radiograph.rows, radiograph.columns)
            seen.append(repr(radiograph))
            pictures += 1
        except DicomError as error:
            seen.append("".join(format_exception(error)))
    assert 50 < pictures < 550, "both outcomes must be met"
    everything = "\n".join([*seen, *(str(warning.message) for warning in recwarn), caplog.text])
    assert [secret for secret in IDENTIFIERS.values() if secret in everything] == []


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_character_set_that_has_swallowed_the_patient_is_not_quoted(swallowed, tmp_path):
    """In a process of its own, for pytest shows warnings that the package silences."""
    file = tiny_dicom(SpecificCharacterSet="ISO_IR 100")
    place = file.index(b"ISO_IR 100")
    if swallowed:  # all elements before SamplesPerPixel
        length = file.index(b"\x28\x00\x02\x00US") - place
        file = file[: place - 2] + length.to_bytes(2, "little") + file[place:]
    else:
        file = file.replace(b"ISO_IR 100", b"Mustermann")
    (tmp_path / "file").write_bytes(file)
    code = """if True:
        import logging, sys
        from hf_radmae.images.dicom import DicomError, read_header, read_radiograph
        logging.basicConfig(level=logging.DEBUG)
        for read in (read_header, read_radiograph):
            try:
                print(read(sys.argv[1]).rows)
            except DicomError as error:
                print(error.reason)"""
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path / "file")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert len(found.stdout.splitlines()) == 2
    assert "Mustermann" not in found.stdout + found.stderr


def test_a_declared_size_that_is_absurd_costs_no_memory():
    tracemalloc.start()
    for file in (tiny_dicom(Rows=65535, Columns=65535), encapsulated(j2k(60000, 60000), JPEG2000Lossless)):
        with pytest.raises(DicomError):
            read_radiograph(file)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.reset_peak()
    with pytest.raises(DicomError, match="inflates to more than 8000000 bytes; store it without deflation"):
        read_radiograph(inflating(200_000_000), max_pixels=1_000_000)
    tracemalloc.stop()
