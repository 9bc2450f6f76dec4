"""Reads one radiograph from a DICOM file: grey at full bit depth with bone bright, and the header facts that matter.

pydicom parses and decodes; what is added here is the order of the grey-scale pipeline (PS3.3 C.7.6.3.1.2: modality LUT,
VOI, then the inversion of MONOCHROME1), padding as background, one named error for every way in which a file can be
broken, and a bound on memory. Only the elements listed in `_KEYWORDS` are ever decoded, and no error or warning quotes
what was read, so that no identifier of the patient can reach a caller or a log, not even out of a damaged file.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import log
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_partial
from pydicom.pixels import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, RLELossless

from hf_radmae.images.decodable import GREY, refusals
from hf_radmae.images.greyscale import ElementError, element, integer, palette_luma, to_grey, to_luma
from hf_radmae.images.remote import open_file
from hf_radmae.images.storage import steady
from hf_radmae.images.streams import (
    SEQUENTIAL,
    IncompleteError,
    check_complete,
    decode_sequential,
    decode_strictly,
    stream_facts,
)

MAX_PIXELS = 100_000_000  # rows x columns; a large film digitised at 43 micrometres has 83 million

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "PresentationLUTShape"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality", "Manufacturer", "ImageType"),
    *("PixelAspectRatio", "BurnedInAnnotation", "PatientIdentityRemoved"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_OVERLAYS = [Tag(group, element) for group in range(0x6000, 0x6020, 2) for element in (0x0102, 0x3000)]
_TAGS: list[BaseTag | int] = [*(Tag(name) for name in (*_KEYWORDS, *_SPACINGS, *_PIXELS)), *_OVERLAYS]
_LONGEST_TEXT = 64  # characters of a Long String; a longer one has swallowed the elements that follow
_MOST_OBLIQUE = 5.0  # height of a pixel over its width, or the other way round: beyond, the header is wrong
_PIXEL_TAGS = {Tag(name) for name in _PIXELS}

# pydicom warns with the value at hand, which in a damaged file may be the elements that follow, the patient's among
# them. Its setting is one for the process: a temporary one would let other threads' warnings through.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.charset")  # no setting silences those of character sets
logging.getLogger("pydicom").setLevel(logging.ERROR)  # pydicom logs each warning, too


class DicomError(ValueError):
    """A file that cannot be read as a radiograph: `source` names it, `reason` says what was found and what to do."""

    def __init__(self, source: str, reason: str = "") -> None:
        super().__init__(source, reason)
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" if self.reason else self.source


class NoPixelsError(DicomError):
    """A DICOM object without pixel data: a report, a plan, a presentation state, or a file cut before its pixels."""


class MultiFrameError(DicomError):
    """A cine loop, a volume or a tomosynthesis: more than one frame."""


@dataclass(frozen=True, kw_only=True)
class RadiographHeader:
    """What the header says about the picture, and nothing about the patient.

    `aspect` is the height of a stored pixel over its width. `spacing` is (row, column) in millimetres of the picture
    with square pixels, None where the header has none that is positive. `inverted` is True where low stored values mean
    bright. Texts are in upper case, empty where the header has none or one that is not printable. In a file that
    follows the standard `laterality` is R, L, B (both) or U (unpaired), and `burned_in_annotation` and
    `patient_identity_removed` are YES or NO.
    """

    rows: int
    columns: int
    frames: int
    photometric: str
    inverted: bool
    bits_stored: int
    spacing: tuple[float, float] | None
    aspect: float
    laterality: str
    body_part: str
    view: str
    modality: str
    manufacturer: str
    image_type: tuple[str, ...]
    burned_in_annotation: str
    patient_identity_removed: str

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the picture with square pixels: no row and no column is lost."""
        return round(self.rows * max(1.0, self.aspect)), round(self.columns * max(1.0, 1 / self.aspect))


@dataclass(frozen=True, kw_only=True, eq=False)
class Radiograph(RadiographHeader):
    """The header's facts and `pixels`: of `shape`, uint16, float32 or float64, air dark and bone bright."""

    pixels: np.ndarray


def yes_or_no(text: str) -> str | None:
    """A header's YES or NO, None for every other text: nothing else may be copied out of a file."""
    return text if text in ("YES", "NO") else None


def read_header(path_or_bytes: str | Path | bytes) -> RadiographHeader:
    """Return the facts of a DICOM file without reading its pixels.

    Raises `NoPixelsError` for an object without pixel data, `DicomError` for everything that is not readable, and
    `StorageError` if the storage does not answer.
    """

    def read() -> RadiographHeader:
        with _opened(path_or_bytes) as (stream, source):
            return _header(_parse(stream, source, with_pixels=False, max_bytes=8 * MAX_PIXELS), source)

    return steady(read, _name(path_or_bytes))


def read_radiograph(
    path_or_bytes: str | Path | bytes, *, voi: Literal["full", "window"] = "full", max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """Return the one picture of a DICOM file as grey values, brighter where more was absorbed.

    The modality LUT or rescale is always applied; MONOCHROME1 is inverted within the range that the header declares;
    padding takes the darkest value of the picture; colour and palettes become their luma; pixels that are not square
    (by PixelAspectRatio, else by a spacing) become square by interpolation between rows or columns.

    Args:
        path_or_bytes: the file, or its content.
        voi: "full" keeps every grey value; "window" applies the first VOI LUT, else the first window, of the header,
            and changes nothing where it has neither.
        max_pixels: a file that declares more (rows x columns) is refused before anything is allocated.

    Returns:
        A `Radiograph`; its pixels are uint16 where the values are unsigned integers of at most 16 bits, and float32
        where they are signed, rescaled, windowed or wider (float64 where float32 would merge values).

    Raises:
        NoPixelsError, MultiFrameError, DicomError: naming the file, what was found and what to do.
        StorageError: the storage does not answer.
    """
    if voi not in ("full", "window"):
        raise ValueError(f"voi={voi!r}: expected 'full' or 'window'")
    max_bytes = 8 * max_pixels

    def read() -> tuple[Dataset, str]:
        with _opened(path_or_bytes) as (stream, source):
            if (size := stream.seek(0, 2)) > max_bytes:
                raise DicomError(source, f"has {size} bytes, more than {max_bytes}; raise max_pixels to read it")
            return _parse(stream, source, with_pixels=True, max_bytes=max_bytes), source

    dataset, source = steady(read, _name(path_or_bytes))
    header = _header(dataset, source)
    if header.frames > 1:
        reason = f"multi-frame: {header.frames} frames where one radiograph is expected; remove it or export one frame"
        raise MultiFrameError(source, reason)
    dataset.PhotometricInterpretation = header.photometric  # decoders know capitals only
    with _named(source, "its header does not fit its pixels; correct it or export the file again"):
        for reason in refusals(dataset, max_pixels):
            raise DicomError(source, reason)
    try:
        if header.photometric in GREY:
            words, compressed = _decoded(dataset, grey=True)
            window = voi == "window"
            pixels = to_grey(words, dataset, inverted=header.inverted, window=window, compressed=compressed)
        else:
            colours, _ = _decoded(dataset, grey=False)
            pixels = palette_luma(colours, dataset) if header.photometric == "PALETTE COLOR" else to_luma(colours)
        for axis, length in enumerate(header.shape):
            pixels = _stretched(pixels, length, axis)
    except IncompleteError as error:
        raise DicomError(source, f"{error}; copy the file again") from error
    except Exception as error:  # the decoders' texts hold sizes and error codes only
        reason = f"its pixels do not decode ({type(error).__name__}: {' '.join(str(error).split())}); export it again"
        raise DicomError(source, reason) from error
    return Radiograph(**vars(header), pixels=pixels)


def _decoded(dataset: Dataset, *, grey: bool) -> tuple[np.ndarray, bool]:
    """Return the values as stored, grey ones with the bits above Bits Stored, and if these may hold anything.

    Raises:
        IncompleteError: the compressed picture is cut or damaged.
        Exception: pydicom's and the decoders'.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return pixel_array(dataset, index=0, correct_unused_bits=not grey), False
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    facts = stream_facts(frame)
    assert facts is not None, "refusals() looks at them"
    bits, marker = facts[3:]
    picture = decode_strictly(frame, marker) if grey else None
    if grey and marker in SEQUENTIAL:
        picture = decode_sequential(frame, marker)
    if picture is not None:
        allocated = int(dataset.BitsAllocated)
        picture = picture.astype(f"u{allocated // 8}", casting="same_kind")
        if element(dataset, "PixelRepresentation"):
            picture = picture.view(f"i{allocated // 8}")
            picture = (picture << (allocated - bits)) >> (allocated - bits)
        return picture, syntax in JPEGLSTransferSyntaxes
    picture = pixel_array(dataset, index=0, correct_unused_bits=not grey, decoding_plugin="pylibjpeg")
    check_complete(frame, marker)
    return picture, syntax in JPEG2000TransferSyntaxes


def _stretched(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Return the picture with more rows (axis 0) or columns (axis 1), linear between those that there are."""
    have = pixels.shape[axis]
    if have == length:
        return pixels
    place = ((np.arange(length) + 0.5) * have / length - 0.5).clip(0, have - 1)
    lower = np.minimum(place.astype(int), have - 2) if have > 1 else np.zeros(length, int)
    share = np.expand_dims(place - lower, 1 - axis).astype(np.float64 if pixels.dtype == np.float64 else np.float32)
    below, above = pixels.take(lower, axis), pixels.take(np.minimum(lower + 1, have - 1), axis)
    between = below * (1 - share) + above * share
    return (np.rint(between) if pixels.dtype.kind == "u" else between).astype(pixels.dtype, copy=False)


def _name(path_or_bytes: str | Path | bytes) -> str:
    """What to call the file in errors."""
    return f"<{len(path_or_bytes)} bytes>" if isinstance(path_or_bytes, bytes) else str(path_or_bytes)


@contextmanager
def _named(source: str, reason: str) -> Iterator[None]:
    """Name the file in whatever pydicom raises on damaged bytes, nearly every built-in exception, but not its text."""
    try:
        yield
    except DicomError:
        raise
    except Exception as error:
        named = f"{error}, " if type(error) is ElementError else ""
        raise DicomError(source, f"{reason} ({named}{type(error).__name__})") from None


@contextmanager
def _opened(path_or_bytes: str | Path | bytes) -> Iterator[tuple[BinaryIO, str]]:
    """Yield the file and its name in errors."""
    if isinstance(path_or_bytes, bytes):
        yield BytesIO(path_or_bytes), _name(path_or_bytes)
        return
    try:
        with open_file(path_or_bytes) as stream:
            yield stream, _name(path_or_bytes)
    except DicomError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error}); give one readable DICOM file"
        raise DicomError(str(path_or_bytes), reason) from error


def _parse(stream: BinaryIO, source: str, *, with_pixels: bool, max_bytes: int) -> Dataset:
    """Read the elements that are wanted, and stop before the pixels unless they are wanted too."""
    pixel_lengths: list[int] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag not in _PIXEL_TAGS:
            return False
        pixel_lengths.append(length)
        return not with_pixels

    with _named(source, "its header does not parse: the file is damaged; copy it again"):
        stream.seek(0)
        head = stream.read(1024)
        if head[128:132] != b"DICM":
            found = "is empty" if not head else "is no DICOM file (byte 128 is not followed by 'DICM')"
            raise DicomError(source, f"{found}; remove it from the archive or export it again")
        if DeflatedExplicitVRLittleEndian.encode() in head:  # pydicom would inflate without a bound, up to 1032 times
            stream.seek(144 + int.from_bytes(head[140:144], "little"))
            if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(max_bytes), max_bytes)) == max_bytes:
                raise DicomError(source, f"inflates to more than {max_bytes} bytes; store it without deflation")
        stream.seek(0)
        dataset = read_partial(stream, stop_when=at_pixels, specific_tags=_TAGS)
        if not any(pixel_lengths):
            raise NoPixelsError(source, "has no pixel data: a report, a plan, or cut short; remove or copy it again")
        if with_pixels and not any(name in dataset for name in _PIXELS):
            raise DicomError(source, "ends within its pixel data; copy it again")
    return dataset


def _header(dataset: Dataset, source: str) -> RadiographHeader:
    """Return the facts; those that a picture cannot do without must be there and be sane."""
    with _named(source, "its header holds a value of the wrong kind; correct it or remove the file"):
        for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation"):
            if element(dataset, name) in (None, ""):
                raise DicomError(source, f"its header has no {name}; complete it or remove the file")
        photometric = _text(dataset, "PhotometricInterpretation")
        spacing = _spacing(dataset)
        aspect = _aspect(dataset, spacing)
        header = RadiographHeader(
            rows=integer(dataset, "Rows"),
            columns=integer(dataset, "Columns"),
            frames=integer(dataset, "NumberOfFrames") if element(dataset, "NumberOfFrames") else 1,
            photometric=photometric,
            # In DX objects the two say the same (PS3.3 C.8.11.3.1.2): either inverts, never one after the other.
            inverted=photometric == "MONOCHROME1" or _text(dataset, "PresentationLUTShape") == "INVERSE",
            bits_stored=integer(dataset, "BitsStored"),
            spacing=(min(spacing), min(spacing)) if spacing and aspect != 1 else spacing,
            aspect=aspect,
            laterality=_text(dataset, "ImageLaterality") or _text(dataset, "Laterality"),
            body_part=_text(dataset, "BodyPartExamined"),
            view=_text(dataset, "ViewPosition"),
            modality=_text(dataset, "Modality"),
            manufacturer=_text(dataset, "Manufacturer"),
            image_type=tuple(part.strip() for part in _text(dataset, "ImageType").split("\\") if part.strip()),
            burned_in_annotation=_text(dataset, "BurnedInAnnotation"),
            patient_identity_removed=_text(dataset, "PatientIdentityRemoved"),
        )
    if header.rows < 1 or header.columns < 1:
        raise DicomError(source, f"declares {header.rows} rows x {header.columns} columns: no picture; remove the file")
    return header


def _text(dataset: Dataset, name: str) -> str:
    """Return an element's text in upper case; several values stay separated by a backslash.

    White space of every kind becomes one blank. A text that is not printable, too long or of an unknown character set
    is left out, and so is what a damaged file may have swallowed with it.
    """
    try:
        value = element(dataset, name) or ""
        text = value if isinstance(value, str) else "\\".join(map(str, value))
    except Exception:  # pydicom raises nearly any error for bytes that are no text
        return ""
    text = " ".join(text.strip("\0 ").split()).upper()
    return text if text.isprintable() and len(text) <= _LONGEST_TEXT * (1 + text.count("\\")) else ""


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Return the first usable spacing: calibrated, at the detector, of the film scanner (PS3.3 10.7.1.3)."""
    for name in _SPACINGS:
        if (pair := _pair(dataset, name)) is not None:
            return pair
    return None


def _aspect(dataset: Dataset, spacing: tuple[float, float] | None) -> float:
    """Return the height of a pixel over its width, 1 where they differ by less than a hundredth (PS3.3 C.7.6.3.1.7)."""
    height, width = _pair(dataset, "PixelAspectRatio") or spacing or (1.0, 1.0)
    return height / width if 0.01 < abs(log(height / width)) < log(_MOST_OBLIQUE) + 1e-6 else 1.0


def _pair(dataset: Dataset, name: str) -> tuple[float, float] | None:
    """Return an element's two positive numbers, (vertical, horizontal)."""
    try:
        row, column = (float(value) for value in element(dataset, name) or ())
    except Exception:  # a text, or not two numbers: the picture is usable without
        return None
    return (row, column) if 0 < row < np.inf and 0 < column < np.inf else None
