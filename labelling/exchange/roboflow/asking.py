"""One question to Roboflow: asked again where that can help, its key never shown."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TypeVar

from requests import RequestException

from wafer.datasets.errors import ExchangeError
from wafer.labelling.exchange.roboflow.sdk import SDK_ERRORS, status_of

__all__ = ["KEY", "Pause", "api_key", "ask"]

KEY = "ROBOFLOW_API_KEY"
KEYS = re.compile(r"[A-Za-z0-9_-]+")
ATTEMPTS = 6
LONGEST_PAUSE = 60.0
BUSY = frozenset({408, 425, 429})
SHOWN = 300

Answer = TypeVar("Answer")
Pause = Callable[[float], None]
"""Waits for so many seconds."""


def api_key() -> str:
    """Return the key of the environment variable ``ROBOFLOW_API_KEY``, the only place for it.

    Raises:
        ExchangeError: it is not set, or cannot be a key.
    """
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ExchangeError(
            f"the environment variable {KEY} is not set; take the key from the settings of your "
            "Roboflow workspace"
        )
    if not KEYS.fullmatch(key):  # the SDK puts it into addresses as it is
        raise ExchangeError(f"{KEY} has signs that no key of Roboflow has; copy the key again")
    return key


def ask(
    what: str, question: Callable[[], Answer], *, key: str, pause: Pause = time.sleep
) -> Answer:
    """Return the answer to a question, asked up to six times within half a minute.

    A server that is busy (429) or out of order, and a connection that fails or is cut, are asked
    again after 1, 2, 4, 8 and 16 seconds, or when the server says. A refusal is not.

    Args:
        what: the question in words, for errors.
        question: calls the SDK; what that prints is dropped.
        key: is blotted out of errors.
        pause: waits.

    Raises:
        ExchangeError: refused, or no good answer in the end.
    """
    for attempt in range(ATTEMPTS):
        try:
            with redirect_stdout(io.StringIO()):
                return question()
        except SDK_ERRORS as error:
            status = status_of(error)
            if not _may_pass(error, status) or attempt == ATTEMPTS - 1:
                raise ExchangeError(_problem(what, error, status, key)) from None
            pause(_seconds(error, attempt))
    raise AssertionError("unreachable")


def _may_pass(error: Exception, status: int | None) -> bool:
    if status is not None:
        return status in BUSY or status >= 500
    return isinstance(error, RequestException) or isinstance(error.__cause__, RequestException)


def _seconds(error: Exception, attempt: int) -> float:
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        wanted = float(headers.get("Retry-After", 0))
    except ValueError:  # a date
        wanted = 0.0
    return min(max(wanted, 2.0**attempt), LONGEST_PAUSE)


def _problem(what: str, error: Exception, status: int | None, key: str) -> str:
    text = " ".join(str(error).replace(key, "***").split())
    said = f"{text[:SHOWN]} (status {status})" if status else f"{text[:SHOWN]}"
    if status in (401, 403):
        return f"Roboflow, {what}: refused ({said}); check {KEY} and what it may do"
    if _may_pass(error, status):
        return f"Roboflow, {what}: no answer after {ATTEMPTS} tries ({said}); try again later"
    return f"Roboflow, {what}: {said}; check the names of workspace, project and version"
