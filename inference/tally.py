"""What many answers have in common: how often each class, how many to review, how images look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["VALUES", "Moments", "Tally", "Totals"]

VALUES = ("confidence", "brightness", "sharpness", "distance")
"""The numbers of which mean and deviation are kept, as answers and `Appearance` name them."""
DIGITS = 4
"""So many say all that is wanted, and hide what differs between two runs on one processor."""


@dataclass(frozen=True, slots=True)
class Moments:
    """So many values, their mean and their standard deviation (0 for a single one)."""

    count: int
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Some answers summed up.

    ``images`` were answered; ``classes`` and ``decisions`` say how often each was the answer,
    without those that never were. ``values`` has moments by name (`VALUES`), where there were any.
    """

    images: int
    classes: dict[str, int]
    decisions: dict[str, int]
    values: dict[str, Moments]


@dataclass(slots=True)
class _Running:
    """Moments that grow value by value (Welford, Technometrics 4, 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)

    def moments(self) -> Moments:
        deviation = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return Moments(self.count, round(self.mean, DIGITS), round(deviation, DIGITS))


@dataclass(slots=True)
class Tally:
    """Sums up answers one by one."""

    _classes: Counter[str] = field(default_factory=Counter)
    _decisions: Counter[str] = field(default_factory=Counter)
    _values: dict[str, _Running] = field(default_factory=dict)

    def add(self, class_name: str, decision: str, values: Mapping[str, float | None]) -> None:
        """Count an answer.

        Args:
            class_name: what was answered.
            decision: ``auto``, ``review`` or ``unknown``.
            values: those of `VALUES` that are known of it.
        """
        self._classes[class_name] += 1
        self._decisions[decision] += 1
        for name in VALUES:
            if (value := values.get(name)) is not None:
                self._values.setdefault(name, _Running()).add(value)

    def totals(self) -> Totals:
        """Return what was counted; names in the order of the alphabet."""
        return Totals(
            images=self._classes.total(),
            classes=dict(sorted(self._classes.items())),
            decisions=dict(sorted(self._decisions.items())),
            values={n: self._values[n].moments() for n in VALUES if n in self._values},
        )
