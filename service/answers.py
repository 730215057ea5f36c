"""Answers as JSON, with the very values that `wafer classify` writes."""

from __future__ import annotations

from typing import Any

from wafer.inference.output import json_row
from wafer.inference.records import Row

__all__ = ["answer_of", "appearance_in"]

DIGITS = 4


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


def appearance_in(row: Row) -> dict[str, float | None]:
    """Return how an image looks, for records in which drift is looked for; empty for an error."""
    if row.appearance is None:
        return {}
    values = row.appearance._asdict()
    return {name: None if v is None else round(v, DIGITS) for name, v in values.items()}
