"""Who is examined: patients with their exams and images, drawn from a seed, without touching a pixel."""

from collections.abc import Mapping
from math import erf, sqrt

import numpy as np

from hf_radmae.sources.phantom.anatomy import PARTS, REGIONS
from hf_radmae.sources.phantom.radiograph import PhantomImage
from hf_radmae.sources.phantom.streams import Purpose, stream

# Sizes of a hospital's archive of 640,000 radiographs: quantiles 0, 25, 50, 75, 100 % in pixels.
HEIGHTS = (246, 1543, 2002, 2438, 3072)
WIDTHS = (219, 1117, 1417, 1852, 3071)
CORRELATION = 0.85  # of height and width
SMALLEST = 16  # pixels; no side gets shorter, whatever the scale

# Uneven, but far less so than in a hospital, so that small sets hold every region.
FREQUENCIES = {
    "cranium": 0.11,
    "spine": 0.14,
    "upper_extremity": 0.17,
    "chest": 0.19,
    "breast": 0.07,
    "abdomen": 0.09,
    "pelvis": 0.08,
    "lower_extremity": 0.15,
}
IMAGES_PER_PATIENT = (0.32, 0.28, 0.16, 0.12, 0.07, 0.05)  # shares of patients with one to six images
UNBREAKABLE = ("breast", "abdomen")


def generate(
    num_images: int, *, seed: int = 0, scale: float = 1.0, frequencies: Mapping[str, float] = FREQUENCIES
) -> list[PhantomImage]:
    """Draw a cohort of generated radiographs; `PhantomImage.pixels()` then draws each image.

    Args:
        num_images: how many; fewer are the beginning of more.
        seed: everything follows from it and from the other arguments.
        scale: factor on the archive's sizes; the median is 2002 x 1417 pixels at 1.
        frequencies: relative number of exams per body region.

    Raises:
        ValueError: on no images, a scale that is not positive, or an unknown region.
    """
    if num_images < 1 or not scale > 0:
        raise ValueError(f"num_images={num_images} and scale={scale}: both must be positive")
    if unknown := sorted(set(frequencies) - set(REGIONS)):
        raise ValueError(f"frequencies name the unknown regions {unknown}; known are {list(REGIONS)}")
    radiographs: list[PhantomImage] = []
    patient = 0
    while len(radiographs) < num_images:
        radiographs += _examine(seed, patient, scale, frequencies)
        patient += 1
    return radiographs[:num_images]


def split_of(patient: int) -> str:
    """Return a patient's split: of each twenty patients fourteen train, three validate and three test."""
    place = patient % 20
    return "validation" if place in (2, 9, 16) else "test" if place in (5, 12, 19) else "train"


def _examine(seed: int, patient: int, scale: float, frequencies: Mapping[str, float]) -> list[PhantomImage]:
    """Return the images of one patient; half of the later exams follow up the one before."""
    rng = stream(Purpose.COHORT, seed, patient)
    regions, shares = list(frequencies), np.array(list(frequencies.values()), float)
    left = 1 + int(rng.choice(6, p=IMAGES_PER_PATIENT))
    images: list[PhantomImage] = []
    exam, part, side, fracture = 0, "", "", False
    while left:
        follow_up = exam > 0 and rng.random() < 0.5
        if not follow_up:
            region = regions[rng.choice(len(regions), p=shares / shares.sum())]
            parts = {name: entry.share for name, entry in PARTS.items() if entry.region == region}
            part = str(rng.choice(list(parts), p=list(parts.values())))
            side = str(rng.choice(["L", "R"])) if PARTS[part].paired else ""
            fracture = region not in UNBREAKABLE and rng.random() < 0.22
        elif fracture:
            fracture = bool(rng.random() < 0.8)
        metal = bool(rng.random() < (0.1 + 0.25 * fracture + 0.25 * (fracture and follow_up)))
        count = min(left, int(rng.integers(1, 4)))
        for image, view in enumerate(_views(part, count, rng)):
            height, width = _size(scale, rng)
            images.append(
                PhantomImage(
                    seed, patient, exam, image, part, view, side, bool(fracture), metal, follow_up, height, width
                )
            )
        left -= count
        exam += 1
    return images


def _views(part: str, count: int, rng: np.random.Generator) -> list[str]:
    """Return the views of one exam: different ones first, then repeats."""
    views = PARTS[part].views
    shares = np.array([view[0] for view in views.values()])
    order = [list(views)[index] for index in rng.choice(len(views), len(views), replace=False, p=shares)]
    return [order[index % len(order)] for index in range(count)]


def _size(scale: float, rng: np.random.Generator) -> tuple[int, int]:
    """Return height and width in pixels: the archive's quantiles, joined by a normal copula."""
    first, second = rng.standard_normal(2)
    second = CORRELATION * first + sqrt(1 - CORRELATION**2) * second
    return _side(first, HEIGHTS, scale), _side(second, WIDTHS, scale)


def _side(normal: float, quantiles: tuple[int, ...], scale: float) -> int:
    """Return the length in pixels that stands among the quantiles where a normal number stands in its distribution."""
    share = (1 + erf(normal / sqrt(2))) / 2
    return max(SMALLEST, round(scale * float(np.interp(share, np.linspace(0, 1, len(quantiles)), quantiles))))
