"""The DICOM grey-scale pipeline: stored values of one picture -> grey values with air dark and bone bright.

The order is that of PS3.3 C.7.6.3.1.2 and C.11: modality LUT or rescale, VOI LUT or window, inversion of MONOCHROME1.
Pixel padding (PS3.3 C.7.5.1.1.2) is found among the stored values and painted at the end, so that it never widens the
range that a later min-max scaling sees. Every function is pure but for reading the data set's elements.
"""

from math import isfinite

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601-7 section 2.5.1, as PIL's mode L


def to_grey(stored: np.ndarray, dataset: Dataset, *, inverted: bool, window: bool) -> np.ndarray:
    """Return the grey values of a monochrome picture.

    Args:
        stored: (rows, columns) integers as decoded.
        dataset: the elements of the image pixel, modality LUT and VOI LUT modules.
        inverted: low values mean bright; mirror them within the range that the header declares.
        window: apply the first VOI LUT, else the first window, if there is one.

    Returns:
        (rows, columns), uint16 for unsigned integers of at most 16 bits, else float32.

    Raises:
        ValueError: a look-up table or a rescale that is no function of the stored values.
    """
    pixels, low, high = _modality(stored, dataset)
    if window and dataset.get("VOILUTSequence"):
        pixels, low, high = look_up(pixels, dataset.VOILUTSequence[0], dataset)
    elif window and None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        pixels = apply_windowing(pixels, dataset)
    pixels = _narrow(pixels)
    if inverted:
        # Some files hold values beyond Bits Stored: the range grows with them rather than wrapping them around.
        low, high = min(low, pixels.min()), max(high, pixels.max())
        pixels = (pixels.dtype.type(low + high) - pixels).astype(pixels.dtype, copy=False)
    padding = _padding(stored, dataset)
    if padding is not None and not padding.all():
        pixels = np.where(padding, pixels.min(where=~padding, initial=pixels.max()), pixels)
    return pixels


def to_luma(rgb: np.ndarray) -> np.ndarray:
    """Return the luma of a (rows, columns, 3 or more) picture: rounded to uint16, or float32 beyond 16 bits."""
    luma = rgb[..., :3].astype(np.float32) @ LUMA
    return np.rint(luma).astype(np.uint16) if rgb.dtype.itemsize <= 2 else luma


def look_up(pixels: np.ndarray, item: Dataset, dataset: Dataset) -> tuple[np.ndarray, float, float]:
    """Map values through a modality or VOI LUT item (PS3.3 C.11.1.1, C.11.2.1.1); return them with the LUT's range."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries or 65536
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8 if len(data) - entries in (0, 1) else f"{order}u2")
    else:
        table = np.asarray(data, np.uint16)
    if len(table) < entries or not 1 <= bits <= 16:
        raise ValueError(f"LUT with {len(table)} entries, its descriptor says {entries} of {bits} bits")
    index = np.clip(pixels.astype(np.int64) - first, 0, entries - 1)
    return table.astype(np.uint16)[index], 0, 2**bits - 1


def _modality(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, float, float]:
    """Apply the modality LUT or the rescale; return the values and the range that the header declares for them."""
    if dataset.get("ModalityLUTSequence"):
        return look_up(stored, dataset.ModalityLUTSequence[0], dataset)
    signed = bool(dataset.get("PixelRepresentation"))
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return stored, low, high
    slope, intercept = float(slope), float(intercept)
    if not (isfinite(slope) and isfinite(intercept) and slope):
        raise ValueError(f"rescale with slope {slope} and intercept {intercept}")
    low, high = sorted((low * slope + intercept, high * slope + intercept))
    return stored * slope + intercept, low, high


def _narrow(pixels: np.ndarray) -> np.ndarray:
    """Return uint16 for unsigned integers that fit, else float32 (exact up to 24 bits), in native byte order."""
    fits = pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2
    return pixels.astype(np.uint16 if fits else np.float32, copy=False)


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Return where the stored values are padding, None where the header declares none."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= ends[0]) & (stored <= ends[1])
