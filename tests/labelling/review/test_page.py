"""The page in a real Chromium: mouse, keyboard, reload, two windows, a server that goes away."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wafer.datasets.workspace import Workspace
from wafer.labelling.ledger import Ledger

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # A selector that is found too late is a failure, not a longer wait.
    pytest.mark.timeout(180),
]
SMALL, LARGE = (640, 480), (1280, 800)


class Window:
    """One window of the page, and what a test asks of it."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int], scale: float) -> None:
        view = {"width": size[0], "height": size[1]}
        self.context = browser.new_context(viewport=view, device_scale_factor=scale)
        self.tab = self.context.new_page()
        self.troubles: list[str] = []
        self.tab.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.tab.on("console", self._console)
        self.tab.goto(address)
        self.at("q0.png")

    def _console(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.troubles.append(message.text)

    def at(self, image: str) -> None:
        """Wait until an image is there with its pixels."""
        self.tab.wait_for_function(
            "image => document.querySelector('#name').textContent === image"
            " && !document.querySelector('#picture').hidden"
            " && !document.body.classList.contains('busy')",
            arg=image,
        )

    def says(self, text: str) -> None:
        self.tab.wait_for_function(
            "text => document.querySelector('#status').textContent.includes(text)", arg=text
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the image is in the window, by the image's own rectangle."""
        box = self.tab.locator("#picture").bounding_box()
        return box["x"] + x * box["width"] / 680, box["y"] + y * box["height"] / 680

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.tab.mouse
        mouse.move(*self.place(*start))
        mouse.down()
        mouse.move(*self.place(*[(a + b) / 2 for a, b in zip(start, end, strict=True)]))
        mouse.move(*self.place(*end))
        mouse.up()

    def click(self, x: float, y: float) -> None:
        self.tab.mouse.click(*self.place(x, y))

    def boxes(self) -> list[tuple[str, str]]:
        """Return the listed boxes: taken or offered, and the corners."""
        rows = self.tab.locator("#box-list li[title]").evaluate_all("r => r.map(e => e.title)")
        return [(t.split(":")[0].split(";")[0], t.split(": ")[1]) for t in rows]


@pytest.fixture
def window(chromium: Any, page: Any) -> Iterator[Callable[..., Window]]:
    opened: list[Window] = []

    def begin(
        size: tuple[int, int] = LARGE, *, scale: float = 1, address: str | None = None
    ) -> Window:
        opened.append(Window(chromium, address or page.address, size, scale))
        return opened[-1]

    yield begin
    for each in opened:
        assert each.troubles == []
        each.context.close()


def boxes_of(workspace: Workspace, image: str) -> list[tuple[Any, ...]]:
    state = Ledger(workspace).states()[image]
    return [(e.decision, e.source, e.class_name, e.box) for e in state.entries]


def near(box: Any, wanted: tuple[float, ...], away: float) -> bool:
    return all(abs(a - b) <= away for a, b in zip(box, wanted, strict=True))


@pytest.mark.parametrize(
    ("size", "scale", "away"),
    [(LARGE, 1, 1), (SMALL, 1, 2), ((400, 300), 1, 4), (SMALL, 1.5, 2), ((1920, 1080), 2, 1)],
)
def test_drawing_gives_the_pixels_under_the_pointer_in_any_window(
    window: Any, workspace: Workspace, size: tuple[int, int], scale: float, away: float
) -> None:
    view = window(size, scale=scale)
    view.drag((300, 310), (420, 450))
    view.press("2", "Enter")
    view.at("lot 1/q 1&=.png")
    kept, drawn = boxes_of(workspace, "q0.png")
    assert kept[3] == (100.25, 120.5, 220.125, 260.75)
    assert drawn[:3] == ("drawn", "human", "dark")
    assert all(value == int(value) for value in drawn[3])
    assert near(drawn[3], (300, 310, 420, 450), away)


def test_zoomed_in_every_pixel_is_exact(window: Any, workspace: Workspace) -> None:
    view = window(SMALL)
    view.tab.mouse.move(*view.place(340, 340))
    for _ in range(6):
        view.tab.mouse.wheel(0, -200)
    assert view.tab.locator("#picture").bounding_box()["width"] > 680 * 4
    view.drag((331.1, 332.9), (350.2, 347.8))
    view.press("Enter")
    view.at("lot 1/q 1&=.png")
    assert boxes_of(workspace, "q0.png")[1][3] == (331, 333, 350, 348)


def test_a_box_is_moved_resized_and_stays_in_the_image(window: Any, workspace: Workspace) -> None:
    view = window()
    view.click(160, 190)
    view.drag((160, 190), (170, 190))  # moves, by whole pixels
    view.drag((230.125, 260.75), (250, 300))  # the lower right corner
    view.press("Enter")
    view.at("lot 1/q 1&=.png")
    (moved,) = boxes_of(workspace, "q0.png")
    assert moved[:3] == ("edited", "model+edited", "bright")
    x0, y0, x1, y1 = moved[3]
    assert (x0 % 1, y0) == (0.25, 120.5)
    assert near((x0, x1, y1), (110.25, 250, 300), 1)
    assert (x1 % 1, y1 % 1) == (0, 0)
    view.press("U")
    view.at("q0.png")
    view.click(160, 190)
    view.drag((160, 190), (-400, -400))
    view.press("Enter")
    view.at("lot 1/q 1&=.png")
    (moved,) = boxes_of(workspace, "q0.png")
    assert moved[3][:2] == (0, 0)
    assert moved[3][2:] == pytest.approx((x1 - x0, y1 - y0))


def test_delete_class_and_undo(window: Any, workspace: Workspace) -> None:
    view = window()
    first = view.boxes()
    assert [state for state, _ in first] == ["taken", "offered"]
    view.drag((300, 310), (420, 450))
    assert len(view.boxes()) == 3
    view.press("Delete")
    assert view.boxes() == first
    view.press("u")
    assert len(view.boxes()) == 3
    view.press("u")
    assert view.boxes() == first
    view.click(160, 190)
    view.press("x")
    assert [state for state, _ in view.boxes()] == ["offered", "offered"]
    view.press("Enter")
    view.says("No box is taken")
    view.press("Control+z")
    assert view.boxes() == first
    view.press("2", "Enter")
    view.at("lot 1/q 1&=.png")
    assert [each[:3] for each in boxes_of(workspace, "q0.png")] == [
        ("edited", "model+edited", "dark")
    ]


def test_a_box_is_drawn_anew(window: Any, workspace: Workspace) -> None:
    view = window()
    view.press("Tab", "e")
    view.drag((500, 500), (600, 650))
    view.press("Enter")
    view.at("lot 1/q 1&=.png")
    ((decision, source, _, box),) = boxes_of(workspace, "q0.png")
    assert (decision, source) == ("edited", "model+edited")
    assert near(box, (500, 500, 600, 650), 1)


def test_all_of_the_queue_and_the_seeds_by_keyboard_alone(
    window: Any, workspace: Workspace
) -> None:
    view = window()
    view.press("Tab", "Tab", "Space")  # takes the offered box
    view.press("Tab", "ArrowRight", "Control+ArrowDown", "Shift+ArrowRight", "Enter")
    view.at("lot 1/q 1&=.png")
    first, second = boxes_of(workspace, "q0.png")
    assert first[3] == (101.25, 130.5, 222, 270.75)
    assert second[:2] == ("confirmed", "model+confirmed")
    view.press("n")
    view.at("d1.png")
    assert boxes_of(workspace, "lot 1/q 1&=.png")[0][0] == "empty"
    view.press("s")  # passed over
    view.at("d1.png")  # the last of its class: the next class begins after it
    view.press("G")
    view.at("q2.png")
    view.press("1", "Enter")
    view.at("n.png")
    assert boxes_of(workspace, "q2.png")[0][2] == "bright"
    view.press("d", "Enter")
    view.says("change the class in image_labels.csv")
    view.press("n")
    view.at("d1.png")
    view.press("Enter")
    view.tab.wait_for_selector("#empty:has-text('Nothing is left here')")
    assert boxes_of(workspace, "d1.png")[0][:2] == ("confirmed", "human")
    view.press("q")
    view.at("s0.png")
    view.press("d", "ArrowLeft", "3", "Enter")
    view.at("s1.png")
    assert boxes_of(workspace, "s0.png") == [("drawn", "human", "shift", (0.0, 0.0, 680.0, 680.0))]
    view.press("d", "Control+ArrowLeft", "Enter")
    view.tab.wait_for_selector("#empty:has-text('Nothing is left here')")
    assert boxes_of(workspace, "s1.png") == [("drawn", "human", "bright", (245, 255, 415, 425))]
    view.press("u")
    view.at("s1.png")
    assert view.boxes() == [("taken", "245, 255, 415, 425")]
    assert Ledger(workspace).states()["s1.png"].annotations is None


def test_what_is_drawn_and_where_one_was_survive_a_reload(
    window: Any, workspace: Workspace
) -> None:
    view = window()
    view.press("Enter")
    view.at("lot 1/q 1&=.png")
    view.drag((300, 310), (420, 450))
    before = view.boxes()
    view.tab.reload()
    view.at("lot 1/q 1&=.png")
    view.says("Your boxes of before are back")
    assert view.boxes() == before
    view.press("u")
    assert [state for state, _ in view.boxes()] == ["offered"]
    view.press("u")  # the decision before the reload
    view.at("q0.png")
    assert Ledger(workspace).states()["q0.png"].annotations is None


def test_who_is_second_keeps_the_boxes_and_chooses(window: Any, workspace: Workspace) -> None:
    ada = window()
    ada.drag((300, 310), (420, 450))
    ada.press("x")
    ada.press("d")
    mine = ada.boxes()
    # Another person who opened the image before either had recorded anything.
    task = {"pile": "queue", "image": "q0.png", "session": "grace-001", "who": "Grace"}
    ada.tab.evaluate(
        """async body => {
          const token = new URLSearchParams(location.search).get("token");
          const headers = {"x-wafer-token": token, "content-type": "application/json"};
          const boxes = [{box: [1, 2, 30, 40], class_name: "dark"}];
          const sent = JSON.stringify({...body, revision: 0, boxes});
          await fetch("/api/decide", {method: "POST", headers, body: sent});
        }""",
        task,
    )
    ada.press("Enter")
    ada.says("Not recorded: this image was changed meanwhile")
    assert "Grace changed this image" in ada.tab.inner_text("#banner")
    assert ada.boxes() == mine
    assert [e[0] for e in boxes_of(workspace, "q0.png")] == ["drawn"]
    ada.tab.reload()
    ada.at("q0.png")
    ada.says("Not recorded")
    assert ada.boxes() == mine
    ada.press("Enter")
    ada.at("lot 1/q 1&=.png")
    now = boxes_of(workspace, "q0.png")
    assert [each[0] for each in now] == ["confirmed", "drawn", "rejected"]


def test_what_is_drawn_while_an_image_is_recorded_changes_nothing(
    window: Any, workspace: Workspace
) -> None:
    ada = window()
    routes: list[Any] = []
    ada.tab.route("**/api/decide", lambda route: routes.append(route))
    before = ada.boxes()
    with ada.tab.expect_request("**/api/decide"):
        ada.press("Enter")
    ada.drag((300, 310), (420, 450))
    ada.press("d", "Tab", "Space", "u")
    assert ada.boxes() == before
    routes[0].continue_()
    ada.at("lot 1/q 1&=.png")
    assert [each[0] for each in boxes_of(workspace, "q0.png")] == ["confirmed"]
    assert ada.tab.evaluate("Object.keys(localStorage).filter(k => k.includes('q0.png'))") == []


def test_a_queue_that_was_renewed_meanwhile_asks_again(
    window: Any, page: Any, workspace: Workspace, renew_queue: Callable[[], None]
) -> None:
    ada = window()
    (mine, _) = ada.boxes()
    renew_queue()
    page.ask("/api/start")  # the server reads it again
    ada.press("Enter")
    ada.says("other boxes are offered for q0.png by now. Enter records yours, R shows the new")
    assert ada.boxes() == [mine]
    assert "q0.png" not in Ledger(workspace).states()
    ada.press("r")
    ada.says("as it came")
    assert ada.boxes() == [("taken", "1.5, 2.5, 30.5, 40.5")]
    ada.press("Enter")
    ada.says("recorded")
    (recorded,) = boxes_of(workspace, "q0.png")
    assert recorded == ("confirmed", "model+confirmed", "bright", (1.5, 2.5, 30.5, 40.5))


def test_a_server_that_is_killed_and_started_again(
    chromium: Any, workspace: Workspace, pages: Any
) -> None:
    page = pages(workspace)
    view = Window(chromium, page.address, LARGE, 1)
    view.drag((300, 310), (420, 450))
    before = view.boxes()
    page.kill()
    view.press("Enter")
    view.says("The server cannot be reached")
    assert view.boxes() == before
    pages(workspace, port=page.port)
    view.says("The server is back")
    view.press("Enter")
    view.at("lot 1/q 1&=.png")
    assert len(boxes_of(workspace, "q0.png")) == 2
    assert view.troubles == []
    view.context.close()


def test_brightness_contrast_zoom_and_hidden_boxes(window: Any) -> None:
    view = window()
    style = "getComputedStyle(document.querySelector('#picture')).filter"
    view.press("b", "c", "c")
    assert view.tab.evaluate(style) == "brightness(1.15) contrast(1.44)"
    width = view.tab.locator("#picture").bounding_box()["width"]
    view.press("+")
    assert view.tab.locator("#picture").bounding_box()["width"] == pytest.approx(
        width * 1.4, rel=1e-4
    )
    view.press("0")
    assert view.tab.evaluate(style) == "brightness(1) contrast(1)"
    assert view.tab.locator("#picture").bounding_box()["width"] == pytest.approx(width, rel=1e-4)
    view.tab.keyboard.down("h")
    assert not view.tab.locator("#boxes").is_visible()
    view.tab.keyboard.up("h")
    assert view.tab.locator("#boxes").is_visible()
    prevented = """([key, ctrlKey]) =>
      !document.dispatchEvent(new KeyboardEvent("keydown", {key, ctrlKey, cancelable: true}))"""
    taken = {key: view.tab.evaluate(prevented, [key, False]) for key in "+-0"}
    assert taken == {"+": True, "-": True, "0": True}
    left_to_the_browser = [view.tab.evaluate(prevented, [key, True]) for key in "+-0"]
    assert left_to_the_browser == [False, False, False]


def test_the_name_goes_into_the_ledger(window: Any, workspace: Workspace) -> None:
    view = window()
    view.press("w")
    view.tab.keyboard.type("Grace")
    view.press("Enter", "Enter")
    view.at("lot 1/q 1&=.png")
    assert Ledger(workspace).states()["q0.png"].entries[0].who == "Grace"
