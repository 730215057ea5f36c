"""How often a key may ask: so many requests a second, with a second's worth at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Rates"]


class Rates:
    """A bucket of requests for each key, which fills at the key's rate.

    Args:
        now: seconds on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, name: str, rate: float) -> int:
        """Take a request out of a bucket.

        Args:
            name: of the key.
            rate: requests a second, above 0.

        Returns:
            0, or the whole seconds after which there will be one.
        """
        now, most = self._now(), max(1.0, rate)
        level, then = self._buckets.get(name, (most, now))
        level = min(most, level + (now - then) * rate)
        allowed = level >= 1
        self._buckets[name] = (level - allowed, now)
        return 0 if allowed else max(1, math.ceil((1 - level) / rate))
