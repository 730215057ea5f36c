"""Boxes as lines of YOLO text, and the check that a box lies in its image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import Fault
from wafer.datasets.records import Annotation, Box

__all__ = ["TOLERANCE", "box_line", "box_lines", "fitted_box", "full_frame", "parse_boxes"]

# A box may stick out of its image by so many pixels, as rounding leaves it, and is cut back.
TOLERANCE = 0.5
# 9 decimals of a 100,000 px image are 0.0001 px.
DECIMALS = 9
CORRECT = "correct the line or delete it"


def fitted_box(corners: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the box, cut back to an image of (width, height) pixels.

    Raises:
        ValueError: not finite, without area, or more than half a pixel outside the image.

    Example:
        >>> fitted_box((-0.3, 0, 10, 5), (10, 5))
        Box(xmin=0.0, ymin=0.0, xmax=10.0, ymax=5.0)
    """
    xmin, ymin, xmax, ymax = (float(value) for value in corners)
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
        raise ValueError("a coordinate that is not a finite number")
    if xmax <= xmin or ymax <= ymin:
        raise ValueError(f"a box of {xmax - xmin:g} x {ymax - ymin:g} pixels")
    width, height = size
    if min(xmin, ymin) < -TOLERANCE or xmax > width + TOLERANCE or ymax > height + TOLERANCE:
        where = f"{xmin:g}, {ymin:g} to {xmax:g}, {ymax:g}"
        raise ValueError(f"a box ({where}) outside its image of {width} x {height} pixels")
    clipped = max(0.0, xmin), max(0.0, ymin), min(float(width), xmax), min(float(height), ymax)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise ValueError("a box that lies outside its image")
    return Box(*clipped)


def full_frame(class_name: str, size: tuple[int, int]) -> Annotation:
    """Return the annotation of a whole image of (width, height) pixels, made by rule."""
    return Annotation(Box(0.0, 0.0, float(size[0]), float(size[1])), class_name, "rule")


def parse_boxes(
    text: str,
    *,
    file: str,
    names: Mapping[int, str],
    size: tuple[int, int],
    polygons: bool = False,
) -> tuple[list[Annotation], list[Fault]]:
    """Read YOLO lines ``id xcentre ycentre width height``, each a share of the image's size.

    Args:
        text: the content of one label file.
        file: its name in faults.
        names: the class name of each id.
        size: (width, height) of the image in pixels.
        polygons: take ``id x1 y1 x2 y2 x3 y3 ...`` too, as the box around the outline.

    Returns:
        The boxes of the good lines, and one fault for each of the others.
    """
    annotations: list[Annotation] = []
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            annotations.append(_parse_line(line.split(), names, size, polygons))
        except ValueError as error:
            faults.append(Fault(file=file, line=number, problem=str(error), remedy=CORRECT))
    return annotations, faults


def _parse_line(
    fields: list[str], names: Mapping[int, str], size: tuple[int, int], polygons: bool
) -> Annotation:
    outline = polygons and len(fields) >= 7 and len(fields) % 2 == 1
    if len(fields) != 5 and not outline:
        raise ValueError(f"{len(fields)} fields instead of the 5 of `id xc yc width height`")
    name = _class_name(fields[0], names)
    values = [_number(field) for field in fields[1:]]
    corners = _outline_corners(values, size) if outline else _corners(values, size)
    return Annotation(fitted_box(corners, size), name)


def _class_name(field: str, names: Mapping[int, str]) -> str:
    try:
        index = int(field)
    except ValueError:
        raise ValueError(f"class index {field!r} is not a whole number") from None
    if index not in names:
        raise ValueError(f"class index {index}, where the known ones are {_span(names)}")
    return names[index]


def _span(names: Iterable[int]) -> str:
    known = sorted(names)
    if known == list(range(len(known))) and len(known) > 1:
        return f"0 to {len(known) - 1}"
    return ", ".join(map(str, known)) or "none"


def _number(field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        raise ValueError(f"{field!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{field!r} is not a finite number")
    return value


def _corners(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise ValueError(f"width {w:g} and height {h:g} must be greater than 0")
    if max(map(abs, values)) > 2:
        raise ValueError("numbers that are not shares of the image's size (0 to 1)")
    width, height = size
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height


def _outline_corners(
    values: list[float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    xs, ys = [x * size[0] for x in values[::2]], [y * size[1] for y in values[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def box_line(annotation: Annotation, *, index: int, size: tuple[int, int]) -> str:
    """Return one annotation as a YOLO line without its line end.

    Example:
        >>> box_line(Annotation(Box(0, 0, 50, 100), "scratch"), index=3, size=(100, 100))
        '3 0.25 0.5 0.5 1'
    """
    xmin, ymin, xmax, ymax = annotation.box.corners
    width, height = size
    shares = (
        (xmin + xmax) / 2 / width,
        (ymin + ymax) / 2 / height,
        (xmax - xmin) / width,
        (ymax - ymin) / height,
    )
    return " ".join(
        [str(index), *(f"{share:.{DECIMALS}f}".rstrip("0").rstrip(".") for share in shares)]
    )


def box_lines(
    annotations: Iterable[Annotation], *, classes: ClassTable, size: tuple[int, int]
) -> str:
    """Return the text of a label file; empty for an image without a box."""
    return "".join(
        box_line(a, index=classes.detector_index(a.class_name), size=size) + "\n"
        for a in annotations
    )
