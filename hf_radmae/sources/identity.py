"""What a DICOM header says of whose image a file is, and which object: the identity that a file's name does not give.

The identifiers are compared, and never written as they are into a column, a log or an error.
"""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from hf_radmae.images.remote import open_file
from hf_radmae.images.storage import StorageError, steady, storage_fault

HEAD = 2**18
"""Bytes of a file that nearly every header fits in: one read from network storage."""
_LAST = Tag("StudyInstanceUID")
_TAGS: list[BaseTag | int] = [Tag(name) for name in ("SOPInstanceUID", "PatientID", "StudyInstanceUID")]


class Identity(NamedTuple):
    """Texts of a header, empty where it has none."""

    sop: str = ""
    patient: str = ""
    study: str = ""


def read_head(path: str, size: int = HEAD) -> bytes:
    """The first bytes of a file.

    Raises:
        StorageError: the storage does not answer.
        OSError: the file cannot be read.
    """

    def read() -> bytes:
        with open_file(path) as file:
            return file.read(size)

    return steady(read, path)


def read_identity(path_or_head: str | bytes) -> Identity | None:
    """The identity in a DICOM file, or in its first bytes; None where it is no DICOM file, or its header is damaged."""
    try:
        head = path_or_head if isinstance(path_or_head, bytes) else read_head(path_or_head)
    except StorageError:
        raise
    except OSError:  # said where the file is read for its size
        return None
    if head[128:132] != b"DICM":
        return None
    try:
        found = read_partial(BytesIO(head), stop_when=lambda tag, _vr, _length: tag > _LAST, specific_tags=_TAGS)
        texts = (str(found.get(name) or "").strip() for name in ("SOPInstanceUID", "PatientID", "StudyInstanceUID"))
        return Identity(*texts)
    except Exception as error:  # damaged headers raise nearly every built-in exception
        if storage_fault(error):
            raise
        return None
