"""Who is looking at which image, so that two people are not given the same one.

A lease ends by itself; what was decided is safe without it, since the ledger refuses a change of
an image that has been changed meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["Lease", "Leases"]

SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Lease:
    """One window of one person at one image; times on the clock of ``Leases``."""

    session: str
    who: str
    since: float
    until: float


class Leases:
    """The leases of all images, in memory."""

    def __init__(
        self, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._leases: dict[str, Lease] = {}

    def other(self, image: str, session: str) -> Lease | None:
        """Return the lease that another session holds."""
        lease = self._leases.get(image)
        if lease is None or lease.session == session or lease.until < self._clock():
            return None
        return lease

    def take(self, image: str, *, session: str, who: str) -> None:
        """Take an image for a session, which leaves its others; a session holds one."""
        self.leave(session)
        now = self._clock()
        self._leases[image] = Lease(session, who, now, now + self._seconds)

    def keep(self, image: str, *, session: str) -> bool:
        """Lengthen a lease; return whether the session still holds it."""
        lease = self._leases.get(image)
        if lease is None or lease.session != session:
            return False
        self._leases[image] = replace(lease, until=self._clock() + self._seconds)
        return True

    def spent(self, image: str, *, session: str) -> float | None:
        """Return the seconds since a session took an image; None where it has not."""
        lease = self._leases.get(image)
        return self._clock() - lease.since if lease and lease.session == session else None

    def leave(self, session: str) -> None:
        """Give back what a session holds."""
        self._leases = {i: each for i, each in self._leases.items() if each.session != session}
