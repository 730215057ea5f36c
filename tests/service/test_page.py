"""The page in a real Chromium: files, keyboard, a key, and nothing from anywhere else."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wafer.service.keys import KEYS, add_key, revoke_key

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(180)]
STATIC = Path(__file__).parents[2] / "service" / "web" / "static"
WAIT = 60_000


@pytest.fixture(scope="module")
def server(servers: Callable[..., Any]) -> Any:
    server = servers("--deadline", "60")
    server.until_ready()
    return server


@pytest.fixture
def tab(chromium: Any, server: Any) -> Iterator[Any]:
    """The page, open; what it complains of, or fetches from elsewhere, fails the test."""
    context = chromium.new_context()
    tab = context.new_page()
    tab.set_default_timeout(WAIT)
    troubles: list[str] = []
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("console", lambda m: troubles.append(m.text) if "Security Policy" in m.text else None)
    tab.on(
        "request",
        lambda r: (
            None if r.url.startswith((server.address, "blob:", "data:")) else troubles.append(r.url)
        ),
    )
    tab.goto(server.address)
    yield tab
    context.close()
    assert troubles == []


def given(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"name": name, "mimeType": "image/png", "buffer": content}
        for name, content in files.items()
    ]


def test_images_get_their_box_class_confidence_and_decision(
    fab: Any, tab: Any, server: Any, shot: Callable[..., bytes]
) -> None:
    image = shot(220, size=(64, 48))
    expected = server.classify(image).json
    tab.locator("#model", has_text=fab.first.label).wait_for()
    tab.locator("#files").set_input_files(
        given({"spot.png": image, "none.png": shot(150), "text.png": b"not an image"})
    )
    tab.locator("#status", has_text="3 of 3 answered").wait_for()
    card = tab.locator("li[data-name='spot.png']")
    rectangle = card.locator("rect")
    rectangle.wait_for(state="attached")
    corners = [float(rectangle.get_attribute(n)) for n in ("x", "y", "width", "height")]
    xmin, ymin, xmax, ymax = expected["vector"][:4]
    assert corners == pytest.approx([xmin, ymin, xmax - xmin, ymax - ymin])
    assert card.locator("svg").get_attribute("viewBox") == "0 0 64 48"
    shown = card.locator(".facts p").all_inner_texts()
    assert shown[:3] == ["spot", f"{expected['confidence'] * 100:.1f} %", "auto"]
    picture, drawing = card.locator("img").bounding_box(), card.locator("svg").bounding_box()
    assert picture == pytest.approx(drawing, abs=1)
    none = tab.locator("li[data-name='none.png']")
    assert none.locator(".class").inner_text() == "clean"
    assert none.locator("rect").count() == 0
    assert "not a PNG, JPEG" in tab.locator("li[data-name='text.png'] .error").inner_text()
    counts = {tuple(t.split("\t")) for t in tab.locator("#counts tr").all_inner_texts()}
    assert ("spot", "1", "0") in counts
    assert ("(no answer)", "1", "1") in counts
    tab.locator("#clear").press("Enter")
    assert tab.locator("#results li").count() == 0


def test_dropped_files_are_answered_too(tab: Any, shot: Callable[..., bytes]) -> None:
    tab.evaluate(
        """content => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "dropped.png"));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        list(shot(210)),
    )
    facts = tab.locator("li[data-name='dropped.png'] .facts p")
    facts.first.wait_for()
    assert facts.all_inner_texts()[0] == "spot"


def test_with_the_keyboard_alone_a_key_is_given_and_files_are_chosen(
    fab: Any, tab: Any, server: Any, shot: Callable[..., bytes]
) -> None:
    """The last test: from here on the server wants a key."""
    key = add_key(fab.root / KEYS, "page")
    choosers: list[Any] = []
    # From the beginning: asked for only when it opens, a chooser may open before the browser knows.
    tab.on("filechooser", lambda chooser: choosers.append(chooser))
    try:
        tab.locator("#files").set_input_files(given({"a.png": shot(220)}))
        tab.locator("#key:focus").wait_for()
        tab.keyboard.type("wrong")
        tab.keyboard.press("Enter")
        tab.locator("#status", has_text="not known").wait_for()
        tab.locator("#key").fill(key)
        tab.keyboard.press("Enter")
        tab.locator("li[data-name='a.png'] .class", has_text="spot").wait_for()
        tab.locator("#files:focus").wait_for()
        tab.keyboard.press("Enter")
        server.until(lambda: tab.wait_for_timeout(20) or choosers)
        choosers[0].set_files(given({"b.png": shot(215)}))
        tab.locator("li[data-name='b.png'] .class", has_text="spot").wait_for()
        names = tab.locator("#results li").evaluate_all("all => all.map(one => one.dataset.name)")
        assert sorted(names) == ["a.png", "b.png"]
    finally:
        revoke_key(fab.root / KEYS, "page")


def test_the_page_holds_no_script_of_its_own_and_names_no_other_site() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page) == []
    for path in STATIC.iterdir():
        links = set(re.findall(r"https?://[^\"'\s)]+", path.read_text()))
        assert links <= {"http://www.w3.org/2000/svg"}, path
