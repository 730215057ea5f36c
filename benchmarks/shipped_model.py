"""Train the model that ships with wafer, from scratch on synthetic images.

    python benchmarks/shipped_model.py FOLDER

Makes the images, puts them into one workspace, trains, and writes the model in half precision with
its manifest entry into FOLDER. Killed, the same command goes on. The layout families ``pads`` and
``fill`` and the tool ``soft`` are held out: what is said of this model on synthetic images is
measured on those alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from wafer.datasets.classes import paper_classes
from wafer.datasets.records import Sample
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, create_workspace, open_workspace
from wafer.detector.training import TrainingArguments, train_detector

FAMILIES = ("lines", "routed", "vias")
TOOLS = ("sharp", "standard")
# Name, images, settings; the seeds are nobody's default.
SETS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("easy", 1200, {"difficulty": "easy", "seed": 9201}),
    ("paper", 1800, {"difficulty": "paper", "seed": 9202}),
    ("anywhere", 1200, {"difficulty": "paper", "center_sigma": 1.0, "seed": 9203}),
    ("hard", 800, {"difficulty": "hard", "seed": 9204}),
)
SIZE = 340
TRAINING: TrainingArguments = {
    "weights": "none",
    "batch": 32,
    "imgsz": 192,
    "optimizer": "AdamW",
    "seed": 0,
    "hyperparameters": {
        "lr0": 0.002,
        "momentum": 0.9,
        "warmup_bias_lr": 0.0,
        "warmup_epochs": 1.0,
        "mosaic": 0.5,
        "scale": 0.4,
        "flipud": 0.5,
    },
}
PROVENANCE = (
    "Trained from scratch on synthetic images of wafer synth, half precision; no photograph of a "
    "wafer was in it"
)


def main() -> None:
    """Do what is missing and print the manifest entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=45)
    given = parser.parse_args()
    root = given.folder.resolve()
    workspace = images(root)
    run = train_detector(workspace, epochs=given.epochs, progress=note, **TRAINING)
    sys.stdout.write(shipped(run.folder, root / "yolov5n_synthetic.safetensors", run.metrics))


def images(root: Path) -> Workspace:
    """Return one workspace with the images of all sets, split by wafer."""
    if (root / "workspace" / "wafer.toml").is_file():
        return open_workspace(root / "workspace")
    samples: list[Sample] = []
    for name, number, settings in SETS:
        made = generate_workspace(
            root / "sets" / name,
            images=number,
            counts="balanced",
            size=SIZE,
            families=FAMILIES,
            tools=TOOLS,
            **settings,
        )
        target = root / "workspace" / "images" / name
        target.mkdir(parents=True, exist_ok=True)
        for sample in made.samples():
            if not (target / sample.image).exists():
                os.link(made.image_path(sample.image), target / sample.image)
            samples.append(
                replace(
                    sample,
                    image=f"{name}/{sample.image}",
                    group=f"{name}-{sample.group}",
                    split="val" if sample.split == "val" else "train",
                )
            )
    return create_workspace(
        root / "workspace",
        images=root / "workspace" / "images",
        classes=paper_classes(),
        samples=samples,
    )


def note(epoch: int, epochs: int, batch: int, batches: int) -> None:
    """Say how far the training is."""
    if batch == batches:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} epoch {epoch} of {epochs}\n")


def shipped(run: Path, path: Path, metrics: object) -> str:
    """Write the model of a run in half precision; return what the manifest says of it."""
    from wafer.detector.finishing import MODEL_FILE
    from wafer.inference.rejecting import network_tensors
    from wafer.weights.checkpoint import read_checkpoint, save_checkpoint

    found = read_checkpoint(run / MODEL_FILE)
    tensors = network_tensors(found.tensors)
    tensors = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    digest = save_checkpoint(
        path,
        tensors,
        architecture=found.architecture,
        classes=found.classes,
        image_size=found.image_size,
        channels=found.channels,
        white_level=found.white_level,
        decision=found.decision,
        dataset_hash=found.dataset_hash,
        training=found.training,
        versions=found.versions,
        provenance=PROVENANCE,
    )
    return json.dumps({"sha256": digest, "bytes": path.stat().st_size, "val": metrics}) + "\n"


if __name__ == "__main__":
    main()
