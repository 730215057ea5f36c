"""How long a look takes, measured while people work."""

from __future__ import annotations

from collections import deque

__all__ = ["Pace"]

REMEMBERED = 50
ENOUGH = 5
LONGEST = 120.0
"""Seconds after which somebody was not looking all the time."""


class Pace:
    """The ratio of measured to expected seconds over the last decisions."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)

    def note(self, measured: float, *, expected: float) -> None:
        """Note one look, in seconds."""
        self._looks.append((min(measured, LONGEST), expected))

    def factor(self) -> float:
        """Return the ratio; 1 before there are enough looks."""
        if len(self._looks) < ENOUGH:
            return 1.0
        return sum(m for m, _ in self._looks) / sum(e for _, e in self._looks)
