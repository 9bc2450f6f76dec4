"""Generated radiographs in the layout of IRMA (ImageCLEFmed 2009): 8-bit PNGs and a table of four-axis codes."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from hf_radmae.batching.processes import processes
from hf_radmae.sources.phantom.cohort import generate
from hf_radmae.sources.phantom.radiograph import PhantomImage
from hf_radmae.sources.phantom.streams import Purpose, stream

COLUMNS = (
    *("image_id", "irma_code", "05_class", "05_irma_code_submask", "06_class", "06_irma_code"),
    *("07_irma_code", "08_irma_code"),
)
MISSING = r"\N"
TRAIN = ("ImageCLEFmed2009_train_codes.02.csv", "ImageCLEFmed2009_train.02")
TEST = ("ImageCLEFmed2009_test_codes.03.csv", "ImageCLEFmed2009_test.03")

# Part -> technical, anatomical and biological axis (Lehmann et al., Proc. SPIE 5033, 2003, doi:10.1117/12.480677).
AXES = {
    "skull": ("1121", "200", "700"),
    "cervical_spine": ("1121", "310", "700"),
    "thoracic_spine": ("1121", "320", "700"),
    "lumbar_spine": ("1121", "330", "700"),
    "chest": ("1123", "500", "000"),
    "breast": ("1124", "600", "620"),
    "abdomen": ("1121", "700", "400"),
    "pelvis": ("1121", "800", "700"),
    "hand": ("1121", "410", "700"),
    "wrist": ("1121", "420", "700"),
    "forearm": ("1121", "430", "700"),
    "elbow": ("1121", "440", "700"),
    "upper_arm": ("1121", "450", "700"),
    "shoulder": ("1121", "460", "700"),
    "foot": ("1121", "910", "700"),
    "ankle": ("1121", "920", "700"),
    "lower_leg": ("1121", "930", "700"),
    "knee": ("1121", "940", "700"),
    "thigh": ("1121", "950", "700"),
    "hip": ("1121", "960", "700"),
    "whole_body": ("1121", "100", "700"),
}
DIRECTIONS = {"ap": "120", "pa": "110", "lateral": "210", "oblique": "410", "cc": "310", "mlo": "230"}


def irma_code(image: PhantomImage) -> str:
    """Return the code TTTT-DDD-AAA-BBB of a generated radiograph."""
    technical, anatomical, biological = AXES[image.part]
    return f"{technical}-{DIRECTIONS[image.view]}-{anatomical}-{biological}"


def write_irma(
    folder: str | Path,
    num_images: int,
    *,
    num_test: int = 0,
    whole_body: int = 3,
    seed: int = 0,
    scale: float = 1 / 6,
    doubled: bool = True,
    digits: int = 0,
    num_proc: int = 1,
) -> list[PhantomImage]:
    """Write generated images and tables as IRMA has them; the bytes do not depend on `num_proc`.

    Args:
        folder: where the tables and the folders of images go.
        num_images: labelled training images; `whole_body` of them show the whole body.
        num_test: images of the official test set, none by default.
        seed, scale: as for `generate`; IRMA's longest side of 512 pixels is a sixth of the archive's.
        doubled: put the images into a folder of the same name within their folder.
        digits: pad the numbers in file names with zeros to so many digits.
        num_proc: processes that draw and write.

    Returns:
        The images in the order of their numbers, training set first.

    Raises:
        ValueError: more whole bodies than images.
    """
    if not 0 <= whole_body <= num_images:
        raise ValueError(f"whole_body={whole_body}: expected at most num_images={num_images}")
    images = generate(num_images + num_test, seed=seed, scale=scale)
    rng = stream(Purpose.IRMA, seed)
    for place in rng.choice(num_images, whole_body, replace=False):
        plain = {"laterality": "", "fracture": False, "foreign_material": False}
        images[place] = replace(images[place], part="whole_body", view="ap", **plain)
    numbers = np.sort(rng.choice(5 * len(images), len(images), replace=False)) + 1
    for (table, name), part in ((TRAIN, slice(0, num_images)), (TEST, slice(num_images, None))):
        if not images[part]:
            continue
        place = Path(folder) / name / name if doubled else Path(folder) / name
        place.mkdir(parents=True)
        files = [place / f"{number:0{digits}d}.png" for number in numbers[part]]
        with processes(num_proc) as in_processes:
            in_processes(_write_image, [*zip(images[part], files, strict=True)])
        _write_table(Path(folder) / table, numbers[part].tolist(), [irma_code(image) for image in images[part]], rng)
    return images


def _write_image(task: tuple[PhantomImage, Path]) -> None:
    """Write a radiograph with its upper eight bits."""
    image, file = task
    Image.fromarray((image.pixels() >> (image.bits - 8)).astype(np.uint8)).save(file)


def _write_table(path: Path, numbers: list[int], codes: list[str], rng: np.random.Generator) -> None:
    """Write one row per image; a tenth of the labels of each earlier year is missing."""
    classes = {code: index for index, code in enumerate(sorted(set(codes)), start=1)}
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, code in zip(numbers, codes, strict=True):
            years = [(classes[code], code), (classes[code], code), (code,), (code,)]
            labels = [year if rng.random() > 0.1 else (MISSING,) * len(year) for year in years]
            writer.writerow([number, code, *(label for year in labels for label in year)])
