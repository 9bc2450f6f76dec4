"""One radiograph at training resolution: cropped to its field, resized with antialiasing, in 8 or 16 bit, encoded.

Pure functions on arrays; what runs them over an archive is `prepare`.
"""

import io
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from hf_radmae.batching.binning import Bins, assign
from hf_radmae.batching.grids import target_sizes
from hf_radmae.images.fitting import as_float32
from hf_radmae.images.image import ImageError, check_size

ENCODINGS = ("pgm", "png", "jpeg")
JPEG_QUALITY = 95

_BORDER_TOLERANCE = 0.03  # of the grey range: how near to its ends a border is
_BORDER_CONTENT = 0.02  # share of a border row's pixels that may be something else: dust, dead pixels
_SMALLEST_FIELD = 0.25  # of a side: a smaller field is a mistake of the rule, not a collimation


@dataclass(frozen=True)
class PrepareOptions:
    """What an archive is turned into; the same options and the same input give the same bytes.

    Attributes:
        longest_side: Longest side in pixels, unless `max_tokens` is given. Nothing is ever enlarged.
        max_tokens: Most patches by area, in place of `longest_side`.
        patch_size: Side of a patch in pixels, for `max_tokens`.
        num_bins: With `max_tokens`: resize each image to the closest of so many shapes fitted to all sizes, so that
            training with the same bins resizes nothing. The aspect changes as in training.
        bits: Most bits of a pixel, 8 or 16. With 8 the range of each deeper image is stretched over 0..255; with 16
            integers keep their values. 8-bit images stay as they are.
        encoding: "pgm" (uncompressed within the shard's zstd, several times faster to decode than the others), "png"
            (a third to a half of the size), or "jpeg" (quality 95, 8 bit, the smallest, lossy).
        crop_to_field: Cut off borders that are nearly constant and nearly black or white.
        maximum: Drop an image with no grey value above this, see `pixel_rule`; None drops none.
        mean: Drop an image whose mean grey value is at most this, see `pixel_rule`; None drops none.
        drawing: Drop a DICOM file whose ImageType says DRAWING.
        keep_burned_in: Keep a DICOM file whose BurnedInAnnotation says YES, or an image whose column
            `burned_in_annotation` does: text in the picture may name the patient.
        labels: Columns to keep beside sizes and ids; by default those of classes and of truth values.
        images_per_shard: Images of a shard before any is dropped: what a worker loses at most when it is killed.
        seed: Of the order of the images, mixed so that a stream of a few shards is varied.

    Raises:
        ValueError: an option out of range, or two that contradict each other.
    """

    longest_side: int = field(default=512, metadata={"help": "Longest side in pixels; nothing is ever enlarged."})
    max_tokens: int | None = field(default=None, metadata={"help": "Most patches of an image; replaces longest_side."})
    patch_size: int = field(default=16, metadata={"help": "Side of a patch in pixels, for max_tokens."})
    num_bins: int | None = field(default=None, metadata={"help": "With max_tokens: resize to so many exact shapes."})
    bits: int = field(default=8, metadata={"help": "Most bits of a pixel.", "choices": [8, 16]})
    encoding: str = field(
        default="pgm", metadata={"help": "pgm is fastest, jpeg smallest.", "choices": list(ENCODINGS)}
    )
    crop_to_field: bool = field(default=False, metadata={"help": "Cut off constant black or white borders."})
    maximum: float | None = field(default=None, metadata={"help": "Drop images with no grey value above this."})
    mean: float | None = field(default=None, metadata={"help": "Drop images whose mean is at most this."})
    drawing: bool = field(default=False, metadata={"help": "Drop DICOM files that are drawings by their ImageType."})
    keep_burned_in: bool = field(
        default=False, metadata={"help": "Keep images that are marked as having text burnt in."}
    )
    labels: list[str] | None = field(default=None, metadata={"help": "Columns to keep; default: all class labels."})
    images_per_shard: int = field(default=1000, metadata={"help": "Images of a shard, lost at most by a kill."})
    seed: int = field(default=42, metadata={"help": "Of the order of the images."})

    def __post_init__(self) -> None:
        if min(self.longest_side, self.max_tokens or 1, self.patch_size, self.num_bins or 1, self.images_per_shard) < 1:
            raise ValueError(f"longest_side, max_tokens, patch_size, num_bins, images_per_shard: at least 1 in {self}")
        if self.bits not in (8, 16) or self.encoding not in ENCODINGS:
            raise ValueError(f"bits={self.bits}, encoding={self.encoding!r}: expected 8 or 16, and one of {ENCODINGS}")
        if self.encoding == "jpeg" and self.bits != 8:
            raise ValueError(f"encoding='jpeg' holds 8 bits, not bits={self.bits}: take 'pgm' or 'png'")
        if self.num_bins and not self.max_tokens:
            raise ValueError(f"num_bins={self.num_bins} needs max_tokens, the size of the shapes")

    def to_dict(self) -> dict[str, Any]:
        """Texts, numbers and lists, ready for JSON."""
        return asdict(self)


def target_size(height: int, width: int, options: PrepareOptions, bins: Bins | None = None) -> tuple[int, int]:
    """The (height, width) in pixels that an image of this size is resized to; `bins` are those of `num_bins`."""
    if bins is not None:
        row, column = bins.shapes[assign([(height, width)], bins)[0]].tolist()
        return row, column
    budget: dict[str, Any] = {"patch_size": 1, "max_tokens": height * width, "max_side": options.longest_side}
    if options.max_tokens:
        budget = {"patch_size": options.patch_size, "max_tokens": options.max_tokens}
    row, column = np.maximum(np.rint(target_sizes([(height, width)], **budget)[0]), 1).astype(int).tolist()
    return row, column


def field_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The (top, left, height, width) of the collimated field of a picture (rows, columns).

    A border row or column is one of which 98 % lie within 3 % of the darkest or of the brightest grey of the picture.
    A side of the field that would be less than a quarter of the picture's is left whole.
    """
    low, high = (float(value) for value in np.percentile(pixels[::4, ::4], (0.1, 99.9)))
    margin = _BORDER_TOLERANCE * (high - low)
    content = (pixels > low + margin) & (pixels < high - margin)
    box: list[tuple[int, int]] = []
    for axis, side in ((1, pixels.shape[0]), (0, pixels.shape[1])):
        inside = np.flatnonzero(content.mean(axis=axis) > _BORDER_CONTENT)
        start, stop = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, side)
        box.append((start, stop - start) if stop - start >= _SMALLEST_FIELD * side else (0, side))
    (top, height), (left, width) = box
    return top, left, height, width


def shrink(pixels: np.ndarray, size: tuple[int, int], bits: int, name: str) -> np.ndarray:
    """Resize with antialiasing (a triangle filter as wide as the reduction) and bring to at most `bits`.

    Args:
        pixels: (rows, columns) of uint8, uint16, int32 or float32.
        size: (height, width) in pixels.
        bits: 8 or 16; see `PrepareOptions`.
        name: what to call the image in an error.

    Returns:
        (height, width), uint8 or uint16.

    Raises:
        ImageError: nothing that training could use is left at this size.
    """
    height, width = size
    if pixels.shape != size:
        picture = Image.fromarray(pixels if pixels.dtype == np.uint8 else as_float32(pixels))
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    else:
        resized = pixels
    check_size(height, width, name)
    low, high = float(resized.min()), float(resized.max())
    if low == high:
        raise ImageError(name, f"is constant at {height}x{width} pixels")
    if pixels.dtype == np.uint8:
        return resized
    if bits == 16 and pixels.dtype.kind in "ui" and low >= 0 and high < 2**16:
        return np.rint(resized).astype(np.uint16)
    scaled = np.rint((resized - np.float32(low)) * np.float32((2**bits - 1) / (high - low)))
    return scaled.clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """The file of a picture (rows, columns) of uint8 or uint16, with nothing in it but the pixels.

    PGM is the portable grey map of netpbm: a line of sizes, then big-endian pixels.
    """
    if encoding == "pgm":
        header = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n{np.iinfo(pixels.dtype).max}\n"
        return header.encode() + pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    file = io.BytesIO()
    if encoding == "png":  # run lengths after filtering: as small as level 6 for noisy pictures, and four times faster
        Image.fromarray(pixels).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
