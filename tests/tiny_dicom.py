"""Writes small DICOM files for the tests of the readers: one picture, any element overridden, removed or corrupted."""

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, ImplicitVRLittleEndian

IDENTIFIERS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19640812",
    "AccessionNumber": "ACC-0815",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.4242",
    "InstitutionName": "Musterklinik",
    "ReferringPhysicianName": "Weber^Hans",
}


def tiny_dicom(
    pixels: np.ndarray | None = None,
    *,
    syntax: str = ExplicitVRLittleEndian,
    drop: tuple[str, ...] = (),
    edits: Iterable[Callable[[Dataset], object]] = (),
    implicit: bool = False,
    **elements,
) -> bytes:
    """Return a file with `pixels` (rows, columns), 6 x 8 of uint16 by default, and fake identifiers.

    `edits` change the data set before it is written; `implicit` writes no VRs, where the syntax has native pixels.
    """
    if pixels is None:
        pixels = np.arange(48, dtype=np.uint16).reshape(6, 8)
    bits = 8 * pixels.dtype.itemsize
    values = {
        **IDENTIFIERS,
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.1",
        "Modality": "DX",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "BodyPartExamined": "HAND",
        "ViewPosition": "PA",
        "ImageLaterality": "L",
        "Manufacturer": "Phantom GmbH",
        "ImagerPixelSpacing": [0.15, 0.15],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": max(0, int(elements.get("BitsStored", bits)) - 1),
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **elements,
    }
    dataset = Dataset()
    for name, value in values.items():
        if name not in drop:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    for edit in edits:
        edit(dataset)
    implicit = implicit and syntax == ExplicitVRLittleEndian
    syntax = ImplicitVRLittleEndian if implicit else syntax
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True, implicit_vr=implicit, little_endian=True)
    return stream.getvalue()


def write_dicom(path: Path, pixels: np.ndarray | None = None, **elements) -> Path:
    """Write `tiny_dicom` to a path, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiny_dicom(pixels, **elements))
    return path
