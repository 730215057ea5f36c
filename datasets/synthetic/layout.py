"""Chip patterns of five families, drawn as axis-aligned geometry without a look at the class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2  # noqa: TID253
import numpy as np

from wafer.datasets.synthetic.fields import Bytes, chance, uniform
from wafer.datasets.synthetic.recipes import Family, Range

__all__ = ["Layout", "draw_layout"]

FILLED: Range = (0.10, 0.80)
TRIES = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """A drawn pattern, both masks uint8 (side, side): 255 where there is metal, or a via."""

    metal: Bytes
    via: Bytes


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What a family draws on: the masks, the pitch in pixels, and the metal's share of it."""

    metal: Bytes
    via: Bytes
    pitch: float
    duty: float
    rng: np.random.Generator

    @property
    def side(self) -> int:
        return int(self.metal.shape[0])

    @property
    def width(self) -> float:
        return self.pitch * self.duty

    def bar(self, x0: float, y0: float, x1: float, y1: float) -> None:
        corners = (round(x0), round(y0)), (round(x1) - 1, round(y1) - 1)
        if corners[0][0] <= corners[1][0] and corners[0][1] <= corners[1][1]:
            cv2.rectangle(self.metal, *corners, 255, cv2.FILLED)

    def dot(self, x: float, y: float, radius: float) -> None:
        centre, whole = (round(x * 16), round(y * 16)), max(8, round(radius * 16))
        cv2.circle(self.via, centre, whole, 255, cv2.FILLED, cv2.LINE_AA, 4)


def draw_layout(
    rng: np.random.Generator,
    *,
    family: Family,
    side: int,
    pitch: float,
    duty: float,
    upright: bool,
) -> Layout:
    """Draw a pattern of one family on a square of ``side`` pixels.

    ``pitch`` is in pixels, ``duty`` the share of it that is metal; ``upright`` turns the
    preferred direction by 90 degrees. A pattern that is nearly empty or nearly full in its
    middle is drawn again, whatever the class.
    """
    for _ in range(TRIES):
        masks = np.zeros((2, side, side), np.uint8)
        _DRAWERS[family](_Sheet(masks[0], masks[1], pitch, duty, rng))
        middle = slice(side // 4, 3 * side // 4)
        if FILLED[0] <= masks[0, middle, middle].mean() / 255 <= FILLED[1]:
            break
    if upright:
        masks = np.ascontiguousarray(masks.transpose(0, 2, 1))
    return Layout(masks[0], masks[1])


def _lines(sheet: _Sheet) -> None:
    rng = sheet.rng
    broken, dotted = uniform(rng, (0.0, 0.4)), chance(rng, 0.35)
    for y in _tracks(sheet):
        sheet.bar(0, y, sheet.side, y + sheet.width)
        if chance(rng, broken):
            _break_line(sheet, y)
        if dotted and chance(rng, 0.5):
            _dot_line(sheet, y, 0, sheet.side)


def _break_line(sheet: _Sheet, y: float) -> None:
    x, gap = uniform(sheet.rng, (0, sheet.side)), sheet.pitch * uniform(sheet.rng, (0.8, 3.0))
    rows, columns = _slice(y - 1, y + sheet.width + 1), _slice(x, x + gap)
    sheet.metal[rows, columns] = 0


def _dot_line(sheet: _Sheet, y: float, x0: float, x1: float) -> None:
    for _ in range(int(sheet.rng.integers(1, 4))):
        x = uniform(sheet.rng, (x0, max(x1, x0 + 1)))
        sheet.dot(x, y + sheet.width / 2, 0.36 * sheet.width)


def _routed(sheet: _Sheet) -> None:
    """Draw wires in pieces on tracks, some joined to the next track by a jog."""
    rng, tracks = sheet.rng, _tracks(sheet)
    for y in tracks:
        x = -uniform(rng, (0, 8)) * sheet.pitch
        while x < sheet.side:
            end = x + sheet.pitch * math.exp(rng.uniform(math.log(1.5), math.log(14)))
            _wire(sheet, x, end, y)
            x = end + sheet.pitch * uniform(rng, (0.6, 2.2))
    if chance(rng, 0.3):  # a wide supply rail across
        y, wide = uniform(rng, (0, sheet.side)), sheet.pitch * uniform(rng, (1.5, 2.5))
        sheet.bar(0, y, sheet.side, y + wide)


def _wire(sheet: _Sheet, x: float, end: float, y: float) -> None:
    rng, width = sheet.rng, sheet.width
    sheet.bar(x, y, end, y + width)
    if chance(rng, 0.3):
        turns = int(rng.integers(1, 3))
        sheet.bar(end - width, y, end, y + turns * sheet.pitch + width)
    if chance(rng, 0.5):
        sheet.dot(end - width / 2, y + width / 2, 0.34 * width)
    if chance(rng, 0.25):
        sheet.dot(x + width / 2, y + width / 2, 0.34 * width)


def _vias(sheet: _Sheet) -> None:
    """Draw an array of via pads, with streets where the array stops."""
    rng, pitch = sheet.rng, sheet.pitch * 1.15
    square, stagger = chance(rng, 0.5), chance(rng, 0.4)
    reach, hole = pitch * uniform(rng, (0.33, 0.42)), pitch * uniform(rng, (0.14, 0.22))
    streets = _streets(sheet, pitch)
    for row, y in enumerate(np.arange(-pitch / 2, sheet.side + pitch, pitch)):
        shift = pitch / 2 if stagger and row % 2 else 0.0
        for x in np.arange(-pitch / 2 + shift, sheet.side + pitch, pitch):
            if not any(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in streets):
                _via_pad(sheet, float(x), float(y), reach, hole, square)


def _via_pad(sheet: _Sheet, x: float, y: float, reach: float, hole: float, square: bool) -> None:
    if square:
        sheet.bar(x - reach, y - reach, x + reach, y + reach)
    else:
        centre = (round(x * 16), round(y * 16))
        cv2.circle(sheet.metal, centre, round(reach * 16), 255, cv2.FILLED, cv2.LINE_AA, 4)
    sheet.dot(x, y, hole)


def _streets(sheet: _Sheet, pitch: float) -> list[tuple[float, float, float, float]]:
    rng, result = sheet.rng, []
    for _ in range(int(rng.integers(0, 4))):
        x, y = uniform(rng, (0, sheet.side)), uniform(rng, (0, sheet.side))
        long, short = pitch * uniform(rng, (3, 12)), pitch * uniform(rng, (1.5, 2.5))
        wide, high = (long, short) if chance(rng, 0.5) else (short, long)
        result.append((x, y, x + wide, y + high))
    return result


def _pads(sheet: _Sheet) -> None:
    """Draw large pads in a grid, some slotted, some replaced by a comb of lines."""
    rng, cell = sheet.rng, sheet.pitch * uniform(sheet.rng, (2.0, 3.4))
    for y in np.arange(-uniform(rng, (0, cell)), sheet.side, cell):
        for x in np.arange(-uniform(rng, (0, cell)), sheet.side, cell * uniform(rng, (1, 1.8))):
            kind = rng.random()
            wide, high = cell * uniform(rng, (0.6, 1.1)), cell * uniform(rng, (0.55, 0.8))
            if kind < 0.65:
                sheet.bar(x, y, x + wide, y + high)
            elif kind < 0.9:
                _comb(sheet, float(x), float(y), wide, high)
            if kind < 0.3:
                _slots(sheet, float(x), float(y), wide, high)


def _comb(sheet: _Sheet, x: float, y: float, wide: float, high: float) -> None:
    for top in np.arange(y, y + high, sheet.pitch * 0.7):
        sheet.bar(x, top, x + wide, top + sheet.width * 0.7)


def _slots(sheet: _Sheet, x: float, y: float, wide: float, high: float) -> None:
    radius = 0.12 * sheet.pitch
    for top in np.arange(y + 0.3 * high, y + 0.9 * high, 0.35 * high):
        for left in np.arange(x + 0.2 * wide, x + 0.9 * wide, 0.3 * wide):
            sheet.dot(float(left), float(top), radius)


def _fill(sheet: _Sheet) -> None:
    """Draw staggered dummy fill with a few wires between."""
    rng, pitch = sheet.rng, sheet.pitch
    square, drift = pitch * (0.35 + 0.5 * sheet.duty), uniform(rng, (0.0, 0.5)) * pitch
    blank = [int(row) for row in rng.integers(0, 40, 5)]
    for row, y in enumerate(np.arange(-pitch, sheet.side, pitch)):
        if row in blank:
            sheet.bar(0, y, sheet.side, y + sheet.width)
            continue
        for x in np.arange(-2 * pitch + (row * drift) % pitch, sheet.side, pitch):
            sheet.bar(x, y, x + square, y + square)


def _tracks(sheet: _Sheet) -> list[float]:
    first = -uniform(sheet.rng, (0, sheet.pitch))
    return [float(y) for y in np.arange(first, sheet.side, sheet.pitch)]


def _slice(start: float, stop: float) -> slice:
    return slice(max(0, round(start)), max(0, round(stop)))


_DRAWERS: Mapping[Family, Callable[[_Sheet], None]] = {
    "lines": _lines,
    "routed": _routed,
    "vias": _vias,
    "pads": _pads,
    "fill": _fill,
}
