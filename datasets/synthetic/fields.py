"""Random numbers and random fields: one independent stream per stage of the picture."""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2  # noqa: TID253
import numpy as np
from numpy.typing import NDArray

from wafer.datasets.synthetic.recipes import Range

__all__ = [
    "Bytes",
    "Field",
    "blur",
    "chance",
    "generator",
    "log_uniform",
    "noise_field",
    "smooth_field",
    "uniform",
]

Field: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

# Cubic interpolation between independent nodes loses some variance; this gives it back.
INTERPOLATION_LOSS = 1.2


def generator(seed: int, stage: str) -> np.random.Generator:
    """Return the random stream of one stage; no stage can shift the numbers of another."""
    return np.random.Generator(np.random.SFC64([seed, *stage.encode()]))


def uniform(rng: np.random.Generator, limits: Range) -> float:
    """Draw evenly between two limits."""
    return float(rng.uniform(*limits))


def log_uniform(rng: np.random.Generator, limits: Range) -> float:
    """Draw so that every ratio between two positive limits is equally likely."""
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with the given probability."""
    return bool(rng.random() < probability)


def noise_field(rng: np.random.Generator, rows: int, columns: int) -> Field:
    """Return white noise of unit variance, shape (rows, columns)."""
    return rng.standard_normal((rows, columns), dtype=np.float32)


def smooth_field(rng: np.random.Generator, rows: int, columns: int, *, scale: float) -> Field:
    """Return noise of about unit variance that changes over ``scale`` pixels, (rows, columns)."""
    step = max(scale, 1.0)
    factor = max(1, min(8, int(step // 3)))
    grid = noise_field(rng, math.ceil(rows / step) + 4, math.ceil(columns / step) + 4)
    # The cubic goes to a coarse raster, which a fast linear pass spreads to full size.
    coarse = [max(2, round(length * step / factor)) for length in grid.shape]
    knots = cv2.resize(grid, (coarse[1], coarse[0]), interpolation=cv2.INTER_CUBIC)
    skip = round(2 * step / factor)
    need = [
        min(have - skip, math.ceil(n / factor) + 1)
        for have, n in zip(coarse, (rows, columns), strict=True)
    ]
    kept = knots[skip : skip + need[0], skip : skip + need[1]]
    large = cv2.resize(kept, (need[1] * factor, need[0] * factor), interpolation=cv2.INTER_LINEAR)
    return np.multiply(large[:rows, :columns], INTERPOLATION_LOSS, dtype=np.float32)


def blur(field: Field, sigma: float, *, ratio: float = 1.0) -> Field:
    """Return the field under a Gaussian of ``sigma`` pixels down and ``sigma * ratio`` across.

    Wide Gaussians are taken on a coarser grid, which is several times faster and differs by less
    than a hundredth of the range.
    """
    factor = int(min(sigma, sigma * ratio) // 4)
    if factor < 2 or min(field.shape) < 16 * factor:
        return _gaussian(field, sigma, ratio)
    rows, columns = field.shape
    small = cv2.resize(
        field, (-(-columns // factor), -(-rows // factor)), None, 0, 0, cv2.INTER_AREA
    )
    spread = _gaussian(np.asarray(small, np.float32), sigma / factor, ratio)
    large = cv2.resize(spread, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


def _gaussian(field: Field, sigma: float, ratio: float) -> Field:
    spread = cv2.GaussianBlur(
        field, (0, 0), sigma * ratio, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101
    )
    return np.asarray(spread, np.float32)
