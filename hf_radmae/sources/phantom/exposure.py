"""From line integrals to stored pixels: scatter, quantum noise, tone, collimation, side marker."""

import numpy as np
from PIL import Image

from hf_radmae.sources.phantom.tissue import Body
from hf_radmae.sources.phantom.xray import Camera, envelope, line_integrals

GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def soft_tissue(body: Body, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Return the line integrals of a body's soft tissue with a smooth mottle, float32, in the shape of `camera`."""
    integrals = envelope(body.skin, camera) + line_integrals(body.soft, camera)
    integrals *= 1 + enlarge(rng.standard_normal((7, 7), np.float32) * np.float32(0.03), integrals.shape)
    return integrals


def enlarge(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a small float32 image stretched to `shape`, bilinear, edges repeated."""
    down, right = (_weights(small, large) for small, large in zip(image.shape, shape, strict=True))
    return (down @ image) @ right.T


def _weights(small: int, large: int) -> np.ndarray:
    """Return the float32 (large, small) matrix that interpolates `small` samples linearly at `large` places."""
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(small)), 0).astype(np.float32)


def magnify(image: np.ndarray, factor: int, shape: tuple[int, int]) -> np.ndarray:
    """Return a new image with `factor` times the pixels per side, bicubic, cropped to `shape`."""
    if factor == 1:
        return image.copy()
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))[: shape[0], : shape[1]]


def expose(
    soft: np.ndarray, fine: np.ndarray, factor: int, measured: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the developed image, float32 (H, W) in 0..1, dense parts bright.

    `fine` (H, W) and `soft`, on a grid `factor` times coarser, add up to the line integrals P. `measured` is P on the
    coarse grid as the exposure control saw it. The detector sees I = exp(-P) + scatter; with n photons per pixel the
    noise of log I is 1 / sqrt(n I), the Gaussian limit of Poisson counts. Slow variations of log I are reduced, as
    detectors' software does, and a tone curve with random ends and bend maps the rest to 0..1.
    """
    beam = np.exp(-measured)
    tiny = (max(2, beam.shape[1] // 12), max(2, beam.shape[0] // 12))
    scatter = _shrink(beam, tiny) * np.float32(rng.uniform(0.02, 0.25))
    density = -np.log(beam + enlarge(scatter, beam.shape))
    broad = _shrink(density, tiny) * np.float32(rng.uniform(0.0, 0.6))
    flattened = density - enlarge(broad, density.shape)
    low, high = np.percentile(flattened[::2, ::2], [rng.uniform(0, 4), rng.uniform(99, 99.9)])
    span = (high - low) * rng.uniform(0.95, 1.5)
    grain = span * 0.004 * np.exp(rng.normal(0, 0.6))  # the noise behind average tissue
    photons = np.exp(np.percentile(density[::2, ::2], 60)) / grain**2

    image = magnify(soft, factor, fine.shape)
    image += fine
    np.exp(np.negative(image, out=image), out=image)
    image += enlarge(scatter, fine.shape)
    noise = rng.standard_normal(fine.shape, np.float32)
    noise /= np.sqrt(np.maximum(image * np.float32(photons), 100))
    np.log(image, out=image)
    np.subtract(noise, image, out=image)
    image -= enlarge(broad, fine.shape)
    image -= np.float32(low)
    image *= np.float32(1 / span)
    np.clip(image, 0, 1, out=image)
    bend, dark = np.float32(rng.uniform(-0.4, 0.8)), np.float32(rng.uniform(0.0, 0.12))
    image *= (1 - dark) * (1 + bend * (1 - image))
    image += dark
    return image


def _shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the means of `size` (columns, rows) fields of an image."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def collimate(image: np.ndarray, middle, half, degrees: float, border: float) -> None:
    """Set everything outside a turned rectangle, `middle` and `half` (right, down) in pixels, to `border`, in place."""
    turn = np.radians(degrees)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x = np.arange(image.shape[1], dtype=np.float32)[None, :] - np.float32(middle[0] - 0.5)
    y = np.arange(image.shape[0], dtype=np.float32)[:, None] - np.float32(middle[1] - 0.5)
    outside = np.abs(cosine * x + sine * y) > half[0]
    outside |= np.abs(cosine * y - sine * x) > half[1]
    image[outside] = border


def mark_side(image: np.ndarray, letter: str, rng: np.random.Generator) -> None:
    """Write a lead letter, "L" or "R", near one of the upper corners, in place; images under 48 pixels get none."""
    size = round(max(image.shape) * rng.uniform(0.03, 0.06) / 7)
    glyph = np.array([[int(dot) for dot in row] for row in GLYPHS[letter]], bool)
    glyph = np.rot90(glyph, rng.choice([0, 0, 0, 1, 3])).repeat(max(size, 1), 0).repeat(max(size, 1), 1)
    room = np.array(image.shape) - glyph.shape
    if min(image.shape) < 48:
        return
    place = (room * [rng.uniform(0.03, 0.25), rng.choice([rng.uniform(0.03, 0.15), rng.uniform(0.85, 0.97)])]).astype(
        int
    )
    window = image[place[0] : place[0] + glyph.shape[0], place[1] : place[1] + glyph.shape[1]]
    window[glyph] = np.float32(rng.uniform(0.85, 1.0))
