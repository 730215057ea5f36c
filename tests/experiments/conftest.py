"""What tests of several tables need."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest


class Page(HTMLParser):
    """Collects what could be fetched or run, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="session")
def page_of() -> Callable[[str], Page]:
    """Return what reads the text of a page."""
    return Page


@pytest.fixture(scope="session")
def command() -> Callable[[int, Path], list[str]]:
    """Return what makes the command of a table at scale smoke."""
    wafer = str(Path(sys.executable).with_name("wafer"))

    def made(table: int, folder: Path) -> list[str]:
        return [wafer, "reproduce", str(table), str(folder), "--scale", "smoke", "--device", "cpu"]

    return made


@pytest.fixture(scope="session")
def killed_at(command: Callable[[int, Path], list[str]]) -> Callable[[int, Path, str], None]:
    """Return what starts the command of a table and kills it as soon as a file is there."""

    def kill(table: int, folder: Path, path: str) -> None:
        process = subprocess.Popen(command(table, folder), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 900
        while not (folder / path).exists():
            assert process.poll() is None, "the command ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()

    return kill
