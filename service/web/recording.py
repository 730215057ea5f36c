"""What stands around every request: a number, a line in the log, a count, safe headers."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wafer.service.web.metrics import Metrics

__all__ = ["REQUEST_ID", "Recording"]

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
GIVEN = re.compile(r"[A-Za-z0-9-]{8,64}")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that are asked all day long, and not logged."""
OTHER = "other"
LINGER_BYTES = 16 << 20
LINGER_SECONDS = 1.0


class _Body:
    """What a request goes on with, which a client may still be sending when it is refused.

    Where a server hangs up meanwhile, a client may see a broken connection instead of the reason.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._whole = False
        self._asks_first = "expect" in Headers(scope=scope)

    async def receive(self) -> Message:
        """Return the next message; part of the ASGI interface."""
        message = await self._receive()
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def finish(self) -> bool:
        """Throw away a rest that is neither long nor slow; return whether that was all."""
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not (self._whole or self._asks_first) and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        return self._whole


class Recording:
    """An application that numbers, logs and counts the requests to another one.

    Args:
        app: answers; it may add to the line of the log in ``scope["state"]["fields"]``.
        metrics: counts requests by path and status.
        paths: that the application has; others are counted as one.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; part of the ASGI interface."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if GIVEN.fullmatch(given) else secrets.token_hex(8)
        fields: dict[str, Any] = {"request_id": request_id}
        scope.setdefault("state", {})["fields"] = fields
        begin, status = time.monotonic(), 500

        body = _Body(scope, receive)

        async def send_recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, REQUEST_ID: request_id})
                if not await body.finish():
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, body.receive, send_recorded)
        finally:
            path = scope["path"] if scope["path"] in self._paths else OTHER
            self._metrics.requests.labels(path, str(status)).inc()
            if path not in QUIET:
                fields |= {"method": scope["method"], "path": path, "status": status}
                fields["ms"] = round((time.monotonic() - begin) * 1000, 2)
                log.info("request", extra={"fields": fields})
