"""Edits of the drawn pattern: open, bridge, short end, a pad or via lost or gained."""

from __future__ import annotations

import cv2  # noqa: TID253
import numpy as np

from wafer.datasets.synthetic.fields import Bytes, chance, uniform

__all__ = ["edit_pattern", "middle_of", "runs_through"]


def edit_pattern(
    rng: np.random.Generator, metal: Bytes, via: Bytes, point: tuple[int, int], side: float
) -> bool:
    """Edit the masks, uint8 (side, side), in place around a point (column, row).

    What the point lies on decides: metal is cut or, where it is a pad, lost; a gap is bridged or,
    where it is wide, gets a pad or wire. ``side`` is the intended size in pixels. Returns False
    where nothing fits.
    """
    column, row = point
    if metal[row, column] > 127:
        across, along, level_run = runs_through(metal, point, solid=True)
        if along < 1.8 * across or (via[row, column] > 127 and chance(rng, 0.5)):
            return _lose(metal, via, point, side)
        return _cut(rng, metal, via, point, side, across, level_run)
    across, _, level_run = runs_through(metal, point, solid=False)
    if across > 1.6 * side:
        return _gain(rng, metal, via, point, side)
    return _bridge(rng, metal, point, side, across, level_run)


def _cut(
    rng: np.random.Generator,
    metal: Bytes,
    via: Bytes,
    point: tuple[int, int],
    side: float,
    width: float,
    horizontal: bool,
) -> bool:
    """Open a line, or pull its end back: the open simply runs over the end."""
    length = float(np.clip(side * side / width, 0.5 * width, 1.5 * side))
    middle, half = middle_of(metal, point, horizontal), width / 2 + 2
    ends = [middle[0] - length / 2, middle[0] + length / 2]
    _stroke(metal, ends, middle[1], half, horizontal, 0)
    _stroke(via, ends, middle[1], half, horizontal, 0)
    for end, sign in zip(ends, (-1, 1), strict=True):
        _round_end(metal, end, sign, middle[1], width / 2, horizontal, rng)
    return True


def _round_end(
    metal: Bytes,
    end: float,
    sign: int,
    centre: float,
    half: float,
    horizontal: bool,
    rng: np.random.Generator,
) -> None:
    """Give the stump of a cut line a rounded end, if there is a stump."""
    beyond = round(end + 2 * sign), round(centre)
    column, row = beyond if horizontal else beyond[::-1]
    inside = 0 <= row < metal.shape[0] and 0 <= column < metal.shape[1]
    if not inside or metal[row, column] < 128:
        return
    axes = round(half * uniform(rng, (0.1, 0.45))), round(half)
    where = round(end), round(centre)
    if horizontal:
        cv2.ellipse(metal, where, axes, 0, 0, 360, 255, cv2.FILLED)
    else:
        cv2.ellipse(metal, where[::-1], axes[::-1], 0, 0, 360, 255, cv2.FILLED)


def _bridge(
    rng: np.random.Generator,
    metal: Bytes,
    point: tuple[int, int],
    side: float,
    gap: float,
    horizontal: bool,
) -> bool:
    """Join the metal on both sides of a gap; the gap runs along ``horizontal``."""
    thickness = float(np.clip(side * side / gap, 0.4 * gap, 1.5 * side))
    middle = middle_of(metal, point, horizontal)
    start = middle[0] + uniform(rng, (-0.3, 0.3)) * thickness
    ends = [start - thickness / 2, start + thickness / 2]
    _stroke(metal, ends, middle[1], gap / 2 + 2, horizontal, 255)
    return True


def _lose(metal: Bytes, via: Bytes, point: tuple[int, int], side: float) -> bool:
    """Take away the pads and vias whose middle lies inside a square, at least the one hit."""
    half = max(4, round(side / 2))
    top, left = max(0, point[1] - 2 * half), max(0, point[0] - 2 * half)
    view = np.s_[top : point[1] + 2 * half, left : point[0] + 2 * half]
    number, labels, stats, centres = cv2.connectedComponentsWithStats(
        (metal[view] > 127).astype(np.uint8), connectivity=4
    )
    hit = labels[point[1] - top, point[0] - left]
    near = np.abs(centres - (point[0] - left, point[1] - top)).max(axis=1) <= half
    small = stats[:, cv2.CC_STAT_AREA] <= 1.5 * stats[hit, cv2.CC_STAT_AREA]
    small &= stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) < 3 * half
    lost = [i for i in range(1, number) if small[i] and (near[i] or i == hit)]
    gone = cv2.dilate(np.isin(labels, lost).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    metal[view][gone] = 0
    via[view][gone] = 0
    return bool(lost)


def _gain(
    rng: np.random.Generator, metal: Bytes, via: Bytes, point: tuple[int, int], side: float
) -> bool:
    """Add a pad with a via, or a piece of line, where the drawing has none."""
    column, row = point
    half, other = round(side / 2), round(side * uniform(rng, (0.3, 0.5)))
    if chance(rng, 0.5):
        cv2.circle(metal, point, half, 255, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(via, point, max(1, half // 2), 255, cv2.FILLED, cv2.LINE_AA)
    else:
        cv2.rectangle(
            metal, (column - half, row - other), (column + half, row + other), 255, cv2.FILLED
        )
    return True


def runs_through(mask: Bytes, point: tuple[int, int], *, solid: bool) -> tuple[float, float, bool]:
    """Return the shorter and the longer run of one material through a point.

    The third value tells that the longer run is the horizontal one.
    """
    column, row = point
    across = _run(mask[row], column, solid)
    down = _run(mask[:, column], row, solid)
    lengths = across[1] - across[0], down[1] - down[0]
    return float(min(lengths)), float(max(lengths)), lengths[0] >= lengths[1]


def _run(values: Bytes, position: int, solid: bool) -> tuple[int, int]:
    other = np.flatnonzero((values > 127) != solid)
    place = int(np.searchsorted(other, position))
    start = int(other[place - 1]) + 1 if place else 0
    stop = int(other[place]) if place < len(other) else len(values)
    return start, stop


def middle_of(mask: Bytes, point: tuple[int, int], horizontal: bool) -> tuple[float, float]:
    """Return the position along the feature, and the middle of the feature across it."""
    column, row = point
    solid = bool(mask[row, column] > 127)
    start, stop = (
        _run(mask[:, column], row, solid) if horizontal else _run(mask[row], column, solid)
    )
    return float(column if horizontal else row), (start + stop - 1) / 2


def _stroke(
    mask: Bytes, ends: list[float], centre: float, half: float, horizontal: bool, value: int
) -> None:
    along = slice(max(0, round(ends[0])), max(0, round(ends[1])))
    across = slice(max(0, round(centre - half)), max(0, round(centre + half) + 1))
    mask[(across, along) if horizontal else (along, across)] = value
