"""What tests of several rooms need."""

import shutil
from collections.abc import Iterator
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
