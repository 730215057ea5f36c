"""Classifiers and the detector on real images: NEU-DET, steel, from a long tail of 160 to 8.

    python benchmarks/steel.py FOLDER --neu NEU-DET --coco yolov5n_coco.safetensors

Trained on ``longtail_train.txt``, stopped and calibrated on ``val.txt``, accuracy on ``test.txt``;
images with boxes of several classes are in none of them. The detector answers by its best box.
Trainings that have finished are kept in FOLDER and not repeated; one that was killed is gone on
with. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

from wafer.classifier.evaluating import evaluate_classifier
from wafer.classifier.names import CLASSIFIERS
from wafer.classifier.training import train_classifier
from wafer.datasets.files import write_text
from wafer.datasets.initialisation import initialise
from wafer.datasets.runs import MODEL_FILE
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.evaluating import evaluate_model
from wafer.detector.training import train_detector

SPLITS = {"train": "longtail_train.txt", "val": "val.txt", "test": "test.txt"}
MODELS = ("efficientnet_lite0", "mlp_hog", "mlp", "xgboost", "yolov5n")
FIGURES = ("accuracy", "weighted_accuracy", "macro_f1", "ece")


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--neu", type=Path, required=True, help="folder of NEU-DET")
    parser.add_argument("--coco", type=Path, help="start of the detector; else the shipped model")
    parser.add_argument("--models", nargs="*", choices=(*CLASSIFIERS, "yolov5n"), default=MODELS)
    parser.add_argument("--epochs", type=int, help="else those of each model, 100 for yolov5n")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    root = given.folder.resolve()
    workspace = steel(root / "neu", given.neu.resolve())
    rows = []
    for model in given.models:
        for seed in range(given.seeds):
            name = f"{model}-{given.epochs or 'own'}-{seed}"
            path = root / "results" / f"{name}.json"
            if not path.is_file():
                begin = time.monotonic()
                found = trained(workspace, model, seed, given)
                found["minutes"] = (time.monotonic() - begin) / 60
                write_text(path, json.dumps({"name": name, **found}, indent=1) + "\n")
            rows.append(json.loads(path.read_text()))
    sys.stdout.write(table(rows) + "\n" + by_class(rows))


def steel(root: Path, source: Path) -> Workspace:
    """Return the images of one class each, with their boxes and the splits of the long tail."""
    if (root / "wafer.toml").is_file():
        return open_workspace(root)
    with (source / "image_labels.csv").open(newline="") as handle:
        single = {Path(row["image"]).stem for row in csv.DictReader(handle)}
    lists = {}
    for split, name in SPLITS.items():
        lists[split] = root.parent / name
        stems = [stem for stem in (source / name).read_text().split() if stem in single]
        write_text(lists[split], "\n".join(stems) + "\n")
    initialise(
        root,
        images=source / "images",
        image_labels=source / "image_labels.csv",
        boxes=source / "annotations",
        boxes_format="voc",
        splits=lists,
    )
    return open_workspace(root)


def trained(
    workspace: Workspace, model: str, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Train once and return the figures on test."""
    if model == "yolov5n":
        detector = train_detector(
            workspace,
            weights=given.coco and given.coco.resolve(),
            epochs=given.epochs or 100,
            batch=16,
            imgsz=224,
            img_weights=True,
            seed=seed,
        )
        return evaluate_model(workspace, weights=detector.folder).evaluation.to_dict()
    run = train_classifier(workspace, model=model, epochs=given.epochs, seed=seed)
    return evaluate_classifier(workspace, run.folder / MODEL_FILE).evaluation.to_dict()


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures of each training as Markdown."""
    lines = [f"| model | {' | '.join(FIGURES)} | minutes |", "|---" * (2 + len(FIGURES)) + "|"]
    for row in rows:
        cells = [f"{row[figure]:.3f}" for figure in FIGURES]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {row['minutes']:.1f} |")
    return "\n".join(lines) + "\n"


def by_class(rows: list[dict[str, Any]]) -> str:
    """Return the recall of each class as Markdown."""
    names = list(rows[0]["per_class"])
    lines = [f"| recall | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for row in rows:
        cells = [f"{row['per_class'][name]['recall']:.3f}" for name in names]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
