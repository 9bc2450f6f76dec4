"""Says why a DICOM picture cannot be decoded, or not within bounds, before anything is allocated for it."""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import RLELossless

from hf_radmae.images.greyscale import element, integer
from hf_radmae.images.streams import stream_facts

GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def refusals(dataset: Dataset, max_pixels: int) -> Iterator[str]:
    """Yield why the picture cannot be decoded here, or would take unbounded memory, before anything is allocated."""
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    samples = integer(dataset, "SamplesPerPixel") if element(dataset, "SamplesPerPixel") not in (None, "") else 0
    photometric = dataset.PhotometricInterpretation
    allocated, stored, high = (
        integer(dataset, "BitsAllocated"),
        integer(dataset, "BitsStored"),
        element(dataset, "HighBit"),
    )
    if rows * columns > max_pixels:
        yield f"declares {rows} x {columns} pixels, more than max_pixels={max_pixels}; raise the limit to read it"
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated or high not in (None, stored - 1):
        yield (
            f"{stored} bits stored of {allocated} allocated with high bit {high}: expected 1, 8, 16 or 32 allocated, "
            "no more stored, and the high bit one below the stored; correct the header"
        )
    if photometric not in (*GREY, "PALETTE COLOR", *_COLOUR):
        yield f"photometric interpretation {photometric[:16]!r} is not supported; export it as MONOCHROME2"
    if samples != (3 if photometric in _COLOUR else 1):
        yield f"{samples} samples per pixel do not fit {photometric}; correct the header"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_valid:
        yield "its file meta information names no transfer syntax; export the file again"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        yield f"transfer syntax {syntax} has no decoder; export the file as Explicit VR Little Endian or JPEG 2000"
    if not decoder.is_available:
        yield f"transfer syntax {syntax.name} needs: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
    if decoder.is_encapsulated:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        expected = rows * columns * samples * allocated // 8
        if len(frame) > 2 * expected + 65536:
            yield f"{len(frame)} compressed bytes for {expected} bytes of pixels; correct Rows and Columns"
        facts = stream_facts(frame) if syntax != RLELossless else None
        if syntax != RLELossless and (coded := facts and facts[:3]) != (rows, columns, samples):
            yield (
                f"its code stream holds {coded}, its header says {(rows, columns, samples)} (rows, columns, samples); "
                "correct the header or export the file again"
            )
