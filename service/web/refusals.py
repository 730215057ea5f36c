"""What a client is told instead of an answer."""

from __future__ import annotations

from wafer.datasets.errors import WaferError

__all__ = ["Refused", "busy"]

AGAIN = 1
"""Seconds after which a client may ask again, where the server had too much to do."""


class Refused(WaferError):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        code: a short word that programs can compare, and that metrics count.
        text: what is wrong, and what would be right.
        again: seconds after which the same request may do better; None where it never will.
    """

    def __init__(self, status: int, code: str, text: str, *, again: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.again = again

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that belong to it."""
        found = {}
        if self.again is not None:
            found["retry-after"] = str(self.again)
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


def busy(code: str, text: str) -> Refused:
    """Return the refusal of a server that could not now, but may a second later."""
    return Refused(503, code, text, again=AGAIN)
