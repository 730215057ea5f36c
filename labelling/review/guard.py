"""What stands before every answer: this machine only, the token, our own page only."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["TOKEN_HEADER", "Guard"]

TOKEN_HEADER = "x-wafer-token"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
MAX_BODY = 1 << 20
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An application that lets only our own page through to another one.

    A request must name this machine as its host, which keeps out a name of the attacker that
    resolves to 127.0.0.1. Everything but the page's scripts and styles needs the token: the page
    itself in its address, all else in a header that no other site can send. A write must come from
    the page's own origin.
    """

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it; part of the ASGI interface."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            status, text = refused
            answer = PlainTextResponse(text + "\n", status_code=status)
            await answer(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            return 421, "this page is for this machine alone"
        if not scope["path"].startswith("/static/") and not self._known(scope, headers):
            return 403, "no or another token; open the address that `wafer review` printed"
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("origin") != f"http://{host}":
            return 403, "a write from another page"
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, "too long, or of unknown length"
        return None

    def _known(self, scope: Scope, headers: Headers) -> bool:
        given = headers.get(TOKEN_HEADER, "")
        if scope["path"] == "/" and not given:
            query = parse_qs(urlsplit("?" + scope["query_string"].decode("latin-1")).query)
            given = query.get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self._token)
