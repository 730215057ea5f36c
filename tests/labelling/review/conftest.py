"""A workspace with a queue and seeds, and a page over it: a real process on a real port."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.labelling.ledger import Ledger
from wafer.labelling.queue import Candidate, Queue, QueueItem, write_queue
from wafer.labelling.review.desk import Desk
from wafer.labelling.review.server import listening, make_server, review_token

CLASSES = ClassTable(
    (
        DefectClass(0, "ok", "none"),
        DefectClass(1, "bright"),
        DefectClass(2, "dark"),
        DefectClass(3, "shift", "whole_image"),
    )
)
SIDE = 680
# Corners as a model leaves them, which no screen shows exactly.
FIRST, SECOND = (100.25, 120.5, 220.125, 260.75), (400.3333333333333, 50.1, 480.7, 90.9)


def candidate(box: tuple[float, float, float, float], name: str, **more: Any) -> Candidate:
    values = {"raw": 0.7, "probability": 0.62, "votes": 0.5, "spread": 0.1, "proposed": True}
    return Candidate(box=box, class_name=name, **{**values, **more})


def item(image: str, name: str, *candidates: Candidate, **more: Any) -> QueueItem:
    values: dict[str, Any] = {
        "kind": "boxes",
        "reason": "a box is doubtful",
        "image_class": name,
        "class_name": name,
        "probability": 0.4,
        "priority": 0.5,
        "seconds": 10.0,
        "revision": 0,
    }
    return QueueItem(image=image, candidates=candidates, **{**values, **more})


def make_workspace(root: Path) -> Workspace:
    """Five images to review, two to draw, three drawn by a person."""
    images = root / "pictures"
    (images / "lot 1").mkdir(parents=True)
    noise = np.random.default_rng(0)
    samples = []
    drawn = {f"d{k}.png": (Annotation(Box(10, 20, 110, 140), "bright"),) for k in range(3)}
    named = {"q0.png": "bright", "lot 1/q 1&=.png": "bright", "q2.png": "dark", "n.png": "ok"}
    named |= dict.fromkeys(drawn, "bright") | {"s0.png": "dark", "s1.png": "bright"}
    for image, name in named.items():
        pixels = noise.normal(120, 6, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / image)
        samples.append(Sample(image, image_class=name, annotations=drawn.get(image), split="train"))
    workspace = create_workspace(root / "w", images=images, classes=CLASSES, samples=samples)
    Ledger(workspace).adopt(who="Ada")
    doubtful = candidate(SECOND, "bright", proposed=False, probability=0.3)
    items = (
        item("q0.png", "bright", candidate(FIRST, "bright"), doubtful),
        item("lot 1/q 1&=.png", "bright", candidate(SECOND, "bright", proposed=False)),
        item("d1.png", "bright", revision=1, kind="suspicion", drawn=(10.0, 20.0, 110.0, 140.0)),
        item("q2.png", "dark", candidate(FIRST, "dark"), other="bright", kind="class"),
        item("n.png", "ok", revision=1, kind="class", reason="said to be empty", other="dark"),
    )
    run = workspace.root / "runs" / "propagate" / "yolov5n-001"
    run.mkdir(parents=True)
    record = {"status": "finished", "started": "2026-11-01T00:00:00", "model": "yolov5n"}
    (run / "run.json").write_text(json.dumps(record))
    write_queue(Queue("yolov5n-001", "ab" * 32, 1, items), run / "queue.json")
    (workspace.root / "seed.csv").write_text(
        "image,class,split\ns0.png,dark,train\ns1.png,bright,train\n"
    )
    return workspace


@dataclass
class Page:
    """A server, in a process of its own or, which begins faster, in a thread."""

    address: str
    process: "subprocess.Popen[str] | None" = None

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.address).query)["token"][0]

    def ask(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return status and answer; a body makes it a POST of the page itself."""
        given = {"x-wafer-token": self.token, "origin": f"http://127.0.0.1:{self.port}"}
        given |= {"content-type": "application/json"} | (headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, given)
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        is_json = "json" in response.headers.get("content-type", "")
        return response.status, json.loads(raw) if is_json else raw

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)


def start_page(workspace: Workspace, *, port: int = 0) -> Page:
    """Start `wafer review` and return when it has said where it is."""
    command = [str(Path(sys.executable).with_name("wafer")), "review", "--who", "Ada"]
    command += ["--port", str(port), "--workspace", str(workspace.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:"), process.wait()
    assert review_token(workspace) in address
    return Page(address, process)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


@pytest.fixture
def renew_queue(workspace: Workspace) -> Callable[[], None]:
    """Return what puts another queue into the place of the first, as after a new propagation."""

    def renew() -> None:
        items = (item("q0.png", "bright", candidate((1.5, 2.5, 30.5, 40.5), "bright")),)
        path = workspace.root / "runs" / "propagate" / "yolov5n-001" / "queue.json"
        write_queue(Queue("yolov5n-001", "cd" * 32, 1, items), path)

    return renew


@contextmanager
def threaded_page(workspace: Workspace) -> Iterator[Page]:
    """Serve the page from a thread, on a real socket."""
    token = review_token(workspace)
    server = make_server(Desk(workspace), token=token, who="Ada")
    with listening(0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Page(f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}")
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def pages() -> Iterator[Callable[..., Page]]:
    """Start pages in processes, which end with the test."""
    begun: list[Page] = []

    def begin(workspace: Workspace, *, port: int = 0) -> Page:
        begun.append(start_page(workspace, port=port))
        return begun[-1]

    yield begin
    for page in begun:
        page.kill()
        assert page.process is not None
        assert page.process.stdout is not None
        page.process.stdout.close()


@pytest.fixture
def serving() -> Callable[[Workspace], AbstractContextManager[Page]]:
    """Return what serves the page of a workspace as long as it is asked to."""
    return threaded_page


@pytest.fixture
def page(workspace: Workspace) -> Iterator[Page]:
    with threaded_page(workspace) as page:
        yield page
