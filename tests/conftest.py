"""What tests of several rooms need."""

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

# Other work on the machine is no fault of a test; pyproject.toml limits how long any one takes.
settings.register_profile("wafer", deadline=None)
settings.load_profile("wafer")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Chromium that is installed; tests are skipped where none is."""
    reason = "playwright is not installed"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


async def _sends_at_once(listener: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bool] = loop.create_future()

    class Seen(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connection = transport.get_extra_info("socket")
            option = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            found.set_result(option != 0)

    server = await loop.create_server(Seen, sock=listener)
    with socket.create_connection(listener.getsockname()[:2]):
        await found
    server.close()
    return found.result()


@pytest.fixture(scope="session")
def sends_at_once() -> Callable[[socket.socket], bool]:
    """Return what says whether asyncio sends small pieces at once over a listening socket."""
    return lambda listener: asyncio.run(_sends_at_once(listener))
