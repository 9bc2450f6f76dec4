"""Radiographs out of DICOM: pydicom's pixels, bone bright, lossless where the file is, and nothing of the patient."""

import pickle
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from tiny_dicom import IDENTIFIERS, tiny_dicom

from hf_radmae.images.dicom import (
    DicomError,
    MultiFrameError,
    RadiographHeader,
    read_header,
    read_radiograph,
)

PYDICOM_FILES = Path(pydicom.__file__).parent / "data"
RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8)


def reference(path: Path, voi: str) -> tuple[np.ndarray, np.ndarray, Dataset]:
    """Return the stored values, pydicom's own pipeline before any inversion, and the data set."""
    dataset = pydicom.dcmread(path)
    stored = pixels = pixel_array(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(stored, dataset)
    elif stored.ndim == 2:
        pixels = apply_modality_lut(stored, dataset)
        pixels = apply_voi_lut(pixels, dataset) if voi == "window" else pixels
    return stored, pixels, dataset


def check_against_pydicom(path: Path, voi: str) -> str:
    """Compare one file with pydicom; return "equal", or the error's name where pydicom cannot read the file either."""
    try:
        stored, expected, dataset = reference(path, voi)
    except Exception:
        with pytest.raises(DicomError, match=re.escape(path.name)) as caught:
            read_radiograph(path, voi=voi)
        return caught.type.__name__
    if dataset.get("NumberOfFrames", 1) > 1:
        with pytest.raises(MultiFrameError, match="multi-frame"):
            read_radiograph(path, voi=voi)
        return "MultiFrameError"
    radiograph = read_radiograph(path, voi=voi)
    pixels = radiograph.pixels
    assert (radiograph.rows, radiograph.columns) == (dataset.Rows, dataset.Columns)
    assert pixels.shape == radiograph.shape
    if radiograph.aspect != 1:
        return "resampled"
    if expected.ndim == 3:
        luma = expected[..., :3] @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(pixels, luma, atol=0.501, rtol=1e-6, err_msg=path.name)
    else:
        real = stored != dataset["PixelPaddingValue"].value if "PixelPaddingValue" in dataset else slice(None)
        if dataset.PhotometricInterpretation == "MONOCHROME1":  # a mirror image: the sum is one constant
            total = pixels[real].astype(np.float64) + expected[real]
            assert np.ptp(total) <= np.abs(total.flat[0]) * 2e-7, path.name
        else:
            np.testing.assert_array_equal(pixels[real], expected[real].astype(pixels.dtype), err_msg=path.name)
    assert read_header(path) == RadiographHeader(
        **{f.name: getattr(radiograph, f.name) for f in fields(RadiographHeader)}
    )
    return "equal"


@pytest.mark.parametrize("voi", ["full", "window"])
def test_every_file_of_the_pydicom_package_equals_pydicom_or_names_its_error(voi):
    files = [path for path in sorted(PYDICOM_FILES.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc")]
    outcomes = [check_against_pydicom(path, voi) for path in files]
    assert outcomes.count("equal") > 90 and set(outcomes) == {
        "equal",
        "resampled",
        "DicomError",
        "NoPixelsError",
        "MultiFrameError",
    }
    assert outcomes.count("resampled") == 2, "6293 and 6924, whose pixels are 1.12 times as wide as high"


def test_every_real_file_equals_pydicom_or_names_its_error(dicoms):
    outcomes = {path.name: check_against_pydicom(path, "full") for path in sorted(dicoms.glob("*.dcm"))}
    failed = {name for name, outcome in outcomes.items() if outcome != "equal"}
    assert failed == {"WG04_RG2_JPLY.dcm", "WG04_RG3_JPLY.dcm"}, "only the two with a misplaced JPEG marker"


@pytest.mark.parametrize("name", ["WG04_RG3_UNC", "fodicom_CR-ModalitySequenceLUT", "pydicom_vlut_04_synthetic"])
def test_window_equals_pydicom_on_real_luts_and_windows(dicoms, name):
    assert check_against_pydicom(dicoms / f"{name}.dcm", "window") == "equal"


@pytest.mark.parametrize("name", ["RG2_J2KR", "RG2_JLSL", "RG2_JPLL", "RG3_J2KR", "RG3_JLSL", "RG3_JPLL", "RG3_RLE"])
def test_lossless_variants_equal_the_uncompressed_file_bit_for_bit(dicoms, name):
    plain = read_radiograph(dicoms / f"WG04_{name[:3]}_UNC.dcm").pixels
    packed = read_radiograph(dicoms / f"WG04_{name}.dcm").pixels
    assert packed.dtype == plain.dtype == np.uint16
    np.testing.assert_array_equal(packed, plain)


def test_monochrome1_comes_out_with_bone_bright(dicoms):
    """RG3 is a lower leg: the shaft in the middle, air beside it, in a file where low values mean bright."""
    leg = read_radiograph(dicoms / "WG04_RG3_UNC.dcm")
    shaft, air = leg.pixels[400:900, 900:1010], leg.pixels[400:900, 600:700]
    assert leg.inverted and shaft.min() > air.max()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 16), st.integers(0, 2**32 - 1))
def test_monochrome1_of_the_mirrored_values_is_the_same_picture(bits, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, (5, 7)).astype(np.uint16)
    bright = read_radiograph(tiny_dicom(values, BitsStored=bits))
    mirrored = (2**bits - 1 - values).astype(np.uint16)
    dark = read_radiograph(tiny_dicom(mirrored, BitsStored=bits, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(dark.pixels, bright.pixels)
    np.testing.assert_array_equal(bright.pixels, values)
    assert dark.inverted and not bright.inverted


def test_presentation_lut_shape_inverts_once_whatever_the_photometric_interpretation_says():
    once = [
        read_radiograph(
            tiny_dicom(RAMP, BitsStored=6, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
        )
        for photometric, shape in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "INVERSE"))
    ]
    for radiograph in once:
        np.testing.assert_array_equal(radiograph.pixels, 63 - RAMP)


def test_signed_and_rescaled_values_are_exact_float32():
    values = np.array([[-2000, -1], [0, 1999]], np.int16)
    pixels = read_radiograph(tiny_dicom(values, RescaleSlope="2", RescaleIntercept="-1024")).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, values * 2.0 - 1024)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(0, None), (60000, 65535), (65535, 60000)])
def test_padding_is_the_darkest_value_of_the_picture_and_never_widens_its_range(photometric, value, limit):
    values = np.full((4, 4), value, np.uint16)
    values[1:3, 1:3] = [[500, 600], [700, 800]]
    extra = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    file = tiny_dicom(values, PhotometricInterpretation=photometric, PixelPaddingValue=value, **extra)
    pixels = read_radiograph(file).pixels
    inside = pixels[1:3, 1:3]
    assert np.ptp(inside) == 300
    assert np.all(np.delete(pixels.ravel(), [5, 6, 9, 10]) == inside.min())


def test_nothing_of_the_patient_reaches_the_caller_or_an_error_text():
    shown = repr(read_radiograph(tiny_dicom()))
    with pytest.raises(DicomError) as caught:
        read_radiograph(tiny_dicom(PixelData=b"\0\0"))
    for secret in IDENTIFIERS.values():
        assert secret not in shown and secret not in str(caught.value)


def test_header_facts_are_read_without_the_pixels():
    whole = tiny_dicom(RAMP, BitsStored=12, PixelSpacing=[0.1, 0.125])
    cut = whole[: whole.rindex(RAMP.tobytes())]
    header = read_header(cut)
    assert header == RadiographHeader(
        rows=6, columns=8, frames=1, photometric="MONOCHROME2", inverted=False, bits_stored=12, spacing=(0.1, 0.1),
        aspect=0.8, laterality="L", body_part="HAND", view="PA", modality="DX", manufacturer="PHANTOM GMBH",
        image_type=("ORIGINAL", "PRIMARY"), burned_in_annotation="", patient_identity_removed="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, (0.15, 0.15)),
        ({"PixelSpacing": [0, 0]}, (0.15, 0.15)),
        ({"ImagerPixelSpacing": [0.1]}, None),
        ({"ImagerPixelSpacing": [-1, 1], "NominalScannedPixelSpacing": [0.05, 0.05]}, (0.05, 0.05)),
    ],
)
def test_spacing_is_the_first_that_is_positive(elements, spacing):
    assert read_header(tiny_dicom(**elements)).spacing == spacing


def test_errors_survive_the_way_from_a_worker_process():
    with pytest.raises(MultiFrameError) as caught:
        read_radiograph(tiny_dicom(NumberOfFrames=3))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.source, copy.reason) == (str(caught.value), caught.value.source, caught.value.reason)
    assert (
        str(MultiFrameError("one text, as torch's loader raises it again"))
        == "one text, as torch's loader raises it again"
    )


def test_an_unknown_voi_is_refused():
    with pytest.raises(ValueError, match="voi='auto': expected 'full' or 'window'"):
        read_radiograph(tiny_dicom(), voi="auto")
