"""Where a defect goes, and the ragged shapes defects are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from wafer.datasets.synthetic.fields import Field, chance, smooth_field, uniform
from wafer.datasets.synthetic.scene import Scene, Window

__all__ = [
    "Spot",
    "blob",
    "canvas_point",
    "moved",
    "place",
    "place_on_metal",
    "ragged_distance",
    "spot_around",
]

CUT = 0.10
PLACES = 200
SOLID = 0.95


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in the image: centre in pixels, the window around it, and offsets from the centre.

    ``x`` is (1, columns) and ``y`` (rows, 1), so that they broadcast over the window.
    """

    centre: tuple[float, float]
    window: Window
    x: Field
    y: Field

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns) of the window."""
        return self.y.shape[0], self.x.shape[1]


def spot_around(scene: Scene, centre: tuple[float, float], reach: float) -> Spot:
    """Return the spot around a centre, its window cut by the frame; ``reach`` in pixels."""
    starts = [max(0, math.floor(c - reach)) for c in centre]
    stops = [max(2, min(scene.size, math.ceil(c + reach) + 1)) for c in centre]
    starts = [min(start, scene.size - 2) for start in starts]
    x, y = (
        np.arange(start, stop, dtype=np.float32) - c
        for start, stop, c in zip(starts, stops, centre, strict=True)
    )
    window = slice(starts[1], stops[1]), slice(starts[0], stops[0])
    return Spot(centre, window, x[None, :], y[:, None])


def moved(spot: Spot, shift: tuple[float, ...]) -> Spot:
    """Return the same window with another centre, ``shift`` pixels across and down."""
    return Spot(
        spot.centre, spot.window, spot.x - np.float32(shift[0]), spot.y - np.float32(shift[1])
    )


def place(
    rng: np.random.Generator, scene: Scene, reach: tuple[float, float]
) -> tuple[float, float]:
    """Draw a centre: all of the defect inside the frame, or in one case of ten cut by it.

    ``reach`` is how far the defect goes from its centre, across and down, pixels.
    """
    size = scene.size
    if scene.spec.center_sigma is not None:
        return _centred(rng, size, scene.spec.center_sigma), _centred(
            rng, size, scene.spec.center_sigma
        )
    room = [min(1.05 * r + 2, size / 2 - 1) for r in reach]
    centre = [uniform(rng, (r, size - 1 - r)) for r in room]
    if chance(rng, CUT):
        axis = int(rng.integers(2))
        outside = uniform(rng, (-0.3, 0.6)) * min(reach[axis], size / 4)
        centre[axis] = outside if chance(rng, 0.5) else size - 1 - outside
    return centre[0], centre[1]


def _centred(rng: np.random.Generator, size: int, sigma: float) -> float:
    """Draw a coordinate around the middle, normal and cut off at the frame."""
    end = ndtr((size / 2 - 2) / max(size * sigma, 1e-6))
    return size / 2 + size * sigma * float(ndtri(uniform(rng, (1 - end, end))))


def place_on_metal(
    rng: np.random.Generator, scene: Scene, side: float
) -> tuple[float, float] | None:
    """Draw centres until one lies on metal, or return None; see `place`."""
    for _ in range(PLACES):
        centre = place(rng, scene, (side / 2, side / 2))
        column, row = math.floor(centre[0]), math.floor(centre[1])
        inside = min(column, row) >= 0 and max(column, row) < scene.size
        if inside and scene.metal[row, column] > SOLID:
            return centre
    return None


def canvas_point(scene: Scene, centre: tuple[float, float]) -> tuple[int, int]:
    """Return the canvas pixel (column, row) that the image shows at a point."""
    column, row = (min(max(int(c), 0), scene.size - 1) for c in centre)
    last = scene.layout.metal.shape[0] - 1
    x, y = scene.warp.x[row, column], scene.warp.y[row, column]
    return min(max(round(float(x)), 0), last), min(max(round(float(y)), 0), last)


def blob(
    rng: np.random.Generator,
    spot: Spot,
    radii: tuple[float, float],
    angle: float,
    *,
    ragged: float,
    soft: float,
) -> Field:
    """Return a ragged ellipse, 0 to 1, that falls off over ``soft`` pixels."""
    distance = ragged_distance(rng, spot, radii, angle, ragged=ragged)
    edge = np.clip((1 - distance) * (min(radii) / max(soft, 0.8)) + 0.5, 0, 1)
    return np.asarray(edge * edge * (3 - 2 * edge), np.float32)


def ragged_distance(
    rng: np.random.Generator,
    spot: Spot,
    radii: tuple[float, float],
    angle: float,
    *,
    ragged: float,
) -> Field:
    """Return the distance from the centre in radii, 1 on the ragged border."""
    cosine, sine = math.cos(angle), math.sin(angle)
    along = (spot.x * cosine + spot.y * sine) / radii[0]
    across = (spot.y * cosine - spot.x * sine) / radii[1]
    border = smooth_field(rng, *spot.shape, scale=max(2.0, sum(radii) / 3))
    fine = smooth_field(rng, *spot.shape, scale=max(1.5, sum(radii) / 10))
    wobble = np.clip(border + 0.35 * fine, -1.8, 1.8)
    distance = np.sqrt(along * along + across * across)
    return np.asarray(distance * (1 + (0.6 * ragged) * wobble), np.float32)
