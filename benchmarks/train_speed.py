"""Stock `yolo train` beside `wafer train`: images a second, wall time and AP, over seeds.

    python benchmarks/train_speed.py WORKSPACE --weights yolov5n.safetensors \
        --epochs 30 --imgsz 224 --batch 16

For each seed stock and the variants of ours train one after the other, each as a whole process,
on the same images from the same first weights for the same epochs; both are measured by the same
evaluation (pycocotools) on the test split. Every training is one line of JSON in --results, and is
not repeated when the command is started again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
import yaml

from wafer.datasets.workspace import Workspace, open_workspace, select
from wafer.detector.loading import load_detector
from wafer.detector.prediction import score_samples
from wafer.evaluation.detection import average_precision

VARIANTS = {
    "off": [],
    "yolov5": ["--img-weights"],
    "rfs": ["--img-weights", "--img-weights-mode", "rfs"],
    "effective": ["--img-weights", "--img-weights-mode", "effective"],
}

STOCK = """
import json, os, sys
given = json.loads(sys.argv[1])
os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=given["config"])
from safetensors.torch import load_file
from ultralytics import YOLO
model = YOLO("yolov5n.yaml")
own = model.model.state_dict()
first = {k: v.float() for k, v in load_file(given["weights"]).items()}
fit = {k: v for k, v in first.items() if k in own and own[k].shape == v.shape}
print("tensors", len(fit), len(own))
model.model.load_state_dict(fit, strict=False)
model.ckpt = {"model": model.model}
model.train(data=given["data"], epochs=given["epochs"], imgsz=given["imgsz"],
            batch=given["batch"], seed=given["seed"], device="cpu",
            project=given["folder"], name="run", exist_ok=True)
"""


def main() -> None:
    """Train what is missing and print the tables."""
    given = arguments()
    workspace = open_workspace(given.workspace.resolve())
    results = read(given.results)
    for seed in range(given.seeds):
        for name in ["stock", *given.variants]:
            if any((row["name"], row["seed"]) == (name, seed) for row in results):
                continue
            train = stock if name == "stock" else ours
            seconds, model = train(name, seed, workspace, given)
            head = {"name": name, "seed": seed, "seconds": round(seconds, 1)}
            row = {**head, **measured(model, workspace, image_size=given.imgsz)}
            results.append(row)
            with given.results.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            sys.stderr.write(f"{name} seed {seed}: {seconds:.0f} s, mAP50-95 {row['map']:.4f}\n")
    images = sum(s.split == "train" and s.annotations is not None for s in workspace.samples())
    sys.stdout.write(table(results, images=images * given.epochs, names=given.variants))


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("train_speed.ndjson"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    given = parser.parse_args()
    given.weights = given.weights.resolve()
    return given


def read(path: Path) -> list[dict[str, Any]]:
    """Return the trainings of earlier calls."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def stock(
    name: str, seed: int, workspace: Workspace, given: argparse.Namespace
) -> tuple[float, Any]:
    """Train as ultralytics does by itself; return the seconds and the model."""
    folder = workspace.root / "runs" / "stock" / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    data = yaml.safe_load((workspace.root / "data.yaml").read_text())
    data.pop("channels", None)  # three, as everybody has it
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    options = {key: getattr(given, key) for key in ("epochs", "imgsz", "batch")}
    places = {"data": folder / "data.yaml", "folder": folder, "config": folder / "config"}
    content = {**options, **places, "weights": given.weights, "seed": seed}
    seconds = timed([sys.executable, "-P", "-c", STOCK, json.dumps(content, default=str)], folder)
    checkpoint = torch.load(folder / "run" / "weights" / "best.pt", weights_only=False)
    model = checkpoint["model"].float().eval()
    first = model.model[0].conv  # three equal channels are one: the same network on grey images
    first.weight = torch.nn.Parameter(first.weight.sum(dim=1, keepdim=True))
    first.in_channels = 1
    return seconds, model


def ours(
    name: str, seed: int, workspace: Workspace, given: argparse.Namespace
) -> tuple[float, Any]:
    """Train with `wafer train`; return the seconds and the model."""
    command = [str(Path(sys.executable).with_name("wafer")), "train", *VARIANTS[name]]
    options = {key: getattr(given, key) for key in ("epochs", "imgsz", "batch", "weights")}
    for key, value in {**options, "seed": seed, "device": "cpu"}.items():
        command += [f"--{key}", str(value)]
    seconds = timed(command, workspace.root)
    latest = (workspace.runs / "latest").resolve()
    return seconds, load_detector(latest / "weights" / "best.safetensors").model


def timed(command: list[str], folder: Path) -> float:
    """Run a command as a whole process and return its seconds."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def measured(model: Any, workspace: Workspace, *, image_size: int) -> dict[str, Any]:
    """Return the AP on the test split, by pycocotools for both."""
    samples = select(workspace.samples(), "test").samples
    scored = list(
        score_samples(
            model,
            samples,
            workspace=workspace,
            classes=workspace.classes,
            image_size=image_size,
            colour=workspace.colour,
            white_level=workspace.white_level,
        )
    )
    found = average_precision(
        samples,
        [detection for row in scored for detection in row.detections],
        classes=workspace.classes,
        sizes={row.image: row.size for row in scored},
    )
    return {"map50": found.map50, "map": found.map50_95, "classes": found.ap50_95}


def table(results: list[dict[str, Any]], *, images: int, names: list[str]) -> str:
    """Return the results as Markdown: a row a variant, means over seeds and their spread."""
    classes = list(results[0]["classes"])
    head = ["", "seeds", "seconds", "img/s", "x stock", "mAP50", "mAP50-95", "sd", *classes]
    lines = [head, ["---"] * len(head)]
    for name in ["stock", *names]:
        rows = [row for row in results if row["name"] == name]
        if not rows:
            continue
        beside = {row["seed"]: row["seconds"] for row in results if row["name"] == "stock"}
        ratios = [beside[row["seed"]] / row["seconds"] for row in rows if row["seed"] in beside]
        seconds = statistics.median(row["seconds"] for row in rows)
        maps = [row["map"] for row in rows]
        spread = statistics.stdev(maps) if len(maps) > 1 else float("nan")
        lines.append(
            [
                *(name, str(len(rows)), f"{seconds:.0f}", f"{images / seconds:.1f}"),
                f"{statistics.median(ratios):.2f}",
                f"{statistics.mean(row['map50'] for row in rows):.3f}",
                *(f"{statistics.mean(maps):.4f}", f"{spread:.4f}"),
                *(f"{statistics.mean(r['classes'][c] for r in rows):.3f}" for c in classes),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
