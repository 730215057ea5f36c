"""From the picture to the file: lens, scan, light, gain, noise and the one encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2  # noqa: TID253
import numpy as np
from numpy.typing import NDArray

from wafer.datasets.synthetic.fields import (
    Bytes,
    Field,
    blur,
    chance,
    generator,
    log_uniform,
    noise_field,
    smooth_field,
    uniform,
)
from wafer.datasets.synthetic.plan import SampleSpec
from wafer.datasets.synthetic.recipes import RECIPES, REFERENCE_SIZE, TOOLS, Mode, Range
from wafer.datasets.synthetic.scene import Window

__all__ = ["Camera", "build_camera", "encode_jpeg", "expose", "padding", "project"]

LENS: dict[Mode, Range] = {
    "sem": (0.55, 1.5),
    "bright_field": (1.1, 1.9),
    "dark_field": (0.9, 1.8),
}
MEAN: dict[Mode, Range] = {
    "sem": (80.0, 150.0),
    "bright_field": (80.0, 150.0),
    "dark_field": (55.0, 95.0),
}
ASTIGMATISM: Range = (0.8, 1.25)
GAIN: Range = (0.8, 1.2)
QUALITY = (88, 97)
SPECKLE: Range = (0.03, 0.10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """One exposure, fixed before the defect is looked at.

    ``shift`` is how far each row is displaced, in pixels, or None; ``light`` is added after the
    lens; ``noise`` is the standard deviation of a pixel at grey 100 before the gain, ``row_noise``
    that of whole rows, ``speckle`` that in proportion to the light.
    """

    spec: SampleSpec
    lens: float
    ratio: float
    shift: NDArray[np.float32] | None
    light: Field
    gain: float
    mean: float
    noise: float
    row_noise: float
    speckle: float


def build_camera(spec: SampleSpec) -> Camera:
    """Draw the camera of an image: the tool from its wafer, the exposure from the image."""
    tool, rng = generator(spec.wafer_seed, "tool"), generator(spec.seed, "camera")
    model = TOOLS[spec.tool]
    unit = spec.size / REFERENCE_SIZE
    lens = model.lens * uniform(tool, LENS[spec.mode]) * uniform(rng, (0.9, 1.15))
    noise = model.noise * log_uniform(tool, RECIPES[spec.difficulty].noise)
    noise *= uniform(rng, (0.85, 1.15))
    sem = spec.mode == "sem"
    return Camera(
        spec=spec,
        lens=max(0.5, lens * unit),
        ratio=uniform(tool, ASTIGMATISM),
        shift=_scan(rng, spec.size, unit) if sem else None,
        light=_light(rng, spec.size, unit, charging=sem),
        gain=uniform(rng, GAIN),
        mean=uniform(rng, MEAN[spec.mode]),
        noise=noise,
        row_noise=noise * uniform(rng, (0.1, 0.45)) if chance(tool, model.rows) else 0.0,
        speckle=uniform(tool, SPECKLE) if spec.mode == "dark_field" else 0.0,
    )


def padding(camera: Camera) -> int:
    """Return how far lens and scan can carry a change, pixels."""
    drift = 0.0 if camera.shift is None else float(np.abs(camera.shift).max())
    return math.ceil(4 * camera.lens * max(1.0, camera.ratio) + drift) + 2


def project(camera: Camera, level: Field, window: Window = np.s_[:, :]) -> Field:
    """Return what lens and scan make of grey levels; linear, so differences go through it too."""
    seen = blur(level, camera.lens, ratio=camera.ratio)
    if camera.shift is None:
        return seen
    shift = camera.shift[window[0]]
    across = np.arange(level.shape[1], dtype=np.float32)[None, :] + shift[:, None]
    down = np.repeat(np.arange(level.shape[0], dtype=np.float32)[:, None], level.shape[1], axis=1)
    moved = cv2.remap(seen, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float32)


def expose(camera: Camera, ideal: Field, noise_grey: Field) -> Bytes:
    """Return the picture, uint8 (rows, columns), of noise-free grey levels after the gain.

    ``noise_grey`` is the noise-free image *without* the defect, which sets the noise: noise that
    followed the defect would outline it.
    """
    rng, size = generator(camera.spec.seed, "noise"), camera.spec.size
    white = noise_field(rng, size, size)
    rows = rng.standard_normal((size, 1), dtype=np.float32)
    light = np.maximum(noise_grey, 0) * (0.005 / camera.gain)
    spread = np.sqrt(0.5 + light) * camera.noise
    if camera.speckle:
        spread += light * (camera.speckle * 200)
    picture = ideal + (white * spread + rows * camera.row_noise) * camera.gain
    result: Bytes = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return result


def encode_jpeg(spec: SampleSpec, pixels: Bytes) -> bytes:
    """Return the bytes of the image file: JPEG of a random quality, no metadata."""
    quality = int(generator(spec.seed, "encoder").integers(QUALITY[0], QUALITY[1] + 1))
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def _scan(rng: np.random.Generator, size: int, unit: float) -> NDArray[np.float32]:
    drift = smooth_field(rng, size, 1, scale=size / 3)[:, 0] * uniform(rng, (0, 1.2))
    jitter = rng.standard_normal(size, dtype=np.float32) * uniform(rng, (0.1, 0.45))
    shift = np.clip(drift, -3, 3) + (jitter if chance(rng, 0.4) else 0)
    return np.asarray(shift * min(1.0, unit), np.float32)


def _light(rng: np.random.Generator, size: int, unit: float, *, charging: bool) -> Field:
    scale = uniform(rng, (150, 400)) * unit
    light = smooth_field(rng, size, size, scale=scale) * uniform(rng, (0, 3.5))
    if charging and chance(rng, 0.3):
        for _ in range(int(rng.integers(1, 5))):
            _add_streak(rng, light, unit)
    return light


def _add_streak(rng: np.random.Generator, light: Field, unit: float) -> None:
    """Add a band of charge that fades to the right of where the beam met it."""
    size = light.shape[0]
    start, top = int(rng.integers(size)), int(rng.integers(size))
    high = max(1, round(uniform(rng, (1, 12)) * unit))
    reach = uniform(rng, (40, 260)) * unit
    fade = np.exp(-np.arange(size - start, dtype=np.float32) / reach)
    light[top : top + high, start:] += fade * uniform(rng, (-6, 6))
