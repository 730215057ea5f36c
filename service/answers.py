"""Answers as JSON, with the very values that `wafer classify` writes."""

from __future__ import annotations

from typing import Any

from wafer.inference.output import json_row
from wafer.inference.records import Row

__all__ = ["answer_of"]


def answer_of(row: Row, *, digest: str) -> dict[str, Any]:
    """Return what is said about an image.

    Args:
        row: the answer, or the error.
        digest: of the bundle, in full.

    Returns:
        The columns of `wafer classify`, and besides ``vector``: xmin, ymin, xmax, ymax, class
        name and confidence, without an answer None; and ``model_digest``.
    """
    values = json_row(row)
    names = ("xmin", "ymin", "xmax", "ymax", "class", "confidence")
    vector = None if row.prediction is None else [values[name] for name in names]
    rest = {name: value for name, value in values.items() if name not in names[:4]}
    return {"image": rest.pop("image"), "vector": vector, **rest, "model_digest": digest}
