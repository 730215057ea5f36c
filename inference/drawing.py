"""Drawing rows: the image with the answer, the box cut out, and what made the model decide."""

from __future__ import annotations

import io
from functools import lru_cache
from math import ceil, floor
from pathlib import Path

import cv2  # noqa: TID253 - this module resizes and colours
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wafer.datasets.records import Box
from wafer.inference.pictures import Picture, plain_name
from wafer.inference.records import Row

__all__ = ["annotated", "cut_out", "explained"]

VERMILLION = (213, 94, 0)
"""Of Okabe and Ito's colours, as the figures of an evaluation."""
STRENGTH = 0.65
"""How far the hottest place is covered by its colour."""

Pixels = NDArray[np.uint8]


def annotated(row: Row, pixels: Pixels) -> Picture | None:
    """Return a copy of the image with its box, and over it class, confidence and decision."""
    return _captioned(row, Image.fromarray(pixels).convert("RGB"), _words(row))


def cut_out(row: Row, pixels: Pixels) -> Picture | None:
    """Return what is in the box, in a folder of its class; None for an answer without a box."""
    answer = row.prediction
    if answer is None or answer.box is None:
        return None
    box = answer.box
    inside = pixels[floor(box.ymin) : ceil(box.ymax), floor(box.xmin) : ceil(box.xmax)]
    folder = plain_name(answer.class_name)
    if folder != answer.class_name:  # two names may be one without what is special in them
        folder = f"{folder}-{row.class_code}"
    return Picture(_png(Image.fromarray(np.ascontiguousarray(inside))), folder)


def explained(row: Row, pixels: Pixels) -> Picture | None:
    """Return a copy as `annotated`, coloured where the score falls once the place is hidden."""
    if row.heat is None:
        return None
    height, width = pixels.shape[:2]
    most = float(row.heat.max())
    share = cv2.resize(row.heat / most if most else row.heat, (width, height)).clip(0, 1)
    colours = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    ground = np.asarray(Image.fromarray(pixels).convert("RGB"), np.float32)
    weight = (STRENGTH * share)[..., None]
    blended = ground * (1 - weight) + colours[..., ::-1] * weight
    image = Image.fromarray(np.rint(blended).astype(np.uint8))
    return _captioned(row, image, f"{_words(row)}, hidden up to -{most:.2f}")


def _words(row: Row) -> str:
    answer = row.prediction
    if answer is None:
        return row.error
    reason = f" ({answer.reason})" if answer.reason else ""
    return f"{answer.class_name} {answer.confidence:.2f} {answer.decision}{reason}"


def _captioned(row: Row, image: Image.Image, words: str) -> Picture:
    """Draw the box of a row, and the words on a band over the image, which hides nothing."""
    if row.prediction is not None and row.prediction.box is not None:
        _draw_box(image, row.prediction.box)
    font = _font(max(13, image.width // 40))
    _, _, right, bottom = (round(value) for value in font.getbbox(words))
    band = bottom + 6
    canvas = Image.new("RGB", (max(image.width, right + 8), image.height + band), "white")
    ImageDraw.Draw(canvas).text((4, 3), words, fill="black", font=font)
    canvas.paste(image, (0, band))
    return Picture(_png(canvas))


def _draw_box(image: Image.Image, box: Box) -> None:
    pen, line = ImageDraw.Draw(image), max(1, max(image.size) // 400)
    corners = floor(box.xmin), floor(box.ymin), ceil(box.xmax) - 1, ceil(box.ymax) - 1
    # A white rim: visible on any ground.
    pen.rectangle(corners, outline="white", width=2 * line)
    pen.rectangle(corners, outline=VERMILLION, width=line)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib; its letters are those of most scripts."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    return content.getvalue()
