"""The coordinate map every image goes through: small for all, large for a deviating pattern."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2  # noqa: TID253
import numpy as np

from wafer.datasets.synthetic.fields import Bytes, Field, chance, log_uniform, smooth_field, uniform
from wafer.datasets.synthetic.recipes import Range, Recipe

__all__ = ["CANVAS", "Geometry", "Warp", "deviating", "nuisance", "roughened"]

CANVAS = 1.6
"""Side of the canvas a pattern is drawn on, in sides of the image: no corner runs out of it."""

ROUGHNESS: Range = (0.3, 1.8)
ROUGHNESS_SCALE: Range = (6.0, 30.0)
SWAY: Range = (0.0, 1.5)
SWAY_SCALE = 160.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """A vector map of the pattern; angles in radians, the rest as shares of half the image."""

    rotation: float
    scale: float
    keystone: tuple[float, float]
    bend: tuple[float, float]

    def __add__(self, other: Geometry) -> Geometry:
        return Geometry(
            rotation=self.rotation + other.rotation,
            scale=self.scale * other.scale,
            keystone=_sum(self.keystone, other.keystone),
            bend=_sum(self.bend, other.bend),
        )


@dataclass(frozen=True, slots=True)
class Warp:
    """Where on the canvas each pixel of the image looks: x and y, float32 (rows, columns)."""

    x: Field
    y: Field

    def sample(self, canvas: Bytes, window: tuple[slice, slice] = np.s_[:, :]) -> Field:
        """Return the canvas seen through a window of the image, 0 to 1."""
        seen = cv2.remap(
            canvas,
            np.ascontiguousarray(self.x[window]),
            np.ascontiguousarray(self.y[window]),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return seen * (1 / 255)


def nuisance(rng: np.random.Generator) -> Geometry:
    """Draw the small misalignment that every image has."""
    return Geometry(
        rotation=math.radians(float(np.clip(rng.normal(0, 0.3), -0.8, 0.8))),
        scale=uniform(rng, (0.99, 1.01)),
        keystone=(uniform(rng, (-0.008, 0.008)), uniform(rng, (-0.008, 0.008))),
        bend=(uniform(rng, (-0.004, 0.004)), uniform(rng, (-0.004, 0.004))),
    )


def deviating(rng: np.random.Generator, recipe: Recipe) -> Geometry:
    """Draw the large misalignment of a deviating pattern: one or two of turn, keystone, bend."""
    chosen = rng.permutation(3)[: 2 if chance(rng, 0.5) else 1]
    return Geometry(
        rotation=math.radians(_signed(rng, recipe.rotation)) if 0 in chosen else 0.0,
        scale=math.exp(_signed(rng, (0.03, 0.09))) if chance(rng, 0.5) else 1.0,
        keystone=_both_axes(rng, recipe.keystone) if 1 in chosen else (0.0, 0.0),
        bend=_both_axes(rng, recipe.bend) if 2 in chosen else (0.0, 0.0),
    )


def roughened(rng: np.random.Generator, geometry: Geometry, *, size: int, unit: float) -> Warp:
    """Return the map of an image of ``size`` pixels, with line-edge roughness and slow sway.

    ``unit`` is the number of pixels per pixel of a 680 px image. The roughness has the same law
    in every image, so that interpolation cannot give a class away.
    """
    x, y = _analytic(geometry, size)
    rough, scale = log_uniform(rng, ROUGHNESS) * unit, log_uniform(rng, ROUGHNESS_SCALE) * unit
    sway = uniform(rng, SWAY) * unit
    for axis in (x, y):
        axis += smooth_field(rng, size, size, scale=scale) * rough
        axis += smooth_field(rng, size, size, scale=SWAY_SCALE * unit) * sway
    return Warp(x, y)


def _analytic(geometry: Geometry, size: int) -> tuple[Field, Field]:
    ramp = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    u, v = ramp[None, :], ramp[:, None]
    cosine = np.float32(geometry.scale * math.cos(geometry.rotation))
    sine = np.float32(geometry.scale * math.sin(geometry.rotation))
    turned_x, turned_y = cosine * u - sine * v, sine * u + cosine * v
    x = turned_x * (1 + np.float32(geometry.keystone[0]) * turned_y)
    y = turned_y * (1 + np.float32(geometry.keystone[1]) * turned_x)
    x += np.float32(geometry.bend[0]) * turned_y * turned_y
    y += np.float32(geometry.bend[1]) * turned_x * turned_x
    half, middle = (size / 2), np.float32(round(size * CANVAS) / 2 - 0.5)
    return x * half + middle, y * half + middle


def _signed(rng: np.random.Generator, limits: Range) -> float:
    return uniform(rng, limits) * (1 if chance(rng, 0.5) else -1)


def _both_axes(rng: np.random.Generator, limits: Range) -> tuple[float, float]:
    """Draw an amount for each axis: along the lines alone nobody would see it."""
    return _signed(rng, limits), _signed(rng, limits)


def _sum(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]
