"""Checks that a compressed picture is whole: decoders fill in what a cut or zeroed stream lacks, without an error.

CharLS (JPEG-LS), OpenJPEG (a cut JPEG 2000) and libpng are strict by themselves; the rest is checked here. In JPEG
(ISO/IEC 10918-1) a decoder must end where the data ends: bytes put behind it must change nothing, and other bytes in
place of its last ones must change the picture. In JPEG 2000 (15444-1) zeros are empty packets, of which a tile holds no
more than its header declares.
"""

import re
import zlib
from collections.abc import Iterator
from struct import error as StructError
from struct import unpack

import imagecodecs
import libjpeg
import numpy as np
import simplejpeg

# JPEG's SOF0 to SOF15 without DHT, JPG and DAC (ISO/IEC 10918-1 B.1.1.3), and JPEG-LS's SOF55.
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)  # SOF0 and SOF1: with Huffman codes, of 8 or 12 bits
_LOSSLESS, _PROGRESSIVE = 0xC3, (0xC2, 0xC6)  # SOF3; SOF2 and SOF6
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_ZEROS = bytes(16)  # an intact stream has such runs too, where the picture is one grey
_NOISE = np.random.default_rng(0).integers(1, 255, 128, np.uint8).tobytes()  # neither zeros nor markers
_NO_CODE = b"\xff\x00" * 32  # 256 ones: no Huffman code is all ones (10918-1 C.2), and none is longer than 16 bits
_LAST = 4  # bytes of a segment that are exchanged: some encoders leave a few unused behind the picture


class IncompleteError(ValueError):
    """A compressed stream that ends, or is overwritten, before its picture is complete."""


def stream_facts(frame: bytes) -> tuple[int, int, int, int, int] | None:
    """Return (rows, columns, samples, bits, marker of the frame) of a JPEG, JPEG-LS or JPEG 2000 stream.

    The marker is 0x51 (SIZ) for JPEG 2000 (ISO/IEC 15444-1 A.5.1), else that of the start of frame (10918-1 B.2.2).
    """
    try:
        if (start := frame.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:
            width, height, left, top = unpack(">4I", frame[start + 8 : start + 24])
            samples, depth = unpack(">HB", frame[start + 40 : start + 43])
            return height - top, width - left, samples, (depth & 0x7F) + 1, 0x51
        offset = 2
        while frame[:2] == b"\xff\xd8" and offset + 10 <= len(frame):
            marker, length, bits, rows, columns, samples = unpack(">xBHBHHB", frame[offset : offset + 10])
            if marker in _START_OF_FRAME:
                return rows, columns, samples, bits, marker
            offset += 1 if marker == 0xFF else 2 + length
    except StructError:
        pass
    return None


def decode_strictly(frame: bytes, marker: int) -> np.ndarray | None:
    """Decode a grey JPEG-LS or lossless JPEG stream, whose pixels every decoder agrees about; None for other streams.

    Raises:
        IncompleteError: it is cut or damaged.
    """
    if marker == 0xF7:
        if frame.rfind(b"\xff\xd9", -4096) < 0:  # CharLS, too, wants the end marker, but looks for it for seconds
            raise IncompleteError("its JPEG-LS stream is cut: it has no end marker")
        try:
            return imagecodecs.jpegls_decode(frame)
        except imagecodecs.JpeglsError as error:
            raise IncompleteError(f"its JPEG-LS stream is cut or damaged: {str(error).split('returned')[-1]}") from None
    if marker == _LOSSLESS:
        try:
            picture = imagecodecs.jpeg8_decode(frame)
        except imagecodecs.Jpeg8Error:  # what libjpeg-turbo does not know
            return None
        _check_jpeg(frame, picture, marker)
        return picture
    return None


def decode_sequential(frame: bytes, marker: int) -> np.ndarray:
    """Decode a grey sequential JPEG by pylibjpeg, whose pixels are those of pydicom, and check it at once.

    Ones are put behind the picture: the decoder raises where the data ends before the picture does.

    Raises:
        IncompleteError: it is cut or damaged.
        RuntimeError: it is no such stream.
    """
    end = frame.rfind(b"\xff\xd9", -4096)
    if end >= 0 and not _has_zeros(frame):
        try:
            return libjpeg.decode(frame[:end] + _NO_CODE + frame[end:])
        except RuntimeError:
            pass
    picture = libjpeg.decode(frame)
    try:
        _check_jpeg(frame, imagecodecs.jpeg8_decode(frame), marker)
    except imagecodecs.Jpeg8Error as error:
        raise IncompleteError(f"its JPEG stream is damaged: {error}") from None
    return picture


def check_complete(frame: bytes, marker: int, picture: np.ndarray | None = None) -> None:
    """Raise `IncompleteError` for a stream that is cut, or overwritten with zeros.

    Args:
        frame: the stream.
        marker: see `stream_facts`.
        picture: what libjpeg made of a JPEG stream, if it did.
    """
    if marker == 0x51:
        _check_jpeg2000(frame)
    elif marker == 0xF7:
        decode_strictly(frame, marker)
    elif marker in _START_OF_FRAME:
        if not (warning := _warning(frame)):
            return
        torn = frame.rfind(b"\xff\xd9", -4096) < 0 or _has_zeros(frame)
        try:
            shown = imagecodecs.jpeg8_decode(frame) if picture is None else picture
            longer = "extraneous" in warning and not torn and marker not in (_LOSSLESS, *_PROGRESSIVE)
            if not longer or _ends_in_grey(shown):  # a few bytes too many harm nothing
                _check_jpeg(frame, shown if picture is None else imagecodecs.jpeg8_decode(frame), marker)
        except imagecodecs.Jpeg8Error as error:
            if torn and marker < 0xC8:  # libjpeg-turbo does not know every kind of arithmetic coding
                raise IncompleteError(f"its JPEG stream is damaged: {error}") from None


def _warning(frame: bytes) -> str:
    """What libjpeg-turbo says of a JPEG's stream; empty where it is just as long as its picture, of eight bits."""
    try:
        simplejpeg.decode_jpeg(frame, "GRAY", min_height=1, min_width=1, min_factor=8)  # the picture at 1/8 costs less
    except ValueError as error:
        return str(error) or "no reason"
    return ""


def _has_zeros(frame: bytes) -> bool:
    """Whether zeros are in a row within the scans of a JPEG."""
    return frame.find(_ZEROS, max(frame.find(b"\xff\xda"), 0)) >= 0


def check_png(content: bytes) -> None:
    """Raise `IncompleteError` for a part of a PNG's pixels that its checksum does not fit (ISO/IEC 15948, 5.3)."""
    start = 8
    while start + 12 <= len(content) and (kind := content[start + 4 : start + 8]) != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if kind == b"IDAT" and zlib.crc32(content[start + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise IncompleteError("is damaged: a checksum of its pixels is wrong, or they are truncated")
        start = end + 4


def _ends_in_grey(picture: np.ndarray) -> bool:
    """Whether a picture of eight bits ends in the mid-grey that libjpeg fills in."""
    corner = picture[-4:, -4:].reshape(-1, *picture.shape[2:])
    return bool((corner == corner[-1]).all()) and 127 <= int(corner.flat[0]) <= 129


def _check_jpeg(frame: bytes, whole: np.ndarray, marker: int) -> None:
    """Compare the picture with those of altered streams; see the module's text.

    The last bytes of a progressive scan may change less than a grey value: there the scans are counted instead, and
    zeros inside a scan are not noticed.
    """
    if (end := frame.rfind(b"\xff\xd9")) < 0:
        frame, end = frame + b"\xff\xd9", len(frame)
    segments = list(_segments(frame, end))
    suspects = [(start, stop) for start, stop in segments if frame.find(_ZEROS, start, stop) >= 0]
    for start, stop in dict.fromkeys((*suspects[:1], *suspects[-1:], *segments[-1:])):  # altered streams for each
        if not _same(frame[:stop] + _NOISE + frame[stop:], whole):
            raise IncompleteError("its JPEG stream is cut: it ends before the picture does")
        if marker in _PROGRESSIVE:
            continue
        last = frame[max(start, stop - _LAST) : stop]
        others = bytes(min(255 - byte, 254) for byte in last), _NOISE[: len(last)], _NOISE[-len(last) :]
        if len(last) > 1 and all(_same(frame[: stop - len(last)] + other + frame[stop:], whole) for other in others):
            raise IncompleteError("its JPEG stream is damaged: the picture ends before the stream does")
    if marker in _PROGRESSIVE and not _has_every_scan(frame, end):
        raise IncompleteError("its JPEG stream is cut or damaged: scans are missing")


def _has_every_scan(frame: bytes, end: int) -> bool:
    """Whether the scans of a progressive JPEG give every coefficient its last bit (ISO/IEC 10918-1 G.1.1.1)."""
    lacking: dict[int, set[int]] = {}
    start = frame.find(b"\xff\xda")
    while 0 <= start < end and start + 5 < len(frame):
        count = frame[start + 4]
        components = frame[start + 5 : start + 5 + 2 * count : 2]
        first, last, bits = frame[start + 5 + 2 * count : start + 8 + 2 * count]
        for component in components:
            missing = lacking.setdefault(component, set(range(64)))
            if bits & 15 == 0:
                missing -= set(range(first, last + 1))
        start = frame.find(b"\xff\xda", start + 2)
    return bool(lacking) and not any(lacking.values())


def _segments(frame: bytes, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the entropy-coded segments of a JPEG stream: between scan headers and restart markers."""
    start, restart = frame.find(b"\xff\xda"), 0
    while 0 <= start < end:
        marker, body = frame[start + 1], start + 2
        is_restart = 0xD0 <= marker <= 0xD7
        if is_restart and marker & 7 != restart:
            raise IncompleteError("its JPEG stream is damaged: a restart marker is missing")
        restart = (restart + 1) % 8 if is_restart else 0
        if not is_restart:  # a scan's header, or tables between two scans
            body += int.from_bytes(frame[body : body + 2], "big")
        found = _MARKER.search(frame, body, end + 2)
        if is_restart or marker == 0xDA:
            yield body, min(found.start() if found else end, end)
        start = found.end() - 2 if found else -1


def _same(frame: bytes, whole: np.ndarray) -> bool:
    try:
        return np.array_equal(imagecodecs.jpeg8_decode(frame), whole)
    except imagecodecs.Jpeg8Error:
        return False


def _check_jpeg2000(frame: bytes) -> None:
    """Look for more zeros in a row than empty packets (ISO/IEC 15444-1 B.10.3) can make."""
    if (start := frame.find(b"\xff\x93")) < 0:  # SOD, where the data of the first tile begins
        raise IncompleteError("its JPEG 2000 stream has no data")
    if frame.find(bytes(_zeros_allowed(frame[:start]) + 1), start) >= 0:
        raise IncompleteError("its JPEG 2000 stream is damaged: a part of it is overwritten with zeros")


def _zeros_allowed(header: bytes) -> int:
    """Return the most zeros in a row of a tile's data: one per packet, and a few that arithmetic coding may make."""
    siz, cod = header.find(b"\xff\x51"), header.find(b"\xff\x52")
    if cod < 0:
        return len(header) + 2**20
    tile_width, tile_height = unpack(">2I", header[siz + 22 : siz + 30])
    width, height = unpack(">2I", header[siz + 6 : siz + 14])
    samples = int.from_bytes(header[siz + 38 : siz + 40], "big")
    style, layers, levels = header[cod + 4], int.from_bytes(header[cod + 6 : cod + 8], "big"), header[cod + 9]
    block_style = header[cod + 12]
    packets = 0
    for resolution in range(levels + 1):
        exponents = header[cod + 14 + resolution] if style & 1 and cod + 14 + resolution < len(header) else 0xFF
        reduced = levels - resolution
        across = -(-min(tile_width, width) // 2 ** (reduced + (exponents & 15))) + 1
        down = -(-min(tile_height, height) // 2 ** (reduced + (exponents >> 4))) + 1
        packets += across * down if style & 1 else 1
    raw = bool(block_style & 0x41)  # bits that bypass arithmetic coding, and high-throughput blocks, may be zeros
    return packets * layers * samples + (256 if raw else 32)
