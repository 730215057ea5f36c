"""Golden images: inputs with the answers a model gave where it was exported, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from wafer.datasets.errors import WeightsError
from wafer.inference.records import TopOne

__all__ = ["Golden", "Tolerance", "read_golden"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far answers may lie apart: scores and features by so much, corners by so many pixels."""

    score: float
    box: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Letterboxed images and what an engine has to answer for them.

    ``images`` is uint8, shape (N, size, size) or (N, size, size, 3); ``boxes`` (N, 4), ``scores``
    (N, classes) and ``features`` (N, features) as in ``TopOne``. ``decided`` says of which images
    the class and the box are compared: where two boxes or classes are within the tolerance of each
    other, either is right, and only the scores are compared. Shape: (N,).
    """

    images: NDArray[np.uint8]
    boxes: Floats
    scores: Floats
    features: Floats
    decided: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)

    def to_bytes(self) -> bytes:
        """Return a safetensors file; equal images and answers give equal bytes."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}
        return safetensors.numpy.save(arrays)

    def difference(self, answer: TopOne, tolerance: Tolerance) -> str | None:
        """Return in what an answer for ``images`` is not the golden one, or None."""
        for name, theirs, ours, limit in (
            ("score", answer.scores, self.scores, tolerance.score),
            ("box corner", answer.boxes[self.decided], self.boxes[self.decided], tolerance.box),
            ("feature", answer.features, self.features, tolerance.score),
        ):
            if theirs is None or theirs.shape != ours.shape:
                return f"the {name}s are of another shape"
            apart = np.abs(theirs - ours)
            if not np.all(apart <= limit):  # also where one is no number
                return f"a {name} is {np.max(apart):.3g} away from the golden one, over {limit:g}"
        classes = self.scores.argmax(axis=1)
        wrong = np.flatnonzero((answer.classes != classes) & self.decided)
        if len(wrong):
            return f"another class for {len(wrong)} of {len(self)} golden images"
        return None


_NAMES = ("images", "boxes", "scores", "features", "decided")


def read_golden(path: Path) -> Golden:
    """Read golden images.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        arrays: Mapping[str, NDArray[np.generic]] = safetensors.numpy.load(path.read_bytes())
        golden = Golden(**{name: arrays[name] for name in _NAMES})  # type: ignore[arg-type]
    except (OSError, SafetensorError, KeyError) as error:
        raise WeightsError(
            f"{path}: no readable golden images ({error}); export the model again"
        ) from error
    if not len(golden) or any(len(getattr(golden, name)) != len(golden) for name in _NAMES):
        raise WeightsError(f"{path}: not one answer for each golden image; export the model again")
    return golden
