"""Reads one radiograph from a DICOM file: grey at full bit depth with bone bright, and the header facts that matter.

pydicom parses and decodes; what is added here is the order of the grey-scale pipeline (PS3.3 C.7.6.3.1.2: modality LUT,
VOI, then the inversion of MONOCHROME1), padding as background, one named error for every way in which a file can be
broken, and a bound on memory. Only the elements listed in `_KEYWORDS` are ever decoded, and no error or warning quotes
what was read, so that no identifier of the patient can reach a caller or a log, not even out of a damaged file.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hf_radmae.images.decodable import GREY, refusals
from hf_radmae.images.greyscale import to_grey, to_luma

MAX_PIXELS = 100_000_000  # rows x columns; a large film digitised at 43 micrometres has 83 million

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "PresentationLUTShape"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality", "Manufacturer", "ImageType"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_TAGS: list[BaseTag | int] = [Tag(name) for name in (*_KEYWORDS, *_SPACINGS, *_PIXELS)]
_PIXEL_TAGS = {Tag(name) for name in _PIXELS}

# pydicom warns with the value at hand, which in a damaged file may be the elements that follow, the patient's among
# them. Its setting is one for the process: a temporary one would let other threads' warnings through.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


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

    `spacing` is (row, column) in millimetres, None where the header has none that is positive. `inverted` is True
    where low stored values mean bright. Texts are in upper case, empty where the header has none; `laterality` is R, L,
    B (both) or U (unpaired) in a file that follows the standard.
    """

    rows: int
    columns: int
    frames: int
    photometric: str
    inverted: bool
    bits_stored: int
    spacing: tuple[float, float] | None
    laterality: str
    body_part: str
    view: str
    modality: str
    manufacturer: str
    image_type: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Radiograph(RadiographHeader):
    """The header's facts and `pixels`: (rows, columns), uint16 or float32, air dark and bone bright."""

    pixels: np.ndarray


def read_header(path_or_bytes: str | Path | bytes) -> RadiographHeader:
    """Return the facts of a DICOM file without reading its pixels.

    Raises `NoPixelsError` for an object without pixel data and `DicomError` for everything that is not readable.
    """
    with _opened(path_or_bytes) as (stream, source):
        return _header(_parse(stream, source, with_pixels=False, max_bytes=8 * MAX_PIXELS), source)


def read_radiograph(
    path_or_bytes: str | Path | bytes, *, voi: Literal["full", "window"] = "full", max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """Return the one picture of a DICOM file as grey values, brighter where more was absorbed.

    The modality LUT or rescale is always applied; MONOCHROME1 is inverted within the range that the header declares;
    padding takes the darkest value of the picture; colour and palettes become their luma.

    Args:
        path_or_bytes: the file, or its content.
        voi: "full" keeps every grey value; "window" applies the first VOI LUT, else the first window, of the header,
            and changes nothing where it has neither.
        max_pixels: a file that declares more (rows x columns) is refused before anything is allocated.

    Returns:
        A `Radiograph`; its pixels are uint16 where the values are unsigned integers of at most 16 bits, and float32
        where they are signed, rescaled, windowed or wider.

    Raises:
        NoPixelsError, MultiFrameError, DicomError: naming the file, what was found and what to do.
    """
    if voi not in ("full", "window"):
        raise ValueError(f"voi={voi!r}: expected 'full' or 'window'")
    max_bytes = 8 * max_pixels
    with _opened(path_or_bytes) as (stream, source):
        if (size := stream.seek(0, 2)) > max_bytes:
            raise DicomError(source, f"has {size} bytes, more than {max_bytes}; raise max_pixels to read it")
        dataset = _parse(stream, source, with_pixels=True, max_bytes=max_bytes)
    header = _header(dataset, source)
    if header.frames > 1:
        reason = f"multi-frame: {header.frames} frames where one radiograph is expected; remove it or export one frame"
        raise MultiFrameError(source, reason)
    with _named(source, "its header does not fit its pixels; correct it or export the file again"):
        for reason in refusals(dataset, max_pixels):
            raise DicomError(source, reason)
    try:
        stored = pixel_array(dataset, index=0)
        if header.photometric in GREY:
            pixels = to_grey(stored, dataset, inverted=header.inverted, window=voi == "window")
        else:
            pixels = to_luma(apply_color_lut(stored, dataset) if header.photometric == "PALETTE COLOR" else stored)
    except Exception as error:  # the decoders' texts hold sizes and error codes only
        reason = f"its pixels do not decode ({type(error).__name__}: {' '.join(str(error).split())}); export it again"
        raise DicomError(source, reason) from error
    return Radiograph(**vars(header), pixels=pixels)


@contextmanager
def _named(source: str, reason: str) -> Iterator[None]:
    """Name the file in whatever pydicom raises on damaged bytes, nearly every built-in exception, but not its text."""
    try:
        yield
    except DicomError:
        raise
    except Exception as error:
        raise DicomError(source, f"{reason} ({type(error).__name__})") from None


@contextmanager
def _opened(path_or_bytes: str | Path | bytes) -> Iterator[tuple[BinaryIO, str]]:
    """Yield the file and its name in errors."""
    if isinstance(path_or_bytes, bytes):
        yield BytesIO(path_or_bytes), f"<{len(path_or_bytes)} bytes>"
        return
    try:
        with open(path_or_bytes, "rb") as stream:
            yield stream, str(path_or_bytes)
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
            if dataset.get(name) in (None, ""):
                raise DicomError(source, f"its header has no {name}; complete it or remove the file")
        header = RadiographHeader(
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            frames=int(dataset.get("NumberOfFrames") or 1),
            photometric=_text(dataset, "PhotometricInterpretation"),
            # In DX objects the two say the same (PS3.3 C.8.11.3.1.2): either inverts, never one after the other.
            inverted=_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
            or _text(dataset, "PresentationLUTShape") == "INVERSE",
            bits_stored=int(dataset.BitsStored),
            spacing=_spacing(dataset),
            laterality=_text(dataset, "ImageLaterality") or _text(dataset, "Laterality"),
            body_part=_text(dataset, "BodyPartExamined"),
            view=_text(dataset, "ViewPosition"),
            modality=_text(dataset, "Modality"),
            manufacturer=_text(dataset, "Manufacturer"),
            image_type=tuple(part.strip() for part in _text(dataset, "ImageType").split("\\") if part.strip()),
        )
    if header.rows < 1 or header.columns < 1:
        raise DicomError(source, f"declares {header.rows} rows x {header.columns} columns: no picture; remove the file")
    return header


def _text(dataset: Dataset, name: str) -> str:
    """Return an element's text in upper case; several values stay separated by a backslash."""
    value = dataset.get(name) or ""
    text = (value if isinstance(value, str) else "\\".join(map(str, value))).strip().upper()
    if not text.isprintable():
        raise ValueError(f"control characters in {name}")
    return text


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Return the first usable spacing: calibrated, at the detector, of the film scanner (PS3.3 10.7.1.3)."""
    for name in _SPACINGS:
        try:
            row, column = (float(value) for value in dataset.get(name) or ())
        except (TypeError, ValueError):  # a text, or not two numbers: the picture is usable without
            continue
        if 0 < row < np.inf and 0 < column < np.inf:
            return row, column
    return None
