"""Contact sheets: many images with their boxes on one picture, for people to judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2  # noqa: TID253
import numpy as np

from wafer.datasets.files import write_bytes
from wafer.datasets.records import Box
from wafer.datasets.synthetic.fields import Bytes
from wafer.datasets.synthetic.plan import SampleSpec
from wafer.datasets.synthetic.render import render_sample

if TYPE_CHECKING:
    from wafer.datasets.workspace import Workspace

__all__ = ["contact_sheet"]

INK = (0, 200, 255)
BAND = 18


def contact_sheet(
    source: Workspace | Sequence[SampleSpec],
    path: Path,
    *,
    columns: int = 8,
    side: int = 256,
    per_class: int = 4,
    boxes: bool = True,
) -> None:
    """Write a picture of several images per class, with their boxes, as ``.png`` or ``.jpg``.

    A sequence of specifications is shown as it stands; from a workspace the first ``per_class``
    images of each class are taken, with the boxes of ``truth/``. ``side`` is that of one image on
    the sheet, pixels.

    Raises:
        ImageError: an image of the workspace cannot be decoded.
    """
    if isinstance(source, Sequence):
        views = [_rendered(spec) for spec in source]
    else:
        views = _from_workspace(source, per_class)
    tiles = [_tile(*view, side=side, boxes=boxes) for view in views]
    blank = np.full((side + BAND, side, 3), 255, np.uint8)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 84] if path.suffix == ".jpg" else []
    _, data = cv2.imencode(path.suffix, np.vstack(rows), quality)
    write_bytes(path, bytes(data))


def _rendered(spec: SampleSpec) -> tuple[str, Bytes, Sequence[Box]]:
    rendering = render_sample(spec)
    return spec.image_class, rendering.pixels, rendering.boxes


def _from_workspace(workspace: Workspace, per_class: int) -> list[tuple[str, Bytes, Sequence[Box]]]:
    from wafer.datasets.images import decode_image

    samples = workspace.true_samples()
    views: list[tuple[str, Bytes, Sequence[Box]]] = []
    for name in workspace.classes.names:
        for sample in [s for s in samples if s.image_class == name][:per_class]:
            pixels = decode_image(workspace.image_path(sample.image))
            views.append((name, pixels, [a.box for a in sample.annotations or ()]))
    return views


def _tile(name: str, pixels: Bytes, found: Sequence[Box], *, side: int, boxes: bool) -> Bytes:
    scale = side / pixels.shape[1]
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    tile = np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8)
    for box in found if boxes else ():
        corners = [round(value * scale) for value in box.corners]
        cv2.rectangle(tile, (corners[0] - 1, corners[1] - 1), (corners[2], corners[3]), INK, 1)
    label = np.full((BAND, side, 3), 255, np.uint8)
    cv2.putText(label, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([label, tile])
