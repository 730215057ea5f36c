"""Do no harm: whether pseudo-labels made a class worse on boxes that people drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.records import Box
from wafer.labelling.propagation.places import Example, Reader, matched

__all__ = ["Comparison", "compare"]

DRAWS = 300
CONFIDENCE = 0.90
ROUNDING = 1e-9
"""A difference of no more than this is one of floating point."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """AP50 of a class before and after, and the interval of the difference over drawn images.

    None where there is no true box.
    """

    class_name: str
    before: float | None
    after: float | None
    low: float
    high: float

    @property
    def harmed(self) -> bool:
        """Return whether the class got worse beyond chance."""
        return self.before is not None and self.high < -ROUNDING

    @property
    def gain(self) -> float:
        """Return the difference, 0 where there is nothing to measure."""
        return 0.0 if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class _Found:
    """The boxes found of one class, the highest score first, and the true boxes of each image."""

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    truth: NDArray[np.int64]


def compare(
    before: Sequence[Example], after: Sequence[Example], reader: Reader, *, seed: int
) -> tuple[Comparison, ...]:
    """Compare two sets of teachers on the same drawn images, class by class.

    The interval is a bootstrap over images, the same draws for both.

    Args:
        before: the images with what the first teachers say.
        after: the same images in the same order with what the second say.
        reader: how candidates are read.
        seed: of the draws.
    """
    plain = Reader(reader.names, reader.local, frozenset())
    random = np.random.default_rng(seed)
    number = len(before)
    weights = random.multinomial(number, np.full(number, 1 / number), DRAWS) if number else None
    return tuple(
        _compare_class(_found(before, name, plain), _found(after, name, plain), name, weights)
        for name in reader.local
    )


def _compare_class(
    old: _Found, new: _Found, name: str, weights: NDArray[np.int64] | None
) -> Comparison:
    once = np.ones(len(old.truth), np.int64)
    if weights is None or not old.truth.sum():
        return Comparison(name, None, None, 0.0, 0.0)
    drawn = [w for w in weights if (w * old.truth).sum()]
    gaps = [_average_precision(new, w) - _average_precision(old, w) for w in drawn]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(gaps, [tail, 100 - tail])
    return Comparison(
        name,
        _average_precision(old, once),
        _average_precision(new, once),
        float(low),
        float(high),
    )


def _found(examples: Sequence[Example], name: str, reader: Reader) -> _Found:
    images: list[int] = []
    right: list[bool] = []
    scores: list[float] = []
    truth = []
    for number, example in enumerate(examples):
        clusters = reader.clusters(example.candidates, name)
        true = [a.box for a in example.truth if a.class_name == name]
        found = matched([Box(*cluster.box) for cluster in clusters], true)
        images += [number] * len(clusters)
        right += [match is not None for match in found]
        scores += [cluster.score for cluster in clusters]
        truth.append(len(true))
    order = np.argsort(-np.array(scores), kind="stable") if scores else np.zeros(0, np.int64)
    return _Found(
        np.array(images, np.int64)[order], np.array(right, bool)[order], np.array(truth, np.int64)
    )


def _average_precision(found: _Found, weights: NDArray[np.int64]) -> float:
    """Return the area under the envelope of precision over recall, images counted by weight."""
    total = float((weights * found.truth).sum())
    counts = weights[found.image].astype(np.float64)
    hits = np.cumsum(counts * found.right)
    seen = np.cumsum(counts)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], hits / total]))
    return float((steps * envelope).sum())
