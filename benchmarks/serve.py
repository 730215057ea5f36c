"""How `wafer serve` does under load: beside `wafer classify`, and beside the plainest peers.

    python benchmarks/serve.py FOLDER --seconds 60 --soak 100000

A real server on loopback with an audit log and `--queue` images that may wait, the shipped yolov5n,
680 px JPEGs of 112 kB. Clients are connections of one other process, which send the next image as
soon as they have an answer, or about `--again` seconds after a refusal, not all at once; its own
share of a core stands beside. The peer is FastAPI with `YOLO.predict` for each request; LitServe,
where it is installed with python-multipart, gets the same model and each image as a form, since it
takes no bare images. All ways, and the offline engine, in one run. Memory is
the sum of the PSS of all processes of the server. Prepared images and models are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.detector.shipped_bundle import shipped_bundle
from wafer.inference.bundle import open_bundle
from wafer.inference.cores import core_count
from wafer.weights.manifest import shipped

DIFFERENT = 200
JPEG_QUALITY = 90
WAFER = [sys.executable, "-P", "-c", "from wafer.cli import app; app()"]
WARM_UP = 1.0

PLAIN = """
import sys
import cv2, numpy as np, uvicorn
from fastapi import FastAPI, Request
from ultralytics import YOLO
model, size = YOLO(sys.argv[1], task="detect"), int(sys.argv[2])
app = FastAPI()
@app.post("/v1/classify")
async def classify(request: Request):
    image = cv2.imdecode(np.frombuffer(await request.body(), np.uint8), cv2.IMREAD_GRAYSCALE)
    found = model.predict(image[..., None], imgsz=size, verbose=False, device="cpu")[0]
    return {"box": found.boxes.data[:1].tolist()}
@app.get("/readyz")
async def ready():
    return "ready"
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="warning")
"""
LITSERVE = """
import sys
import cv2, litserve, numpy as np
from fastapi import UploadFile
from ultralytics import YOLO
class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = YOLO(sys.argv[1], task="detect")
    def decode_request(self, request: UploadFile):
        content = np.frombuffer(request.file.read(), np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)[..., None]
    def predict(self, image):
        return self.model.predict(image, imgsz=int(sys.argv[2]), verbose=False, device="cpu")[0]
    def encode_response(self, found):
        return {"box": found.boxes.data[:1].tolist()}
if __name__ == "__main__":
    api = Api(api_path="/v1/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False)
"""


def main() -> None:
    """Prepare what is missing, measure, print the tables; or be the clients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--again", type=float, default=1.0, help="seconds, after a refusal")
    parser.add_argument("--offline", type=int, default=2000, help="images of the offline run")
    parser.add_argument("--soak", type=int, default=0, help="requests of the run for memory")
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--form", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load is not None:
        paths = sorted((given.folder / "images").iterdir())
        images = [posted(path.read_bytes(), form=given.form) for path in paths]
        found = asyncio.run(load(given.load, images, given.number, given.seconds, given.again))
        say(json.dumps(found) + "\n")
        return
    root = given.folder.resolve()
    os.environ.update(YOLO_CONFIG_DIR=str(root / "yolo"), YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0")
    prepare(root)
    bundle = shipped_bundle(None)
    assert bundle is not None
    offline = offline_speed(root, bundle, given.offline)
    say(f"{core_count()} cores, `wafer classify` {offline:.0f} img/s, queue {given.queue}\n\n")
    say(HEAD)
    ways = {"wafer serve": serving(root, bundle, given.queue)}
    model, size = stock_model(root), str(open_bundle(bundle).description.image_size)
    ways["FastAPI + YOLO.predict"] = peer(root, PLAIN, model, size)
    if find_spec("litserve") is not None:
        ways["LitServe + YOLO.predict"] = peer(root, LITSERVE, model, size)
    for name, command in ways.items():
        form = name.startswith("LitServe")
        with running(root, command, name, form=form) as (process, port):
            for number in given.clients:
                measured = asked(root, port, number, given.seconds, given.again, form=form)
                say(line(name, number, measured, offline))
            say(f"{name}: {memory(process):.0f} MB at the end\n")
    if given.soak:
        with running(root, ways["wafer serve"], "soak") as (process, port):
            say(soak(root, process, port, given.soak, given.again))


HEAD = (
    "| way | clients | img/s | of offline | p50 ms | p95 | p99 | refused, by code | "
    "p99 of refusals | share of a core for the clients |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def line(name: str, number: int, found: dict[str, Any], offline: float) -> str:
    """Return the row of a table."""
    speed = found["answered"] / found["seconds"]
    refused = ", ".join(f"{code} {count}" for code, count in found["refused"].items()) or "-"
    p50, p95, p99 = found["milliseconds"]
    return (
        f"| {name} | {number} | {speed:.0f} | {speed / offline:.0%} | {p50:.0f} | {p95:.0f} | "
        f"{p99:.0f} | {refused} | {found['refusals']:.1f} | {found['cpu']:.0%} |\n"
    )


def prepare(root: Path) -> None:
    """Make the images that are sent, and the same under many names."""
    place = root / "images"
    if place.is_dir():
        return
    made = generate_workspace(
        root / "made", images=DIFFERENT, counts="balanced", size=680, difficulty="paper", seed=11
    )
    scratch = root / "images-unfinished"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for path in sorted(made.images.iterdir()):
        with Image.open(path) as image:
            image.save(scratch / f"{path.stem}.jpg", quality=JPEG_QUALITY)
    scratch.rename(place)


def offline_speed(root: Path, bundle: Path, number: int) -> float:
    """Return the images a second of `wafer classify`, without its start-up."""
    sources = sorted((root / "images").iterdir())

    def seconds(count: int) -> float:
        names = root / f"{count}.txt"
        names.write_text("".join(f"{sources[n % len(sources)]}\n" for n in range(count)))
        output = ["--output", str(root / "rows.csv"), "--force"]
        begin = time.monotonic()
        command = [*WAFER, "classify", str(names), "--weights", str(bundle), *output]
        subprocess.run(command, check=True, cwd=root, capture_output=True)
        return time.monotonic() - begin

    seconds(1)  # engines are probed once
    one = seconds(1)
    return (number - 1) / (seconds(number) - one)


def serving(root: Path, bundle: Path, queue: int) -> list[str]:
    """Return the command of our server."""
    own = ["--weights", str(bundle), "--audit", str(root / "audit.jsonl"), "--queue", str(queue)]
    return [*WAFER, "serve", *own, "--port", "{port}"]


def peer(root: Path, script: str, model: Path, size: str) -> list[str]:
    """Return the command of another server."""
    path = root / f"{'lit' if script is LITSERVE else 'plain'}.py"
    path.write_text(script)
    return [sys.executable, "-P", str(path), str(model), size, "{port}"]


def stock_model(root: Path) -> Path:
    """Return the shipped network as ultralytics opens it."""
    import torch

    from wafer.detector.ultralytics_adapter import VERSION, DetectionModel
    from wafer.weights.checkpoint import read_checkpoint

    weights = shipped("yolov5n")
    assert weights is not None
    path = root / f"{weights.stem}.pt"
    if not path.is_file():
        checkpoint = read_checkpoint(weights)
        names = checkpoint.classes.detector_names
        model = DetectionModel(
            f"{checkpoint.architecture}.yaml", ch=checkpoint.channels, nc=len(names), verbose=False
        )
        model.load_state_dict(dict(checkpoint.tensors))
        model.names = dict(enumerate(names))
        model.args = {"task": "detect", "imgsz": checkpoint.image_size}
        torch.save({"model": model.float(), "train_args": model.args, "version": VERSION}, path)
    return path


@contextmanager
def running(
    root: Path, command: list[str], name: str, *, form: bool = False
) -> Iterator[tuple[psutil.Process, int]]:
    """Run a server while the block runs."""
    port = random.randint(20_000, 50_000)
    with (root / f"{name.split()[0]}.log").open("w") as log:
        server = subprocess.Popen(
            [part.format(port=port) for part in command], stdout=log, stderr=log, cwd=root
        )
    try:
        image = posted(next((root / "images").iterdir()).read_bytes(), form=form)
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                if asyncio.run(once(port, image)) == 200:
                    break
            if server.poll() is not None:
                sys.exit((root / f"{name.split()[0]}.log").read_text())
            time.sleep(0.2)
        process = psutil.Process(server.pid)
        say(f"{name}: {memory(process):.0f} MB at the start\n")
        yield process, port
    finally:
        server.terminate()
        server.wait()


def memory(process: psutil.Process) -> float:
    """Return the megabytes of a process and all below it."""
    family = [process, *process.children(recursive=True)]
    return float(sum(each.memory_full_info().pss for each in family)) / 1e6


def asked(
    root: Path, port: int, number: int, seconds: float, again: float, *, form: bool = False
) -> dict[str, Any]:
    """Return what so many clients saw, which are a process of their own."""
    command = [sys.executable, "-P", __file__, str(root), "--load", str(port)]
    options = ["--number", str(number), "--seconds", str(seconds), "--again", str(again)]
    if form:
        options.append("--form")
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def soak(root: Path, process: psutil.Process, port: int, requests: int, again: float) -> str:
    """Return how memory grows from a fifth of so many requests to their end."""
    answered, early = 0, 0.0
    while answered < requests:
        answered += asked(root, port, 32, 20.0, again)["answered"]
        if not early and answered >= requests / 5:
            early = memory(process)
    late = memory(process)
    growth = late / early - 1
    return f"{answered} requests: {early:.0f} MB after a fifth, {late:.0f} MB, {growth:+.1%}\n"


async def load(
    port: int, images: list[bytes], number: int, seconds: float, again: float
) -> dict[str, Any]:
    """Be so many clients."""
    times: list[float] = []
    refusals: list[float] = []
    refused: Counter[str] = Counter()
    begin = time.monotonic() + WARM_UP
    end = begin + seconds

    async def client(which: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = which * 37
        while (start := time.monotonic()) < end:
            turn += 1
            status, body = await send(reader, writer, images[turn % len(images)])
            now = time.monotonic()
            if status != 200:
                await asyncio.sleep(again * random.uniform(0.5, 1.5))
            if start < begin or now > end:
                continue
            if status == 200:
                times.append(now - start)
            else:
                refusals.append(now - start)
                refused[json.loads(body).get("code", str(status))] += 1
        writer.close()

    usage = resource.getrusage(resource.RUSAGE_SELF)
    before, clock = usage.ru_utime + usage.ru_stime, time.monotonic()
    await asyncio.gather(*(client(which) for which in range(number)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (usage.ru_utime + usage.ru_stime - before) / (time.monotonic() - clock)
    percentiles = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    late = statistics.quantiles(refusals, n=100)[98] if len(refusals) > 1 else 0.0
    return {
        "answered": len(times),
        "seconds": seconds,
        "milliseconds": [1000 * percentiles[p - 1] for p in (50, 95, 99)],
        "refused": dict(refused),
        "refusals": 1000 * late,
        "cpu": cpu,
    }


async def once(port: int, image: bytes) -> int:
    """Send one image and return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return (await send(reader, writer, image))[0]
    finally:
        writer.close()


def posted(image: bytes, *, form: bool) -> bytes:
    """Return a request with an image as its body, or as the file of a form."""
    kind, body = "image/jpeg", image
    if form:
        kind = "multipart/form-data; boundary=----"
        head = 'Content-Disposition: form-data; name="request"; filename="image.jpg"'
        body = f"------\r\n{head}\r\n\r\n".encode() + image + b"\r\n--------\r\n"
    return (
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Send a request over an open connection, and return the status and what was said."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


def say(text: str) -> None:
    """Write a text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
