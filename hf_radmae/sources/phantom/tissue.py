"""What bodies are made of: attenuation against soft tissue, bones built from tubes, and the parts of a body."""

from dataclasses import dataclass, field

import numpy as np

from hf_radmae.sources.phantom.xray import Primitive, Tube, ball, moved, tube

# Linear attenuation at a diagnostic beam's mean energy (about 50 keV), in 1/mm. All but tissue and metal are relative
# to the soft tissue that they displace.
TISSUE, FAT, LUNG, AIR = 0.021, -0.0025, -0.0155, -0.0205
CORTEX, SPONGY, METAL = 0.062, 0.014, 0.6


@dataclass(frozen=True, slots=True)
class Site:
    """Where a bone can break or carry metal: a `point` on its axis, the `axis` (unit vector), its `radius` in mm."""

    point: np.ndarray
    axis: np.ndarray
    radius: float


@dataclass(slots=True)
class Body:
    """Primitives in mm: `skin` encloses muscle and fat and joins into one solid, `soft` is broad and smooth, `fine` has
    edges (bones, vessels, gas). `sites` are bones that can break."""

    skin: list[Tube] = field(default_factory=list)
    soft: list[Primitive] = field(default_factory=list)
    fine: list[Primitive] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)

    def add(self, *others: "Body") -> None:
        """Take in the parts of other bodies."""
        for other in others:
            self.skin += other.skin
            self.soft += other.soft
            self.fine += other.fine
            self.sites += other.sites

    def moved(self, turn: np.ndarray, about, shift=(0.0, 0.0, 0.0)) -> "Body":
        """Return this body turned by a (3, 3) matrix about a point, then shifted (both in mm)."""
        offset = np.asarray(about, float) - turn @ np.asarray(about, float) + np.asarray(shift, float)
        sites = [Site(turn @ site.point + offset, turn @ site.axis, site.radius) for site in self.sites]
        skin, soft, fine = (moved(part, turn, about, shift) for part in (self.skin, self.soft, self.fine))
        return Body(skin, soft, fine, sites)


def bone(points, radii, core=0.72, depth: float = 1.0, flat: bool = False) -> Tube:
    """Return a tube of cortical bone around spongy bone or marrow; `core` is the inner share of the radius."""
    return tube(points, radii, CORTEX, core, SPONGY, depth, flat)


def long_bone(start, end, heads: tuple[float, float], shaft: float, bow=(0.0, 0.0, 0.0), flat: bool = False) -> Body:
    """Return a long bone in mm: wide spongy `heads` at both ends, a `shaft` of thick cortex bent by `bow`."""
    start, end, bow = np.asarray(start, float), np.asarray(end, float), np.asarray(bow, float)
    places = np.array([0.0, 0.05, 0.12, 0.22, 0.5, 0.78, 0.88, 0.95, 1.0])
    points = start + places[:, None] * (end - start) + np.sin(np.pi * places)[:, None] * bow
    share = np.array([1.0, 0.95, 0.5, 0.12, 0.0, 0.12, 0.5, 0.95, 1.0])  # of the head in the radius
    radii = share * np.where(places < 0.5, *heads) + (1 - share) * shaft
    core = np.array([0.95, 0.95, 0.86, 0.68, 0.55, 0.68, 0.86, 0.95, 0.95])
    axis = (end - start) / np.linalg.norm(end - start)
    sites = [Site(points[index], axis, radii[index]) for index in (2, 4, 4, 6)]
    return Body(fine=[bone(points, radii, core, flat=flat)], sites=sites)


def lump(centre, semi_axes, shell: float = 0.85, turn: np.ndarray | None = None) -> list[Primitive]:
    """Return a short bone: an ellipsoid of spongy bone with `semi_axes` in mm under a thin cortex."""
    inner = np.asarray(semi_axes, float) * shell
    return [ball(centre, semi_axes, CORTEX * 0.8, turn), ball(centre, inner, SPONGY - CORTEX * 0.8, turn)]


def flesh(points, radii, depth: float = 1.0) -> Tube:
    """Return soft tissue along `points` with outer `radii` in mm: muscle under a layer of fat."""
    return tube(points, radii, TISSUE + FAT, 0.84, TISSUE, depth)


def knob(centre, semi_axes, turn: np.ndarray | None = None) -> list[Primitive]:
    """Return the swelling of a bone that is already there: faint, with a visible rim."""
    inner = np.asarray(semi_axes, float) * 0.93
    return [ball(centre, semi_axes, CORTEX * 0.35, turn), ball(centre, inner, SPONGY * 0.35 - CORTEX * 0.35, turn)]
