"""The DICOM grey-scale pipeline: stored values of one picture -> grey values with air dark and bone bright.

The order is that of PS3.3 C.7.6.3.1.2 and C.11: modality LUT or rescale, VOI LUT or window, inversion of MONOCHROME1.
Pixel padding (PS3.3 C.7.5.1.1.2) is found among the stored values and painted at the end, so that it never widens the
range that a later min-max scaling sees. Elements that may be US or SS are compared as bit patterns, because files carry
the wrong one. Every function is pure but for reading the data set's elements; their errors name the element.
"""

from functools import cache
from math import isfinite
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_windowing
from pydicom.tag import BaseTag, Tag

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601-7 section 2.5.1, as PIL's mode L

_EVIDENCE = 4  # how many times smoother the less likely reading of unused bits must be to be taken


def to_grey(
    words: np.ndarray, dataset: Dataset, *, inverted: bool, window: bool, compressed: bool = False
) -> np.ndarray:
    """Return the grey values of a monochrome picture.

    Args:
        words: (rows, columns) integers as decoded, with the bits above Bits Stored.
        dataset: the elements of the image pixel, modality LUT, VOI LUT and overlay modules.
        inverted: low values mean bright; mirror them within the range that the header declares.
        window: apply the first VOI LUT, else the first window, if there is one.
        compressed: see `stored_values`.

    Returns:
        (rows, columns), uint16 for unsigned integers of at most 16 bits, else float32, or float64 where that is needed.

    Raises:
        ValueError: an element, a look-up table or a rescale that is no function of the stored values.
    """
    padding, stored = None, words
    if words.dtype.kind in "ui":
        padding = _padding(words, dataset)  # with the bits above Bits Stored, or without
        stored = stored_values(words, dataset, padding, compressed=compressed)
        padding = _padding(stored, dataset) if padding is None and stored is not words else padding
    padding = None if padding is None or padding.all() else padding
    real = None if padding is None else ~padding
    pixels, low, high = _modality(stored, dataset)
    if window and element(dataset, "VOILUTSequence"):
        pixels, low, high = look_up(pixels, dataset.VOILUTSequence[0], dataset, real)
    elif window and None not in (element(dataset, "WindowCenter"), element(dataset, "WindowWidth")):
        pixels = apply_windowing(pixels, dataset)
        pixels = pixels.astype(np.float32)
    pixels = _narrow(pixels, abs(_number(dataset, "RescaleSlope") or 1) if words.dtype.kind in "ui" else 0)
    if inverted:
        # Some files hold values beyond Bits Stored: the range grows with them rather than wrapping them around.
        lowest, highest = _range(pixels, None)
        if not low <= lowest <= highest <= high:
            lowest, highest = _range(pixels, real)
        low, high = min(low, lowest), max(high, highest)
        pixels = (pixels.dtype.type(low + high) - pixels).astype(pixels.dtype, copy=False)  # padding may wrap around
    if padding is None:
        return pixels
    shown = np.where(padding, pixels.max(), pixels)
    np.copyto(shown, shown.min(), where=padding)
    return shown


def palette_luma(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return the luma of a palette's colours (PS3.3 C.7.9.2), uint16."""
    for name in (f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")):
        entries, first, bits = descriptor(dataset, name, *_range(stored, None))
        dataset[name].value = [entries % 65536, first, bits]
    return to_luma(apply_color_lut(stored, dataset))


def to_luma(rgb: np.ndarray) -> np.ndarray:
    """Return the luma of a (rows, columns, 3 or more) picture: rounded to uint16, or float beyond 16 bits."""
    if rgb.dtype.kind in "ui" and rgb.dtype.itemsize <= 2:
        return np.rint(rgb[..., :3].astype(np.float32) @ LUMA.astype(np.float32)).astype(np.uint16)
    luma = rgb[..., :3].astype(np.float64) @ LUMA
    if rgb.dtype.kind in "ui":
        return np.rint(luma)
    return luma.astype(np.float32) if rgb.dtype.itemsize <= 4 else luma


def stored_values(
    words: np.ndarray, dataset: Dataset, padding: np.ndarray | None = None, *, compressed: bool = False
) -> np.ndarray:
    """Return the values of words that may use bits above Bits Stored.

    Such bits are an overlay or rubbish, and are to be ignored (PS3.5 8.1.1), or they belong to values that are larger
    than the header says, which would wrap around to black. Bits of a declared overlay are ignored. For others the
    reading is taken in which neighbours differ less; where that does not tell, values are kept as they are, in
    compressed pictures whose words are wider than Bits Stored the bits are ignored.

    Args:
        words: (rows, columns), uint or int of Bits Allocated.
        dataset: the elements of the image pixel and overlay modules.
        padding: where words are padding, which says nothing about the bits.
        compressed: the words are those of JPEG 2000 or JPEG-LS.
    """
    allocated, stored = 8 * words.dtype.itemsize, integer(dataset, "BitsStored")
    shift = allocated - stored
    if shift <= 0:
        return words
    low, high = (-(2 ** (stored - 1)) if words.dtype.kind == "i" else 0), 2**stored - 1
    if words.min() >= low and words.max() <= high:  # signed words may be extended by their sign, or by zeros
        return words if words.dtype.kind == "u" else (words << shift) >> shift
    if overlay := _overlay_bits(dataset, stored, allocated):
        pattern = words.view(f"u{words.dtype.itemsize}")
        words = (pattern & pattern.dtype.type(~overlay & (2**allocated - 1))).view(words.dtype)
        if words.dtype.kind == "i":  # the sign was among them
            return (words << shift) >> shift
    narrow = (words << shift) >> shift
    wide = words.astype(np.int64)
    excess = wide - narrow
    kept = cut = 0.0
    for axis in (0, 1):
        edge = np.diff(excess, axis=axis) != 0
        if padding is not None:
            edge &= ~(np.delete(padding, 0, axis) | np.delete(padding, -1, axis))
        kept += float(np.abs(np.diff(wide, axis=axis))[edge].sum())
        cut += float(np.abs(np.diff(narrow.astype(np.int64), axis=axis))[edge].sum())
    keep = kept * _EVIDENCE < cut if compressed else cut * _EVIDENCE >= kept
    return words if keep and kept != cut else narrow


def look_up(
    pixels: np.ndarray, item: Dataset, dataset: Dataset, real: np.ndarray | None = None
) -> tuple[np.ndarray, float, float]:
    """Map values through a modality or VOI LUT item (PS3.3 C.11.1.1, C.11.2.1.1); return them with the LUT's range."""
    entries, first, bits = descriptor(item, "LUTDescriptor", *_range(pixels, real))
    data = item.get("LUTData")
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8 if len(data) - entries in (0, 1) else f"{order}u2")
    else:
        table = (np.atleast_1d(np.asarray([] if data is None else data, np.int64)) & 65535).astype(np.uint16)
    if len(table) < entries or not 1 <= bits <= 16:
        raise ValueError(f"LUT with {len(table)} entries, its descriptor says {entries} of {bits} bits")
    index = np.clip(pixels.astype(np.int64) - first, 0, entries - 1)
    return table.astype(np.uint16)[index], 0, 2**bits - 1


def descriptor(item: Dataset, name: str, lowest: float, highest: float) -> tuple[int, int, int]:
    """Return entries, first mapped value and bits of a look-up table, for values of `lowest` to `highest`.

    The first value is read with the sign by which the table covers more of the picture (PS3.3 C.11.1.1.1).
    """
    try:
        entries, first, bits = (int(value) for value in item[name].value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ElementError(f"{name} is not three integers") from None
    entries = entries % 65536 or 65536

    def covered(start: int) -> float:
        return min(highest, start + entries - 1) - max(lowest, start)

    return entries, max((first, first - 65536, first + 65536), key=covered), bits


class ElementError(ValueError):
    """An element that does not hold what the standard says; the text names it, and quotes nothing."""


def element(dataset: Dataset, name: str) -> Any:
    """Return an element's value, None where it is missing. Its tag is looked up once for all files."""
    tag = _tag(name)
    return dataset[tag].value if tag in dataset else None


@cache
def _tag(name: str) -> BaseTag:
    return Tag(name)


def integer(dataset: Dataset, name: str) -> int:
    """Return an element's integer; the error names the element, and not what is in it."""
    try:
        return int(dataset[_tag(name)].value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ElementError(f"{name} is no integer") from None


def _number(dataset: Dataset, name: str) -> float | None:
    """Return an element's number, None where it is missing or empty."""
    try:
        value = element(dataset, name)
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        raise ElementError(f"{name} is no number") from None


def _modality(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, float, float]:
    """Apply the modality LUT or the rescale; return the values and the range that the header declares for them."""
    if element(dataset, "ModalityLUTSequence"):
        return look_up(stored, dataset.ModalityLUTSequence[0], dataset)
    bits = integer(dataset, "BitsStored")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (0, 2**bits - 1)
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return stored, low, high
    if not (isfinite(slope) and isfinite(intercept) and slope):
        raise ValueError(f"rescale with slope {slope} and intercept {intercept}")
    low, high = sorted((low * slope + intercept, high * slope + intercept))
    return stored * slope + intercept, low, high


def _narrow(pixels: np.ndarray, step: float) -> np.ndarray:
    """Return uint16 for unsigned integers that fit, else float32, or float64 for values `step` apart that need it."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        return pixels.astype(np.uint16, copy=False)
    wide = pixels.dtype.itemsize > 4 or pixels.dtype.kind in "ui"
    if wide and max(-float(pixels.min()), float(pixels.max())) > step * 2**24:
        return pixels.astype(np.float64)
    return pixels.astype(np.float32, copy=False)


def _range(pixels: np.ndarray, real: np.ndarray | None) -> tuple[float, float]:
    """Return the smallest and the largest value, of the real pixels where they are known."""
    if real is None:
        return pixels.min().item(), pixels.max().item()
    low, high = pixels.min(where=real, initial=pixels.max()), pixels.max(where=real, initial=pixels.min())
    return low.item(), high.item()


def _overlay_bits(dataset: Dataset, stored: int, allocated: int) -> int:
    """Return the bits above Bits Stored that hold overlay planes, as the retired way of PS3.3 C.9.2 had it."""
    bits = 0
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            position = dataset[group, 0x0102].value
            if isinstance(position, int) and stored <= position < allocated:
                bits |= 1 << position
    return bits


def _padding(words: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Return where the words are padding, None where the header declares none, or none that there is.

    A value that is not met is looked for with the other sign: of 16 bits, and of Bits Stored.
    """
    if _empty(dataset, "PixelPaddingValue"):
        return None
    ends = [integer(dataset, "PixelPaddingValue")]
    if not _empty(dataset, "PixelPaddingRangeLimit"):
        ends.append(integer(dataset, "PixelPaddingRangeLimit"))
    known = np.iinfo(words.dtype)
    sign = -1 if words.dtype.kind == "i" else 1
    for wrap in (0, 65536, 2 ** integer(dataset, "BitsStored")):
        moved = [end + sign * wrap if known.min <= end + sign * wrap <= known.max else end for end in ends]
        if known.min <= min(moved) and max(moved) <= known.max:
            found = words == moved[0] if len(set(moved)) == 1 else (words >= min(moved)) & (words <= max(moved))
            if found.any():
                return found
    return None


def _empty(dataset: Dataset, name: str) -> bool:
    value = element(dataset, name)
    return value is None or value == "" or value == []
