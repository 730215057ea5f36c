"""When to try again what failed in a way that may pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Again", "Clock"]

LEAST_PAUSE, MOST_PAUSE = 5.0, 60.0
"""Seconds to the next try after the first failure, and at most; each pause is twice as long."""

Clock = Callable[[], float]
"""Returns seconds that never go back."""


class Again:
    """Knows whether something may be tried now: at first, then after ever longer pauses.

    Args:
        now: the clock.
    """

    def __init__(self, now: Clock = time.monotonic) -> None:
        self._now = now
        self._pause = LEAST_PAUSE
        self._due = -math.inf

    @property
    def is_due(self) -> bool:
        """Return whether it may be tried."""
        return self._now() >= self._due

    def later(self) -> None:
        """Let the next try wait."""
        self._due = self._now() + self._pause
        self._pause = min(2 * self._pause, MOST_PAUSE)

    def give_up(self) -> None:
        """Let there be no other try."""
        self._due = math.inf
