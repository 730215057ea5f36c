"""A workspace with small real bundles, and `wafer serve` over it: a real process on a real port."""

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.inference.bundle import (
    DESCRIPTION,
    FILES,
    GOLDEN,
    ONNX,
    PREPROCESSING,
    TOLERANCES,
    Bundle,
    Description,
)
from wafer.inference.golden import Golden
from wafer.inference.registry import add_bundle, promote
from wafer.inference.tally import Totals
from wafer.weights.decision_rule import DecisionRule

CLASSES = ClassTable(
    (DefectClass(7, "clean", "none"), DefectClass(1, "spot"), DefectClass(2, "line"))
)
SIDE = 32


def network(gain: float) -> bytes:
    """A graph whose scores and box are functions of an image's brightness."""

    def floats(name: str, *values: float) -> Any:
        return helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["grey"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["grey", "one"], ["column"]),
        helper.make_node("Div", ["column", "white"], ["features"]),
        helper.make_node("Mul", ["features", "gain"], ["bright"]),
        helper.make_node("Sub", ["full", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["scores"], axis=1),
        helper.make_node("Mul", ["bright", "scale"], ["shifts"]),
        helper.make_node("Add", ["shifts", "corner"], ["boxes"]),
    ]
    values = [floats("white", 255.0), floats("gain", gain), floats("full", 1.0)]
    values += [floats("scale", 3, 5, 3, 5), floats("corner", 2, 4, 21.3, 23.7)]
    values.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("boxes", 4), ("scores", 2), ("features", 1))
    ]
    graph = helper.make_graph(nodes, "brightness", [images], outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def golden(gain: float) -> Golden:
    pixels = np.zeros((4, SIDE, SIDE), np.uint8)
    pixels += (np.arange(4, dtype=np.uint8) * 60 + 20)[:, None, None]
    features = pixels.mean((1, 2), dtype=np.float32)[:, None] / 255
    bright = features * np.float32(gain)
    corner = np.array([2, 4, 21.3, 23.7], np.float32)
    return Golden(
        images=pixels,
        boxes=bright * np.array([3, 5, 3, 5], np.float32) + corner,
        scores=np.concatenate([bright, 1 - bright], axis=1),
        features=features,
        decided=np.ones(4, np.bool_),
    )


def make_bundle(
    models: Path, *, gain: float, said: float | None = None, usual: Totals | None = None
) -> Bundle:
    """Return a bundle; ``said`` is the gain of its golden answers, where they are wrong."""
    description = Description(
        architecture="yolov5n",
        classes=CLASSES.classes,
        image_size=SIDE,
        channels=1,
        white_level=65535,
        preprocessing=dict(PREPROCESSING),
        precision="f32",
        tolerance=TOLERANCES["f32"],
        golden_images=4,
        decision=DecisionRule(platt=(5.0, -3.0), none_review_above=0.3),
        dataset_hash="0" * 64,
        metrics={"map50": 0.5},
        training={"gain": gain},
        versions={},
        weights_sha256="1" * 64,
        licence="AGPL-3.0-or-later",
        provenance="made in a test",
        usual=usual,
    )

    def fill(folder: Path) -> None:
        for name in FILES:
            (folder / name).write_bytes(b"not used here")
        (folder / ONNX).write_bytes(network(gain))
        (folder / GOLDEN).write_bytes(golden(gain if said is None else said).to_bytes())
        (folder / DESCRIPTION).write_bytes(description.to_bytes())

    return add_bundle(models, fill)


def picture(brightness: int, *, kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    """Return an image file of one brightness with a little noise that makes it unique."""
    noise = np.random.default_rng(brightness).integers(-3, 4, (size[1], size[0]))
    pixels = (noise + brightness).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@dataclass
class Fab:
    """A workspace, its bundles, and the environment of processes that work in it."""

    workspace: Workspace
    first: Bundle
    second: Bundle
    wrong: Bundle
    environment: dict[str, str]

    @property
    def root(self) -> Path:
        return self.workspace.root

    def promote(self, bundle: Bundle) -> None:
        promote(self.workspace.models, bundle.folder.name, check=lambda bundle: None)


WAFER = str(Path(sys.executable).with_name("wafer"))


@dataclass
class Reply:
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Server:
    """A server in a process of its own."""

    process: "subprocess.Popen[str]"
    address: str
    log: Path
    key: str | None = None

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        method: str | None = None,
        chunked: bool = False,
    ) -> Reply:
        given = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                method or ("GET" if body is None else "POST"),
                path,
                body,
                {**given, **(headers or {})},
                encode_chunked=chunked,
            )
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def classify(self, body: Any, *, path: str = "/v1/classify", **more: Any) -> Reply:
        return self.ask(path, body, **more)

    def send_form(self, files: Sequence[tuple[str, bytes]], *, query: str = "") -> Reply:
        parts = [
            f'--B\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
            + content
            + b"\r\n"
            for name, content in files
        ]
        kind = {"content-type": "multipart/form-data; boundary=B"}
        body = b"".join(parts) + b"--B--\r\n"
        return self.classify(body, headers=kind, path=f"/v1/classify{query}")

    def until_ready(self) -> None:
        self.until(lambda: self.ask("/readyz").status == 200)

    def until(self, true: Callable[[], Any]) -> None:
        end = time.monotonic() + 120
        while not true():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """Return the processes of the model."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "wafer.inference.worker" in child.cmdline()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def start_server(
    environment: dict[str, str], log: Path, *options: str, folder: Path | None = None
) -> Server:
    """Start a server, in a folder where one is given."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [WAFER, "serve", "--port", "0", "--engine", "onnxruntime", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=folder,
        )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert "://127.0.0.1:" in address, log.read_text()
    return Server(process, address, log)


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory) -> Fab:
    root = tmp_path_factory.mktemp("fab")
    (root / "images").mkdir()
    (root / "images" / "a.png").write_bytes(picture(90))
    samples = [Sample("a.png", image_class="spot", annotations=None, split="train")]
    workspace = create_workspace(
        root / "w", images=root / "images", classes=CLASSES, samples=samples
    )
    models = workspace.models
    made = Fab(
        workspace,
        first=make_bundle(models, gain=1.0),
        second=make_bundle(models, gain=0.9),
        wrong=make_bundle(models, gain=0.8, said=0.7),
        environment={**os.environ, "XDG_CACHE_HOME": str(root / "cache")},
    )
    made.promote(made.first)
    return made


@pytest.fixture(scope="module")
def servers(fab: Fab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers, which end with the module."""
    begun: list[Server] = []

    def begin(*options: str) -> Server:
        log = tmp_path_factory.mktemp("log") / "log.jsonl"
        begun.append(start_server(fab.environment, log, "--workspace", str(fab.root), *options))
        return begun[-1]

    yield begin
    for server in begun:
        server.process.kill()
        server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()


@pytest.fixture(scope="session")
def shot() -> Callable[..., bytes]:
    """Return what makes an image file."""
    return picture


@pytest.fixture(scope="session")
def bundle_of() -> Callable[..., Bundle]:
    """Return what makes a bundle."""
    return make_bundle


@pytest.fixture(scope="session")
def start() -> Callable[..., Server]:
    """Return what starts a server somewhere else."""
    return start_server
