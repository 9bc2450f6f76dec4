"""Writes one generated radiograph as DICOM: MONOCHROME1 or 2, rescaled or not, with a window, a VOI LUT or neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from hf_radmae.sources.phantom.people import Person, Visit
from hf_radmae.sources.phantom.radiograph import PhantomImage

INVERTED = 0.129  # share of MONOCHROME1
RLE = RLELossless
DX, CR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1"  # SOP classes, PS3.4 B.5
MAKERS = ("SIEMENS", "Philips Medical Systems", "Agfa-Gevaert", "FUJIFILM Corporation")
DIRT = ("no_pixels", "drawing", "width", "three_dimensions", "maximum", "mean", "max_side")
OFFSET = 1000  # of the rescaled values
VIEWS = {
    "ap": ("AP", "AP", "ap", ""),
    "pa": ("PA", "PA", ""),
    "lateral": ("LL", "LATERAL", "RL", "seitlich", ""),
    "oblique": ("RLO", "LLO", "SCHRAEG", ""),
    "cc": ("CC",),
    "mlo": ("MLO",),
}


@dataclass(frozen=True)
class Header:
    """What one file's header says beside the patient and the exam; `voi` is "none", "window" or "lut"."""

    body_part: str
    view: str
    series_uid: str
    sop_uid: str
    modality: str
    maker: str
    inverted: bool
    rescaled: bool
    voi: str
    spacing_name: str

    @classmethod
    def draw(
        cls, image: PhantomImage, body_part: str, series_uid: str, sop_uid: str, rng: np.random.Generator
    ) -> Header:
        """Draw a header for an image; computed radiographs alone are rescaled, and only if they are not inverted."""
        modality = str(rng.choice(["DX", "CR"], p=[0.7, 0.3]))
        inverted = bool(rng.random() < INVERTED)
        return cls(
            body_part=body_part,
            view=str(rng.choice(VIEWS[image.view])),
            series_uid=series_uid,
            sop_uid=sop_uid,
            modality=modality,
            maker=str(rng.choice(MAKERS)),
            inverted=inverted,
            rescaled=modality == "CR" and not inverted and rng.random() < 0.3,
            voi=str(rng.choice(["none", "window", "lut"], p=[0.3, 0.6, 0.1])),
            spacing_name=str(rng.choice(["PixelSpacing", "ImagerPixelSpacing"])),
        )


def spoil(pixels: np.ndarray, fault: str) -> np.ndarray | None:
    """Return pixels (H, W), bone bright, with one fault of `DIRT`; None where they are missing, "" changes nothing."""
    rows, columns = pixels.shape
    if fault == "no_pixels":
        return None
    if fault == "width":
        return pixels[:, np.arange(650) * columns // 650]
    if fault == "max_side":
        return pixels[np.arange(3080) * rows // 3080]
    if fault == "three_dimensions":
        return np.stack([pixels] * 3)
    if fault == "maximum":
        return (pixels.astype(np.float32) * (990 / pixels.max())).astype(np.uint16)
    if fault == "mean":
        dark = np.zeros_like(pixels)
        dark.flat[: max(1, pixels.size // 50)] = 2000
        return dark
    return pixels


def write_dicom(
    path: Path,
    pixels: np.ndarray | None,
    image: PhantomImage,
    header: Header,
    who: Person,
    when: Visit,
    *,
    drawing: bool = False,
    syntax: UID | None = None,
) -> None:
    """Write `pixels`, uint16 (H, W) or (frames, H, W) with bone bright, such that a correct reader gets them back.

    `syntax` is `RLE`, or None for no compression. MONOCHROME1 is stored mirrored in the range of the stored bits, in
    digital radiographs with Presentation LUT Shape INVERSE, as PS3.3 C.8.11.3.1.2 demands; MONOCHROME2 has IDENTITY.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _identify(dataset, image, header, who, when)
    dataset.ImageType = ["DERIVED", "SECONDARY", "DRAWING"] if drawing else ["ORIGINAL", "PRIMARY", ""]
    if pixels is not None:
        _depict(dataset, pixels, image, header)
        if syntax is not None:
            dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def _identify(dataset: Dataset, image: PhantomImage, header: Header, who: Person, when: Visit) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = DX if header.modality == "DX" else CR
    dataset.SOPInstanceUID = header.sop_uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = when.study_uid, header.series_uid
    dataset.PatientName, dataset.PatientID = f"{who.surname}^{who.first_name}", who.patient_id
    dataset.PatientBirthDate, dataset.StudyDate = who.birth_date, when.study_date
    dataset.AccessionNumber, dataset.StudyID = when.accession, when.exam
    dataset.InstitutionName, dataset.OperatorsName = when.institution, when.operator
    dataset.ReferringPhysicianName, dataset.DeviceSerialNumber = when.referrer, when.device
    dataset.Modality, dataset.Manufacturer = header.modality, header.maker
    for name, value in (("BodyPartExamined", header.body_part), ("ViewPosition", header.view)):
        dataset.add(DataElement(name, "CS", value, validation_mode=IGNORE))  # lower case and umlauts, as people type
    if header.modality == "DX":
        dataset.ImageLaterality = image.laterality or "U"
    else:
        dataset.Laterality = image.laterality
    dataset.SeriesNumber, dataset.InstanceNumber = 1, image.image + 1


def _depict(dataset: Dataset, pixels: np.ndarray, image: PhantomImage, header: Header) -> None:
    """Set the elements of the image pixel, modality LUT and VOI LUT modules."""
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME1" if header.inverted else "MONOCHROME2"
    if header.modality == "DX":
        dataset.PresentationLUTShape = "INVERSE" if header.inverted else "IDENTITY"
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "0", "US"
    highest = 2**image.bits - 1
    bits, stored = image.bits, pixels
    if header.inverted:
        stored = np.uint16(highest) - pixels
    elif header.rescaled:
        bits, stored = 16, pixels + np.uint16(OFFSET)
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", str(-OFFSET), "US"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    spacing = f"{image.spacing:.6g}"
    setattr(dataset, header.spacing_name, [spacing, spacing])
    if header.voi == "window":
        dataset.WindowCenter, dataset.WindowWidth = str((highest + 1) // 2), str(highest + 1)
    elif header.voi == "lut":
        dataset.VOILUTSequence = Sequence([_sigmoid(image.bits)])
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _sigmoid(bits: int) -> Dataset:
    """Return a VOI LUT that steepens the middle of the range."""
    entries = np.arange(2**bits) / (2**bits - 1)
    curve = 1 / (1 + np.exp(-8 * (entries - 0.5)))
    item = Dataset()
    item.LUTDescriptor = [2**bits, 0, 16]
    item.LUTData = np.rint(curve * 65535).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    item.LUTExplanation = "NORMAL"
    return item
