"""Every box that a model found, as COCO results or JSON lines."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from wafer.datasets.classes import ClassTable
from wafer.evaluation.records import Detection
from wafer.inference.records import Row
from wafer.inference.unfinished import Growing

__all__ = ["BOX_SUFFIXES", "CONFIDENCE", "BoxFile", "box_values"]

CONFIDENCE = 0.25
"""The score from which on a box is one of all boxes, as in YOLOv5's detect.py."""

COCO, JSON_LINES = ".json", ".jsonl"
BOX_SUFFIXES = (COCO, JSON_LINES)
HEADER, FOOTER = b"[", b"\n]\n"


class BoxFile:
    """A file of all boxes; its ending decides the format.

    ``.json`` is COCO's list of results, an object for each box. Categories have the numbers of
    `wafer convert --to coco`; an image has its place among the inputs, from 1, as ``image_id``, and
    its name as ``file_name``. ``.jsonl`` has a line for each image, also for those without a box
    and those that could not be read.
    """

    def __init__(self, path: Path, classes: ClassTable) -> None:
        self.path, self._classes = path, classes
        self._coco = path.suffix.lower() == COCO

    def growing(self) -> Growing:
        """Return the file as one that grows."""
        finished = partial(_whole, coco=self._coco)
        return Growing(self.path, HEADER if self._coco else b"", finished)

    def encode(self, number: int, row: Row) -> bytes:
        """Return what the file says of an input, whose place is ``number``."""
        if self._coco:
            objects = [self._result(number, found) for found in row.detections]
            return "".join(f"\n{_json(each)}," for each in objects).encode()
        line = {
            "image": row.image,
            "boxes": [box_values(found, self._classes) for found in row.detections],
            "error": row.error or None,
            "sha256": row.sha256 or None,
            "model": row.model,
        }
        return f"{_json(line)}\n".encode()

    def _result(self, number: int, found: Detection) -> dict[str, Any]:
        box = found.box
        return {
            "image_id": number,
            "file_name": found.image,
            "category_id": self._classes.detector_index(found.class_name),
            "bbox": [round(value, 2) for value in (box.xmin, box.ymin, box.width, box.height)],
            "score": round(found.score, 6),
        }


def box_values(found: Detection, classes: ClassTable) -> dict[str, Any]:
    """Return a box by name: corners with 2 decimals, class, confidence with 6, class code."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), found.box.corners, strict=True)
    return {
        **{name: round(value, 2) for name, value in corners},
        "class": found.class_name,
        "confidence": round(found.score, 6),
        "class_code": classes[found.class_name].code,
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _whole(rows: Path, *, coco: bool) -> Path:
    """Copy the rows to a file beside them; a list, whose objects have a comma each, is ended.

    The rows stay as they are, so that a run that is killed before the end of all can go on.
    """
    target = rows.with_name(f"{rows.name}.whole")
    with rows.open("rb") as source, target.open("wb") as handle:
        shutil.copyfileobj(source, handle)
        if coco:
            if handle.tell() > len(HEADER):
                handle.truncate(handle.seek(-1, os.SEEK_END))
            handle.write(FOOTER)
        handle.flush()
        os.fsync(handle.fileno())
    return target
