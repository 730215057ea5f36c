"""A server on this machine that answers as the SDK (1.7.3) expects Roboflow to answer."""

import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, create_workspace

KEY = "sEcretKey1"
NAME = "fab-9/defects"
CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "residue"),
        DefectClass(2, "scratch"),
        DefectClass(3, "deviation", "whole_image"),
    )
)
SIZE = (120, 80)


@dataclass
class Stored:
    """An image that the server has, with the boxes it has of it."""

    id: str
    name: str
    data: bytes
    split: str
    batch: str
    boxes: list[dict[str, Any]] = field(default_factory=list)
    annotated: bool = False
    queries: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Roboflow:
    """What the server holds, what it was asked, and how it is to misbehave."""

    key: str = KEY
    name: str = NAME
    url: str = ""
    public: bool = False
    kind: str = "object-detection"
    images: dict[str, Stored] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    archive: bytes = b""
    packing: int = 0
    predictions: Any = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    troubles: dict[str, list[Any]] = field(default_factory=dict)
    """For a kind of request what happens to the next ones: a status, "cut", "lose" or "html"."""

    def trouble(self, kind: str) -> Any:
        waiting = self.troubles.get(kind, [])
        return waiting.pop(0) if waiting else None

    def count(self, kind: str) -> int:
        return self.requests.count(kind)


def handler_of(remote: Roboflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer("GET")

        def do_POST(self) -> None:
            self.answer("POST")

        def answer(self, method: str) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            kind, call, arguments = self.route(method, parts.path)
            remote.requests.append(kind)
            trouble = remote.trouble(kind)
            if trouble == "cut" and kind != "download":
                self.rfile.read(min(64, int(self.headers.get("Content-Length", 0))))
                self.close_connection = True
                self.connection.close()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if isinstance(trouble, int):
                text = {"error": {"message": f"trouble {trouble}", "status": trouble}}
                self.send(trouble, text, {"Retry-After": "3"} if trouble == 429 else {})
            elif trouble == "html":
                self.send_bytes(200, b"<html>maintenance</html>", "text/html")
            elif kind != "download" and query.get("api_key") != KEY:
                self.send(401, {"error": {"message": f"no key {query.get('api_key')}"}})
            else:
                call(*arguments, query=query, body=body, trouble=trouble)

        def route(self, method: str, path: str) -> tuple[str, Callable[..., None], list[str]]:
            routes: list[tuple[str, str, str, Callable[..., None]]] = [
                ("project", "GET", rf"/{NAME}", self.project),
                ("upload", "POST", r"/dataset/defects/upload", self.upload),
                ("annotate", "POST", r"/dataset/defects/annotate/([^/]+)", self.annotate),
                ("image", "GET", rf"/{NAME}/images/([^/]+)", self.image),
                ("export", "GET", rf"/{NAME}/3/(yolov5pytorch|coco)", self.export),
                ("download", "GET", r"/archive\.zip", self.download),
                ("infer", "POST", r"/defects/3", self.infer),
            ]
            for kind, wanted, pattern, call in routes:
                match = re.fullmatch(pattern, path)
                if match and method == wanted:
                    return kind, call, list(match.groups())
            return f"unknown {method} {path}", self.missing, []

        def missing(self, **_: Any) -> None:
            self.send(404, {"error": {"message": "no such endpoint"}})

        def project(self, **_: Any) -> None:
            version = {
                **{"id": f"{NAME}/3", "augmentation": remote.augmentation, "created": 1.0},
                **{"images": 3, "preprocessing": remote.preprocessing, "splits": {}, "exports": []},
            }
            about = {
                **{"annotation": "defects", "classes": {}, "colors": {}, "created": 1.0},
                **{"id": NAME, "images": 0, "name": "defects", "public": remote.public},
                **{"splits": {}, "type": remote.kind, "unannotated": 0, "updated": 1.0},
            }
            self.send(200, {"workspace": {}, "project": about, "versions": [version]})

        def upload(self, *, query: dict[str, str], body: bytes, trouble: Any) -> None:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            fields = {
                part.get_param("name", header="content-disposition"): part
                for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()
            }
            data = fields["file"].get_payload(decode=True)
            same = next((s for s in remote.images.values() if s.data == data), None)
            if same is not None:
                self.send(200, {"duplicate": True, "id": same.id})
                return
            name = fields["name"].get_payload(decode=True).decode()
            split = fields["split"].get_payload(decode=True).decode()
            key = f"id{len(remote.requests)}"
            if trouble == "no id":
                self.send(200, {"success": True})
                return
            if trouble != "lose":
                remote.images[key] = Stored(key, name, data, split, query["batch"])
            self.send(200, {"success": True, "id": key})

        def annotate(self, key: str, *, query: dict[str, str], body: bytes, trouble: Any) -> None:
            stored = remote.images[key]
            if stored.annotated:
                self.send(409, {"error": {"message": "This image was already annotated."}})
                return
            document = json.loads(body)
            stored.queries.append(query)
            stored.bodies.append(document)
            if trouble != "lose":
                for line in document["annotationFile"].splitlines():
                    index, *shares = line.split()
                    label = document["labelmap"][index]
                    stored.boxes.append({"label": label, "shares": shares})
            self.send(200, {"success": True})

        def image(self, key: str, **_: Any) -> None:
            stored = remote.images.get(key)
            if stored is None:
                self.send(404, {"error": "Image not found"})
                return
            annotation = {"annotation": {"boxes": stored.boxes}} if stored.boxes else {}
            about = {"id": key, "name": stored.name, "split": stored.split, **annotation}
            self.send(200, {"image": about})

        def export(self, form: str, **_: Any) -> None:
            if remote.packing:
                remote.packing -= 1
                self.send(202, {"progress": 0.5})
                return
            link = f"{remote.url}/archive.zip?signature=private"
            self.send(200, {"export": {"format": form, "link": link}})

        def download(self, *, trouble: Any, **_: Any) -> None:
            if trouble != "cut":
                self.send_bytes(200, remote.archive, "application/zip")
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(remote.archive)))
            self.end_headers()
            self.wfile.write(remote.archive[: len(remote.archive) // 2])
            self.close_connection = True

        def infer(self, *, query: dict[str, str], body: bytes, **_: Any) -> None:
            remote.images["asked"] = Stored("asked", "", body, "", "", queries=[query])
            size = {"width": SIZE[0], "height": SIZE[1]}
            self.send(200, {"time": 0.1, "image": size, "predictions": remote.predictions})

        def send(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(document).encode()
            self.send_bytes(status, data, "application/json", headers)

        def send_bytes(
            self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Roboflow]:
    """A running server; the SDK of this process and of its children talks to it alone."""
    from wafer.labelling.exchange.roboflow import sdk

    state = Roboflow()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(state))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_URL", state.url)
        patch.setenv("OBJECT_DETECTION_URL", state.url)
        patch.setenv("ROBOFLOW_API_KEY", KEY)
        patch.setenv("ROBOFLOW_CONFIG_DIR", str(tmp_path / "no-roboflow-config.json"))
        sdk.config.refresh_region_urls()
        yield state
    sdk.config.refresh_region_urls()
    server.shutdown()
    thread.join()
    server.server_close()


def picture(number: int) -> np.ndarray:
    blocks = np.random.default_rng(number).integers(40, 216, (8, 12), dtype=np.uint8)
    return np.kron(blocks, np.ones((10, 10), np.uint8))


SAMPLES = (
    Sample("lot1/a.png", "residue", None, None, "train"),
    Sample("lot2/a.png", "scratch", None, None, "val"),
    Sample("b ü.png", "residue", None, None, "train"),
    Sample("c.png", "clean", None, None, "train"),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "w"
    for number, sample in enumerate(SAMPLES):
        path = root / "images" / sample.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)
    return create_workspace(root, images=root / "images", classes=CLASSES, samples=SAMPLES)


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that were waited for, were it not a test."""
    return []


Boxes = dict[str, list[tuple[str, tuple[float, float, float, float]]] | None]
"""For each exported file its boxes as class and corners in pixels; None is a missing label."""


@dataclass
class Exported:
    """Files as Roboflow exports them: resized, re-encoded, renamed, in folders of splits."""

    workspace: Workspace
    size: tuple[int, int] = (160, 160)
    names: tuple[str, ...] = ("scratch", "residue")
    extra: dict[str, bytes] = field(default_factory=dict)

    def name(self, image: str) -> str:
        digest = self.workspace.image_cache().sha256(image)[:12]
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", image.removesuffix(".png")).strip("-")
        return f"{stem}-{digest}_png.rf.{digest[::-1]}ab.jpg"

    def picture(self, image: str, change: Callable[[Any], Any] = lambda pixels: pixels) -> bytes:
        with Image.open(self.workspace.image_path(image)) as original:
            pixels = np.ascontiguousarray(change(np.asarray(original)))
        out = io.BytesIO()
        Image.fromarray(pixels).resize(self.size).save(out, "JPEG", quality=85)
        return out.getvalue()

    def files(self, boxes: Boxes) -> dict[str, tuple[str, bytes]]:
        return {image: (self.name(image), self.picture(image)) for image in boxes}

    def yolo(self, boxes: Boxes, files: dict[str, tuple[str, bytes]] | None = None) -> bytes:
        packed: dict[str, bytes] = {"README.roboflow.txt": b"defects - v3\n\n * Resize to 160\n"}
        names = ", ".join(f"'{name}'" for name in self.names)
        packed["data.yaml"] = (
            "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
            f"nc: {len(self.names)}\nnames: [{names}]\n\nroboflow:\n  version: 3\n"
        ).encode()
        for image, (name, data) in (files or self.files(boxes)).items():
            packed[f"train/images/{name}"] = data
            found = boxes[image]
            if found is not None:
                lines = [self.line(*each) for each in found]
                label = name.removesuffix(".jpg")
                packed[f"train/labels/{label}.txt"] = "\n".join(lines).encode()
        return pack({**packed, **self.extra})

    def line(self, name: str, corners: tuple[float, float, float, float]) -> str:
        x0, y0, x1, y1 = corners
        width, height = SIZE
        shares = (
            (x0 + x1) / 2 / width,
            (y0 + y1) / 2 / height,
            (x1 - x0) / width,
            (y1 - y0) / height,
        )
        return " ".join([str(self.names.index(name)), *map(repr, shares)])

    def coco(self, boxes: Boxes) -> bytes:
        scale = self.size[0] / SIZE[0], self.size[1] / SIZE[1]
        categories = [{"id": 0, "name": "defects", "supercategory": "none"}]
        categories += [
            {"id": i, "name": name, "supercategory": "defects"}
            for i, name in enumerate(self.names, 1)
        ]
        images, annotations, packed = [], [], {}
        for number, (image, (name, data)) in enumerate(self.files(boxes).items()):
            packed[f"train/{name}"] = data
            width, height = self.size
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for class_name, (x0, y0, x1, y1) in boxes[image] or ():
                bbox = [x0 * scale[0], y0 * scale[1], (x1 - x0) * scale[0], (y1 - y0) * scale[1]]
                annotations.append(
                    {
                        **{"id": len(annotations), "image_id": number, "bbox": bbox},
                        **{"category_id": self.names.index(class_name) + 1, "iscrowd": 0},
                    }
                )
        document = {"images": images, "annotations": annotations, "categories": categories}
        packed["train/_annotations.coco.json"] = json.dumps(document).encode()
        return pack({**packed, **self.extra})


def pack(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture
def exported(workspace: Workspace) -> Exported:
    return Exported(workspace)
