"""The defects: each gives the change it makes to the grey levels before the optics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2  # noqa: TID253
import numpy as np

from wafer.datasets.synthetic.edits import edit_pattern, middle_of, runs_through
from wafer.datasets.synthetic.fields import (
    Bytes,
    Field,
    blur,
    chance,
    log_uniform,
    smooth_field,
    uniform,
)
from wafer.datasets.synthetic.scene import Scene, Window, radiance
from wafer.datasets.synthetic.shapes import (
    Spot,
    blob,
    canvas_point,
    moved,
    place,
    place_on_metal,
    ragged_distance,
    spot_around,
)

__all__ = ["DRAWN_CLASSES", "Patch", "draw_defect"]

TAILS = 0.15
LARGEST_EDIT = 1.6
PATCHES = 0.25
"""Share of the missing copper that is a patch across lines or pads and not a pit inside one."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The change of grey levels inside a window of the image; zero outside it."""

    window: Window
    delta: Field


def draw_defect(
    rng: np.random.Generator, image_class: str, scene: Scene, level: Field, *, boost: float = 1.0
) -> Patch | None:
    """Draw one defect of a class, or return None where the place does not suit it.

    ``level`` is the radiance so far, (rows, columns); ``boost`` multiplies the contrast of
    residues, particles and scratches.
    """
    side = log_uniform(rng, scene.recipe.sides[image_class]) * scene.unit
    if chance(rng, TAILS):
        side *= log_uniform(rng, (0.5, 2.0))
    return _DRAWERS[image_class](rng, scene, level, max(3.0, side), boost)


def _beol(
    rng: np.random.Generator, scene: Scene, level: Field, side: float, boost: float
) -> Patch | None:
    """Edit the drawn pattern and look at it again: open, bridge, short end, via lost or gained."""
    centre = place(rng, scene, (side / 2, side / 2))
    point = canvas_point(scene, centre)
    metal, via = scene.layout.metal.copy(), scene.layout.via.copy()
    if not edit_pattern(rng, metal, via, point, side):
        return None
    reach = _edit_reach(scene, metal, via, point)
    if not 0 < reach < LARGEST_EDIT * side:
        return None
    spot = spot_around(scene, centre, 1.1 * reach + 3 * scene.process.shadow_length + 6)
    old = scene.metal[spot.window], scene.via[spot.window]
    new = scene.warp.sample(metal, spot.window), scene.warp.sample(via, spot.window)
    before, after = (radiance(scene, *masks, spot.window) for masks in (old, new))
    return Patch(spot.window, after - before)


def _edit_reach(scene: Scene, metal: Bytes, via: Bytes, point: tuple[int, int]) -> int:
    """Return how far from a point of the canvas the drawing was changed, pixels."""
    changed = (metal != scene.layout.metal) | (via != scene.layout.via)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    away = (np.abs(columns - point[0]), np.abs(rows - point[1]))
    return max(int(part.max(initial=0)) for part in away)


def _missing_copper(
    rng: np.random.Generator, scene: Scene, level: Field, side: float, boost: float
) -> Patch | None:
    """Take copper out of a line or pad, or of all that lies in a patch, and look again."""
    centre = place_on_metal(rng, scene, side)
    if centre is None:
        return None
    column, row = math.floor(centre[0]), math.floor(centre[1])
    mask = (scene.metal * 255).astype(np.uint8)
    width, length, horizontal = runs_through(mask, (column, row), solid=True)
    across = min(side / 2, width / 2 * uniform(rng, (0.75, 1.05)))
    along = min(length / 2, side * side / (4 * across), 5 * across)
    middle = middle_of(mask, (column, row), horizontal)[1]
    off = middle + uniform(rng, (-0.1, 0.1)) * width
    heart = (centre[0], off) if horizontal else (off, centre[1])
    radii = (along, across) if horizontal else (across, along)
    if chance(rng, PATCHES):
        heart, radii = centre, (side / 2, side / 2 * uniform(rng, (0.6, 1.0)))
    spot = spot_around(scene, heart, 1.6 * max(radii) + 3 * scene.process.shadow_length + 4)
    hole = blob(rng, spot, radii, 0.0, ragged=0.3, soft=uniform(rng, (1.5, 3.5)) * scene.unit)
    return _emptied(rng, scene, spot, hole)


def _emptied(rng: np.random.Generator, scene: Scene, spot: Spot, hole: Field) -> Patch:
    alpha = uniform(rng, (0.6, 1.0))
    metal, via = scene.metal[spot.window], scene.via[spot.window]
    left = 1 - alpha * hole
    delta = radiance(scene, metal * left, via * left, spot.window)
    delta -= radiance(scene, metal, via, spot.window)
    delta -= uniform(rng, scene.recipe.depth) * alpha * hole * metal
    return Patch(spot.window, delta)


def _small_residue(
    rng: np.random.Generator, scene: Scene, level: Field, side: float, boost: float
) -> Patch:
    """Lay a ragged flake of one to three lobes over the pattern."""
    centre = place(rng, scene, (side / 2, side / 2))
    spot, soft = spot_around(scene, centre, 1.3 * side), uniform(rng, (1.4, 4.4)) * scene.unit
    shape = np.zeros(spot.shape, np.float32)
    lobes = int(rng.integers(1, 4))
    for _ in range(lobes):
        reach = side / 2 if lobes == 1 else side * uniform(rng, (0.25, 0.4))
        shift = (0.0, 0.0) if lobes == 1 else tuple(rng.uniform(-0.3, 0.3, 2) * side)
        radii = reach, reach * uniform(rng, (0.6, 1.0))
        lobe = blob(rng, moved(spot, shift), radii, rng.uniform(0, math.pi), ragged=0.45, soft=soft)
        np.maximum(shape, lobe, out=shape)
    seen = level[spot.window]
    grain = smooth_field(rng, *spot.shape, scale=max(1.5, side / 12))
    strength = _contrast(rng, scene, boost, bright=0.70)
    hide = uniform(rng, (0.2, 0.75))
    body = strength * (1 + 0.22 * grain) + hide * (seen.mean() - seen)
    return Patch(spot.window, (shape * body).astype(np.float32))


def _c_residue(
    rng: np.random.Generator, scene: Scene, level: Field, side: float, boost: float
) -> Patch:
    """Darken the pattern softly in proportion to its light, so that it shows through."""
    centre = place(rng, scene, (side / 2, side / 2))
    spot = spot_around(scene, centre, 1.2 * side)
    radii = side / 2, side / 2 * uniform(rng, (0.65, 1.0))
    soft = side * uniform(rng, (0.16, 0.36))
    shape = blob(rng, spot, radii, rng.uniform(0, math.pi), ragged=0.18, soft=soft)
    shape = blur(shape, soft / 4)
    share = min(0.8, uniform(rng, scene.recipe.stain) * boost)
    if chance(rng, 0.2):  # dried from the outside: darkest along the border
        shape = shape * (1 - 0.75 * blur(shape * shape, soft / 2))
        share = min(0.8, share * 1.5)
    return Patch(spot.window, -share * shape * level[spot.window])


def _particle(
    rng: np.random.Generator, scene: Scene, level: Field, side: float, boost: float
) -> Patch:
    """Set a dome with light from one side, texture, a cast shadow and sometimes charging."""
    centre = place(rng, scene, (side / 2, side / 2))
    spot = spot_around(scene, centre, 1.5 * side)
    radii = side / 2, side / 2 * uniform(rng, (0.7, 1.0))
    angle = rng.uniform(0, math.pi)
    distance = ragged_distance(rng, spot, radii, angle, ragged=uniform(rng, (0.02, 0.2)))
    shape = np.clip((1 - distance) * (min(radii) / 1.6) + 0.5, 0, 1)
    height = np.sqrt(np.clip(1 - distance * distance, 0, 1))
    strength = _contrast(rng, scene, boost, bright=0.65)
    toward = (spot.x * scene.light[0] + spot.y * scene.light[1]) / (side / 2)
    lit = np.clip(0.55 * height + 0.75 * toward, -0.6, 1)
    bumps = smooth_field(rng, *spot.shape, scale=max(1.5, side / uniform(rng, (5, 14))))
    body = strength * (0.3 + 0.1 * bumps) + 0.8 * abs(strength) * lit
    seen = level[spot.window]
    delta = shape * (body + 0.9 * (seen.mean() - seen))
    if scene.spec.mode == "sem":
        delta += shape * (1 - height) ** 2 * (0.4 * abs(strength))
    delta += _cast(rng, scene, spot, shape, side, strength)
    return Patch(spot.window, delta.astype(np.float32))


def _cast(
    rng: np.random.Generator,
    scene: Scene,
    spot: Spot,
    shape: Field,
    side: float,
    strength: float,
) -> Field:
    """Return the shadow beside a particle, and in a SEM sometimes its halo of charge."""
    reach = side * uniform(rng, (0.06, 0.16))
    away = -scene.light[0] * reach, -scene.light[1] * reach
    shadow = blur(_shifted(shape, away), max(0.8, side / 18))
    result = shadow * (1 - shape) * (-0.45 * abs(strength))
    if scene.spec.mode == "sem" and chance(rng, 0.25):
        halo = blur(shape, side / 10, ratio=2.5) * (1 - shape)
        result = result + halo * (strength * uniform(rng, (-0.35, 0.35)))
    return result


def _scratch(
    rng: np.random.Generator, scene: Scene, level: Field, side: float, boost: float
) -> Patch:
    """Draw one to three broken, slightly bent strokes that run the same way."""
    angle = rng.uniform(0, math.pi)
    reach = abs(math.cos(angle)) * side / 2, abs(math.sin(angle)) * side / 2
    centre = place(rng, scene, reach)
    spot = spot_around(scene, centre, side)
    width = log_uniform(rng, scene.recipe.scratch_width) * scene.unit
    bend = uniform(rng, (-0.12, 0.12)) * side
    strength, mask = _contrast(rng, scene, boost, bright=0.5), np.zeros(spot.shape, np.float32)
    for number in range(int(rng.choice([1, 1, 2, 3]))):
        offset = number * uniform(rng, (2.0, 5.0)) * width
        line = _stroke_line(rng, spot, angle, side * (1 - 0.25 * number), bend, offset, width)
        np.maximum(mask, line, out=mask)
    delta = 1.6 * strength * mask  # the lens takes about this much off a thin line
    if chance(rng, 0.4):  # material pushed up beside the groove
        lift = _shifted(mask, (width, width))
        delta -= (0.5 * strength) * np.clip(lift - mask, 0, 1)
    return Patch(spot.window, delta.astype(np.float32))


def _stroke_line(
    rng: np.random.Generator,
    spot: Spot,
    angle: float,
    length: float,
    bend: float,
    offset: float,
    width: float,
) -> Field:
    """Return one broken stroke, 0 to 1, in the window of ``spot``."""
    t = np.linspace(-0.5, 0.5, 60)
    sideways = bend * (4 * t * t - 0.5) + offset
    x = t * length * math.cos(angle) - sideways * math.sin(angle) - spot.x[0, 0]
    y = t * length * math.sin(angle) + sideways * math.cos(angle) - spot.y[0, 0]
    points = np.rint(np.stack([x, y], 1) * 16).astype(np.int32)
    canvas = np.zeros(spot.shape, np.uint8)
    start = 0
    while start < 57:
        stop = min(60, start + int(rng.integers(8, 34)))
        shade = int(rng.integers(150, 256))
        thickness = max(1, round(width * uniform(rng, (0.7, 1.2))))
        cv2.polylines(canvas, [points[start:stop]], False, shade, thickness, cv2.LINE_AA, 4)
        start = stop + int(rng.integers(1, 5))
    drawn = blur(canvas.astype(np.float32), max(0.5, 0.25 * width))
    return np.multiply(drawn, min(1.0, width) / 255, dtype=np.float32)


def _shifted(field: Field, step: tuple[float, float]) -> Field:
    """Return the field moved across and down, zero where nothing moved in."""
    move = np.array([[1, 0, step[0]], [0, 1, step[1]]], np.float32)
    return np.asarray(cv2.warpAffine(field, move, field.shape[::-1]), np.float32)


def _contrast(rng: np.random.Generator, scene: Scene, boost: float, *, bright: float) -> float:
    """Draw a contrast from the one log-law; in dark field whatever lies on top scatters."""
    amount = log_uniform(rng, scene.recipe.contrast) * boost
    positive = chance(rng, bright) or scene.spec.mode == "dark_field"
    return amount if positive else -amount


_Drawer = Callable[[np.random.Generator, Scene, Field, float, float], Patch | None]

_DRAWERS: Mapping[str, _Drawer] = {
    "BEOL": _beol,
    "small_residue": _small_residue,
    "C_residue": _c_residue,
    "small_missing_cu": _missing_copper,
    "particle": _particle,
    "scratch": _scratch,
}
DRAWN_CLASSES = tuple(_DRAWERS)
