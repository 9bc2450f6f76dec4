"""One generated radiograph: a frozen record from which its view and its pixels follow, bit for bit."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hf_radmae.sources.phantom.anatomy import PARTS, build, pose_for
from hf_radmae.sources.phantom.exposure import collimate, expose, mark_side, soft_tissue
from hf_radmae.sources.phantom.injuries import break_bone, choose_site, hardware
from hf_radmae.sources.phantom.positioning import aim
from hf_radmae.sources.phantom.streams import Purpose, stream
from hf_radmae.sources.phantom.tissue import Body
from hf_radmae.sources.phantom.xray import Camera, line_integrals

COARSE = 128  # pixels along the longer side of the grid on which broad soft tissue is drawn
DARKEST = 0.03  # least mean share of the largest value; archives drop darker images as not exposed


@dataclass(frozen=True)
class PhantomImage:
    """One image of one exam of one patient; everything about it, its pixels included, follows from these values.

    `patient` counts from 0 in the cohort, `exam` in the patient, `image` in the exam. `laterality` is "L", "R" or ""
    for unpaired parts. `follow_up`: the patient's exam before showed the same part. `height` and `width` are in pixels.
    """

    seed: int
    patient: int
    exam: int
    image: int
    part: str
    view: str
    laterality: str
    fracture: bool
    foreign_material: bool
    follow_up: bool
    height: int
    width: int

    @property
    def region(self) -> str:
        """The body region, one of `REGIONS` (or "whole_body")."""
        return PARTS[self.part].region

    @property
    def image_id(self) -> str:
        """A name that is unique in the cohort."""
        return f"{self.patient:06d}_{self.exam}_{self.image}"

    @cached_property
    def camera(self) -> Camera:
        """The view that was taken."""
        return aim(self.part, self.view, self.laterality, (self.height, self.width), self._stream(Purpose.CAMERA))

    @property
    def spacing(self) -> float:
        """Size of a pixel in mm; the patients are 0.55 to about 1.1 times as large as the adult who is drawn."""
        rng = stream(Purpose.SIZE, self.seed, self.patient)
        size = rng.uniform(0.55, 0.95) if rng.random() < 0.2 else rng.normal(1.0, 0.05)
        return float(size) / self.camera.scale

    @property
    def bits(self) -> int:
        """Bits that are stored: 12 or, in one of seven images, 15."""
        return 15 if self._stream(Purpose.BITS).random() < 1 / 7 else 12

    def body(self) -> Body:
        """Return what lies before the detector, as the patient holds it."""
        corners = np.array([[0, 0], [self.width, 0], [0, self.height], [self.width, self.height]]) - self.camera.offset
        levels = corners @ self.camera.rotation[:2, 1] / self.camera.scale  # heights y in the body, in mm
        pose = pose_for(self.part, self.view, self._stream(Purpose.POSE))
        return build(self.part, self.view, (levels.min(), levels.max()), pose, (self.seed, self.patient))

    def pixels(self) -> np.ndarray:
        """Draw the image: uint16 (height, width), at most 4095 or 32767, bone bright."""
        camera, body = self.camera, self.body()
        factor = max(1, round(max(camera.shape) / COARSE))
        soft = soft_tissue(body, camera.reduced(factor), self._stream(Purpose.MOTTLE))
        fine = line_integrals(body.fine, camera)
        fine *= np.float32(stream(Purpose.DENSITY, self.seed, self.patient).uniform(0.7, 1.2))
        measured = soft + fine[::factor, ::factor]  # before anything is broken, so that the rest stays as it is
        site = choose_site(body.sites, camera, self._stream(Purpose.SITE))
        if self.fracture and site is not None:
            break_bone(fine, site, camera, self._stream(Purpose.FRACTURE))
        if self.foreign_material:
            middle = np.array(PARTS[self.part].views[self.view][1])
            fine += line_integrals(hardware(self.region, site, middle, camera, self._stream(Purpose.HARDWARE)), camera)
        image = expose(soft, fine, factor, measured, self._stream(Purpose.EXPOSURE))
        self._frame(image, self._stream(Purpose.FRAME))
        image += max(0.0, DARKEST - float(image.mean()))
        np.minimum(image, 1, out=image)
        image *= np.float32(2**self.bits - 1)
        return image.astype(np.uint16)

    def _frame(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """Add the collimator's border, black or white, and the side marker."""
        kind = rng.random()
        if kind < 0.5:
            middle = np.array([self.width, self.height]) * rng.normal(0.5, 0.03, 2)
            half = 0.5 * np.array([self.width, self.height]) * rng.uniform(0.68, 1.0, 2)
            collimate(image, middle, half, rng.normal(0, 2.5), 0.0 if kind < 0.4 else 1.0)
        letter = self.laterality or str(rng.choice(["L", "R"]))
        if rng.random() < 0.6:
            mark_side(image, letter, rng)

    def _stream(self, purpose: Purpose) -> np.random.Generator:
        return stream(purpose, self.seed, self.patient, self.exam, self.image)
