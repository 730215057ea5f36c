"""How fast `wafer classify` is: beside ultralytics, and beside what the machine could do at all.

    python benchmarks/inference.py FOLDER --images 5000 --rounds 3
    python benchmarks/inference.py FOLDER --images 5000 --kind png680 --model yolov5s

Synthetic images of three kinds (680 px JPEG, 680 px PNG, 200 px PNG), 256 px, one class table. The
shipped yolov5n, or a yolov5s with random weights, which takes as long as a trained one. Every way
is a whole process, all in turn in each round; img/s are (images - 1) / (time of all - time of one),
so that start-up, which stands in a column of its own, is not in them. The stock ways are
ultralytics' `predict` streaming a folder without saving pictures, from the very same weights.

The floor is decoding, resizing and the network in one bare loop on each core, without rows, files,
or order; `decode` and `network` are its halves. Memory is the largest sum of the PSS of all
processes of a command, sampled. Agreement is that of the best boxes of both, on every image.
Prepared images and models are kept in FOLDER; the times are measured anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from wafer.datasets.images import decode_bytes
from wafer.datasets.records import Box
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.cores import core_count
from wafer.inference.engines.choosing import BACKENDS
from wafer.inference.preprocess import letterbox, to_original
from wafer.weights.manifest import shipped

KINDS = {"jpeg680": (680, ".jpg"), "png680": (680, ".png"), "png200": (200, ".png")}
PRECISIONS = ("f32", "bf16", "int8")
BATCH = 16
FLOOR_SECONDS = 10.0
LATENCIES = 200
JPEG_QUALITY = 90
LEAST = 0.001
"""Stock is asked for boxes of this score or more (`STOCK`)."""

STOCK = """
import json, sys
from ultralytics import YOLO
model, source, size, batch, out = sys.argv[1:]
options = {} if batch == "default" else {"batch": int(batch)}
found = YOLO(model, task="detect").predict(
    source, imgsz=int(size), stream=True, verbose=False, save=False, device="cpu", conf=0.001,
    **options,
)
with open(out, "w") as file:
    for result in found:
        best = result.boxes.data[:1].tolist()
        file.write(json.dumps([result.path, best[0] if best else None]) + "\\n")
"""
STOCK_LATENCY = """
import json, sys, time
from ultralytics import YOLO
model, source, size, number = sys.argv[1:]
network, times = YOLO(model, task="detect"), []
for _ in range(int(number)):
    start = time.perf_counter()
    network.predict(source, imgsz=int(size), verbose=False, device="cpu")
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""
EXPORT = """
import sys
from ultralytics import YOLO
YOLO(sys.argv[1]).export(format="openvino", imgsz=int(sys.argv[2]))
"""

Run = Callable[[Path, Path], list[str]]
"""Makes the command that answers for a folder of images into a file."""


def main() -> None:
    """Prepare what is missing, measure, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kind", choices=KINDS, default="jpeg680")
    parser.add_argument("--model", choices=("yolov5n", "yolov5s"), default="yolov5n")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    root = given.folder.resolve()
    os.environ.update(YOLO_CONFIG_DIR=str(root / "yolo"), YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0")
    workspace = images(root, given.kind, given.images)
    weights = model_file(root, given.model, workspace)
    bundles = all_bundles(root, workspace, weights)
    stock = stock_model(root, weights)
    one = root / f"one-{given.kind}"
    with suppress(FileExistsError):
        one.mkdir()
        first = sorted(workspace.images.iterdir())[0]
        shutil.copy(first, one / first.name)
    ways = all_ways(weights, bundles, stock)
    rows = measured(ways, workspace.images, one, root / "out", given.images, given.rounds)
    floors = {p: floor(b, workspace.images) for p, b in bundles.items() if p in usable(bundles)}
    say(f"{given.model}, {given.kind}, {given.images} images, {core_count()} cores\n")
    say(speed_table(rows, floors))
    say(latency_table(bundles["f32"], stock, next(one.iterdir())))
    answers = root / "out" / "stock batch 16.all"
    say(agreement(bundles["f32"], workspace.images, answers))


def images(root: Path, kind: str, number: int) -> Workspace:
    """Return a workspace of so many different images of a kind."""
    size, suffix = KINDS[kind]
    place = root / f"{kind}-{number}"
    if not (place / "done").is_file():
        shutil.rmtree(place, ignore_errors=True)
        made = generate_workspace(
            place, images=number, counts="balanced", size=size, difficulty="paper", seed=11
        )
        if suffix == ".jpg":
            for path in list(made.images.rglob("*.png")):
                with Image.open(path) as image:
                    image.save(path.with_suffix(suffix), quality=JPEG_QUALITY)
                path.unlink()
            labels = place / "image_labels.csv"
            labels.write_text(labels.read_text().replace(".png", suffix))
        (place / "done").touch()
    return open_workspace(place)


def model_file(root: Path, name: str, workspace: Workspace) -> Path:
    """Return the shipped model of an architecture, else one with random weights."""
    from wafer.detector.architecture import build_model
    from wafer.weights.checkpoint import save_checkpoint
    from wafer.weights.decision_rule import DecisionRule

    if (found := shipped(name)) is not None:
        return found
    # A file of the plain name would be taken by ultralytics for its own, and fetched anew.
    path = root / f"{name}_random.safetensors"
    if not path.is_file():
        model = build_model(name, names=workspace.classes.detector_names, channels=1)
        save_checkpoint(
            path,
            model.state_dict(),
            architecture=name,
            classes=workspace.classes,
            image_size=256,
            channels=1,
            decision=DecisionRule(),
        )
    return path


def all_bundles(root: Path, workspace: Workspace, weights: Path) -> dict[str, Bundle]:
    """Return a bundle of each precision; int8 only where its gate lets it pass."""
    from wafer.datasets.errors import WeightsError

    made = {}
    for precision in PRECISIONS:
        try:
            made[precision] = bundle(root, workspace, weights, precision)
        except WeightsError as error:
            say(f"no {precision}: {error}\n", sys.stderr)
    return made


def bundle(root: Path, workspace: Workspace, weights: Path, precision: Any) -> Bundle:
    """Return the bundle of a model in a precision."""
    from wafer.detector.exporting import export_model

    record = root / f"{weights.stem}-{workspace.root.name}-{precision}"
    if not record.is_file():
        record.write_text(str(export_model(workspace, weights, precision=precision).folder))
    return open_bundle(Path(record.read_text()))


def stock_model(root: Path, weights: Path) -> Path:
    """Return the same network as ultralytics opens it, with its own OpenVINO export beside it."""
    import torch

    from wafer.detector.ultralytics_adapter import VERSION, DetectionModel
    from wafer.inference.rejecting import network_tensors
    from wafer.weights.checkpoint import read_checkpoint

    path = root / f"{weights.stem}.pt"
    checkpoint = read_checkpoint(weights)
    size = checkpoint.image_size
    if not path.is_file():
        names = checkpoint.classes.detector_names
        model = DetectionModel(
            f"{checkpoint.architecture}.yaml", ch=checkpoint.channels, nc=len(names), verbose=False
        )
        model.load_state_dict(network_tensors(checkpoint.tensors))
        model.names, model.args = dict(enumerate(names)), {"task": "detect", "imgsz": size}
        torch.save({"model": model.float(), "train_args": model.args, "version": VERSION}, path)
    if not path.with_name(f"{path.stem}_openvino_model").is_dir():
        subprocess.run(
            [sys.executable, "-P", "-c", EXPORT, str(path), str(size)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return path


def all_ways(weights: Path, bundles: dict[str, Bundle], stock: Path) -> dict[str, Run]:
    """Return a command for each way of classifying."""
    size = str(bundles["f32"].description.image_size)

    def ultralytics(model: Path, batch: str) -> Run:
        script = [sys.executable, "-P", "-c", STOCK, str(model)]
        return lambda source, out: [*script, str(source), size, batch, str(out)]

    def ours(model: Path, *options: str) -> Run:
        script = [sys.executable, "-P", "-c", "from wafer.cli import app; app()", "classify"]
        return lambda source, out: [
            *(*script, str(source), "--weights", str(model), "--device", "cpu"),
            *("--batch", str(BATCH), "--force", "--output", str(out.with_suffix(".csv")), *options),
        ]

    return {
        "stock default": ultralytics(stock, "default"),
        "stock batch 16": ultralytics(stock, str(BATCH)),
        "stock OpenVINO": ultralytics(stock.with_name(f"{stock.stem}_openvino_model"), "default"),
        "torch f32": ours(weights),
        "onnxruntime f32": ours(bundles["f32"].folder, "--engine", "onnxruntime"),
        **{
            f"openvino {precision}": ours(bundles[precision].folder, "--engine", "openvino")
            for precision in usable(bundles)
        },
    }


def usable(bundles: dict[str, Bundle]) -> list[str]:
    """Return the precisions that this processor computes in."""
    from wafer.datasets.errors import WeightsError

    found = []
    for precision, made in bundles.items():
        with suppress(WeightsError):
            BACKENDS[0].open(made, 1).close()
            found.append(precision)
    return found


def measured(
    ways: dict[str, Run], source: Path, one: Path, out: Path, number: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return img/s, start-up in seconds and MB of each way: medians, the largest for memory."""
    out.mkdir(exist_ok=True)
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):  # the first one fills caches and is not counted
        for name, way in ways.items():
            start_up, _ = timed(way(one, out / f"{name}.one"))
            seconds, memory = timed(way(source if round_ else one, out / f"{name}.all"))
            if round_:
                runs[name].append(((number - 1) / (seconds - start_up), start_up, memory))
                say(f"round {round_} {name}: {runs[name][-1][0]:.0f} img/s\n", sys.stderr)
    return {
        name: {
            "speed": statistics.median(row[0] for row in rows),
            "start": statistics.median(row[1] for row in rows),
            "memory": max(row[2] for row in rows),
        }
        for name, rows in runs.items()
    }


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the most MB that its processes held together."""
    start = time.perf_counter()
    most = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, memory_of(tree))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:5])} ended with {process.returncode}: {said}")
    return time.perf_counter() - start, most


def memory_of(tree: psutil.Process) -> float:
    """Return the MB that a process and its children hold, shared pages counted once."""
    with suppress(psutil.Error):
        processes = [tree, *tree.children(recursive=True)]
        return float(sum(process.memory_full_info().pss for process in processes)) / 1e6
    return 0.0


def floor(made: Bundle, source: Path) -> dict[str, float]:
    """Return img/s of all cores together for decoding, the network, and both."""
    paths = sorted(source.iterdir())
    cores = core_count()
    with get_context("spawn").Pool(cores) as pool:
        return {
            what: sum(
                pool.starmap(
                    bare_loop, [(made.folder, paths[i::cores], what) for i in range(cores)], 1
                )
            )
            for what in ("decode", "network", "both")
        }


def bare_loop(folder: Path, paths: Sequence[Path], what: str) -> float:
    """Return img/s of one core over images, round and round for a while."""
    import cv2

    cv2.setNumThreads(1)
    made = open_bundle(folder)
    about = made.description
    engine = BACKENDS[0].open(made, BATCH)
    batch = np.zeros((BATCH, about.image_size, about.image_size), np.uint8)
    engine.infer(batch)
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < FLOOR_SECONDS:
        for place in range(BATCH * (what != "network")):
            path = paths[(done + place) % len(paths)]
            pixels = decode_bytes(path.read_bytes(), path.name, white_level=about.white_level)
            batch[place] = letterbox(pixels, about.image_size).image
        if what != "decode":
            engine.infer(batch)
        done += BATCH
    return done / passed


def speed_table(rows: dict[str, dict[str, float]], floors: dict[str, dict[str, float]]) -> str:
    """Return the speeds as a table."""
    lines = [
        "| | img/s | x stock default | x stock batch 16 | share of the floor | start-up s | MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        ratios = [
            row["speed"] / rows[f"stock {which}"]["speed"] for which in ("default", "batch 16")
        ]
        reached = floors.get(name.rpartition(" ")[2])
        share = "" if reached is None else f"{row['speed'] / reached['both']:.0%}"
        lines.append(
            f"| {name} | {row['speed']:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {share} | "
            f"{row['start']:.2f} | {row['memory']:.0f} |"
        )
    for precision, found in floors.items():
        halves = ", ".join(f"{what} {speed:.0f}" for what, speed in found.items())
        lines.append(f"\nfloor {precision}, img/s on all cores (OpenVINO): {halves}")
    return "\n".join(lines) + "\n"


def latency_table(made: Bundle, stock: Path, path: Path) -> str:
    """Return the milliseconds of single images, the model open already."""
    command = [sys.executable, "-P", "-c", STOCK_LATENCY, str(stock), str(path)]
    size = str(made.description.image_size)
    out = subprocess.run([*command, size, str(LATENCIES)], capture_output=True, check=True)
    times = {"stock": json.loads(out.stdout.splitlines()[-1])}
    for backend in BACKENDS:
        engine = backend.open(made, 1)
        times[backend.name] = []
        for _ in range(LATENCIES):
            start = time.perf_counter()
            pixels = decode_bytes(path.read_bytes(), path.name)
            engine.infer(letterbox(pixels, made.description.image_size).image[None])
            times[backend.name].append(time.perf_counter() - start)
    lines = ["\n| one image, f32 | p50 ms | p99 ms |", "| --- | --- | --- |"]
    for name, seconds in times.items():
        half, most = np.percentile(np.array(seconds) * 1000, [50, 99])
        lines.append(f"| {name} | {half:.1f} | {most:.1f} |")
    return "\n".join(lines) + "\n"


def agreement(made: Bundle, source: Path, answers: Path) -> str:
    """Compare the best box of OpenVINO with that of ultralytics on every image."""
    theirs = {}
    for line in answers.read_text().splitlines():
        path, best = json.loads(line)
        theirs[Path(path).name] = best
    about = made.description
    engine = BACKENDS[0].open(made, BATCH)
    same, overlaps = 0, []
    files = sorted(source.iterdir())
    for start in range(0, len(files), BATCH):
        paths = files[start : start + BATCH]
        boxed = [letterbox(decode_bytes(p.read_bytes(), p.name), about.image_size) for p in paths]
        found = engine.infer(np.stack([each.image for each in boxed]))
        for place, path in enumerate(paths):
            best = theirs[path.name]
            if best is None:
                same += float(found.scores[place].max()) < LEAST
            elif int(best[5]) == found.classes[place]:
                same += 1
                overlaps.append(overlap(to_original(found.boxes[place], boxed[place]), best[:4]))
    mean = statistics.mean(overlaps) if overlaps else 0.0
    return (
        f"\nbest box of openvino f32 and of stock: the same class, or none above {LEAST}, on "
        f"{same} of {len(theirs)} images ({same / len(theirs):.2%}), mean IoU {mean:.4f}\n"
    )


def overlap(box: Box, corners: Sequence[float]) -> float:
    """Return the IoU of two boxes."""
    left, top, right, bottom = corners
    width = max(0.0, min(box.xmax, right) - max(box.xmin, left))
    height = max(0.0, min(box.ymax, bottom) - max(box.ymin, top))
    ours, theirs = (box.xmax - box.xmin) * (box.ymax - box.ymin), (right - left) * (bottom - top)
    return width * height / (ours + theirs - width * height)


def say(text: str, stream: Any = None) -> None:
    """Write a text at once."""
    (stream or sys.stdout).write(text)
    (stream or sys.stdout).flush()


if __name__ == "__main__":
    main()
