"""A contact sheet: the chosen images on one picture, in their order."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wafer.datasets.errors import ImageError
from wafer.datasets.files import write_bytes
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace

__all__ = ["write_sheet"]

COLUMNS = 10
SIDE = 160
BAND = 20
GAP = 4
MOST = 1000
"""More images than this are not shown: the picture would be larger than viewers open."""


def write_sheet(workspace: Workspace, samples: Sequence[Sample], path: Path) -> None:
    """Write a PNG with the images in rows, each with its number in the order and its class.

    An image that cannot be decoded is an empty tile; of more than 1,000 images the first are shown.
    """
    shown = samples[:MOST]
    font = ImageFont.truetype(_font_file(), 13)
    with ThreadPoolExecutor() as pool:
        thumbnails = list(pool.map(lambda sample: _thumbnail(workspace, sample), shown))
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (SIDE + GAP), rows * (SIDE + BAND + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (sample, thumbnail) in enumerate(zip(shown, thumbnails, strict=True)):
        left, top = number % columns * (SIDE + GAP), number // columns * (SIDE + BAND + GAP)
        label = f"{number + 1} {sample.image_class or sample.image}"
        draw.text((left + 2, top + 1), _fitting(label, font), fill="black", font=font)
        sheet.paste(thumbnail, (left, top + BAND))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    write_bytes(path, out.getvalue())


def _font_file() -> str:
    """Return the font that comes with matplotlib; its letters are those of most scripts."""
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _thumbnail(workspace: Workspace, sample: Sample) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE), (230, 230, 230))
    try:
        pixels = decode_image(
            workspace.image_path(sample.image),
            colour=workspace.colour,
            white_level=workspace.white_level,
        )
    except ImageError:
        return tile
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    tile.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return tile


def _fitting(label: str, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(label) <= SIDE - GAP:
        return label
    while label and font.getlength(f"{label}…") > SIDE - GAP:
        label = label[:-1]
    return f"{label}…"
