"""In which order the images of a class are worth drawing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.duplicates import DISTANCE
from wafer.datasets.records import Sample
from wafer.labelling.looks import Looks

__all__ = ["Order", "kcenter_order", "random_order"]


class Order(Protocol):
    """Which image of a class comes next."""

    @property
    def classes(self) -> tuple[str | None, ...]:
        """Return the classes that have images, None for those without a class."""

    def next(self, name: str | None, /) -> Sample | None:
        """Return the next image of a class, or None where there is no other."""


class _Random:
    """Images of each class by a number that each draws for itself, whatever others there are."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self._waiting = _by_class(samples)
        for members in self._waiting.values():
            members.sort(key=lambda sample: random.Random(f"{seed} {sample.image}").random())

    @property
    def classes(self) -> tuple[str | None, ...]:
        return tuple(self._waiting)

    def next(self, name: str | None, /) -> Sample | None:
        members = self._waiting[name]
        return members.pop() if members else None


def random_order(samples: Sequence[Sample], *, seed: int) -> Order:
    """Return the images of each class in a random order, near-duplicates and groups regardless."""
    return _Random(samples, seed)


class _Members:
    """The images of one class: where they stand, and how far each is from what is taken."""

    def __init__(self, samples: Sequence[Sample], drawn: Sequence[Sample], looks: Looks) -> None:
        rows = {image: row for row, image in enumerate(looks.images)}
        codes: dict[str, int] = {}
        # An image without a group is one of its own.
        groups = [f"group {s.group}" if s.group else f"image {s.image}" for s in (*samples, *drawn)]
        numbers = np.array([codes.setdefault(group, len(codes)) for group in groups], np.int64)
        self.samples = samples
        self.rows = np.array([rows[s.image] for s in samples], np.int64)
        self.features = looks.features[self.rows]
        self.nearest = np.full(len(samples), np.inf, np.float32)
        self.groups = numbers[: len(samples)]
        self.taken = np.bincount(numbers[len(samples) :], minlength=len(codes))
        for sample in drawn:
            self.note(looks.features[rows[sample.image]])

    def note(self, features: NDArray[np.float32]) -> None:
        """Note that an image of these features is taken."""
        away = np.square(self.features - features).sum(axis=1)
        self.nearest = np.minimum(self.nearest, away)

    def best(self, free: NDArray[np.bool_]) -> int:
        """Return the position of the image to take next, of those that are free."""
        taken = self.taken[self.groups]
        eligible = np.flatnonzero(free & (taken == taken[free].min()))
        if np.isfinite(self.nearest[eligible]).all():
            return int(eligible[self.nearest[eligible].argmax()])
        features = self.features[eligible]
        away = np.square(features - features.mean(axis=0)).sum(axis=1)
        return int(eligible[away.argmin()])


class _KCenter:
    """Greedy k-center (Gonzalez 1985) within each class, over images that differ, by group."""

    def __init__(self, samples: Sequence[Sample], drawn: Sequence[Sample], looks: Looks) -> None:
        known = set(looks.images)
        old = _by_class([s for s in drawn if s.image in known])
        new = _by_class([s for s in samples if s.image in known])
        self._members = {n: _Members(new[n], old.get(n, []), looks) for n in new}
        self._signs = looks.hashes.astype(np.float32) * 2 - 1
        self._blocked = np.zeros(len(looks.images), np.bool_)
        rows = {image: row for row, image in enumerate(looks.images)}
        for sample in (s for members in old.values() for s in members):
            self._block(rows[sample.image])

    @property
    def classes(self) -> tuple[str | None, ...]:
        return tuple(self._members)

    def next(self, name: str | None, /) -> Sample | None:
        members = self._members[name]
        free = ~self._blocked[members.rows]
        if not free.any():
            return None
        best = members.best(free)
        members.taken[members.groups[best]] += 1
        members.note(members.features[best])
        self._block(int(members.rows[best]))
        return members.samples[best]

    def _block(self, row: int) -> None:
        """Leave out an image and all that look like it from now on."""
        # The product counts equal bits minus differing ones.
        bits = self._signs.shape[1]
        self._blocked |= self._signs @ self._signs[row] >= bits - 2 * DISTANCE


def kcenter_order(samples: Sequence[Sample], drawn: Sequence[Sample], *, looks: Looks) -> Order:
    """Return the images of each class so that each is as unlike all earlier ones as can be.

    The first of a class is the one nearest to the mean of its features, where none is drawn. An
    image is left out once a near-duplicate of it (`wafer.datasets.duplicates`) is drawn or chosen.
    Before that the groups count: of the images whose group has been taken least often for this
    class, the one farthest from all others is taken.

    Args:
        samples: images to choose from; those that ``looks`` has not are left out.
        drawn: images that are drawn already and need no likes.
        looks: of both.
    """
    return _KCenter(samples, drawn, looks)


def _by_class(samples: Sequence[Sample]) -> dict[str | None, list[Sample]]:
    found: dict[str | None, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: s.image):
        found.setdefault(sample.image_class, []).append(sample)
    return found
