"""What the shipped model is worth: few images, three starts, three seeds.

    python benchmarks/few_shot.py FOLDER --coco yolov5n_coco.safetensors --neu NEU-DET

Fine-tuning from the shipped model, from COCO weights and from scratch with the same budget: on 120
synthetic images (8 classes x 15) of layout families and of a tool that the shipped model has never
seen, and on the 120 images of NEU-DET's ``seed.txt``. AP on the test split. Trainings that have
finished are kept in FOLDER and not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from wafer.datasets.files import write_text
from wafer.datasets.initialisation import initialise
from wafer.datasets.splitting import resplit
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.evaluating import evaluate_model
from wafer.detector.training import train_detector

STARTS = ("none", "shipped", "coco")
IMGSZ = 224


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--neu", type=Path, required=True, help="folder of NEU-DET")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    root = given.folder.resolve()
    tasks = {"synthetic": synthetic(root / "synthetic"), "NEU-DET": neu(root / "neu", given.neu)}
    results = root / "results.ndjson"
    for seed in range(given.seeds):
        for name, workspace in tasks.items():
            for start in STARTS:
                if not any(is_of(row, name, start, seed) for row in read(results)):
                    row = trained(workspace, start, seed, given)
                    row = {"task": name, "start": start, "seed": seed, **row}
                    with results.open("a") as handle:
                        handle.write(json.dumps(row) + "\n")
                    sys.stderr.write(f"{row}\n")
    sys.stdout.write("\n".join(table(read(results), name) for name in tasks))


def synthetic(root: Path) -> Workspace:
    """Return 600 images of what the shipped model was not trained on, 120 of them to train on."""
    if (root / "wafer.toml").is_file():
        return open_workspace(root)
    workspace = generate_workspace(
        root, images=600, counts="balanced", families=["pads", "fill"], tools=["soft"], seed=31
    )
    resplit(workspace, train=0.2, val=0.2, test=0.6, seed=0)
    return workspace


def neu(root: Path, source: Path) -> Workspace:
    """Return NEU-DET with ``seed.txt`` to train on, which is kept out of the test images."""
    if (root / "wafer.toml").is_file():
        return open_workspace(root)
    test = root.parent / "test.txt"
    seeds = set((source / "seed.txt").read_text().split())
    held_out = [stem for stem in (source / "test.txt").read_text().split() if stem not in seeds]
    write_text(test, "\n".join(held_out) + "\n")
    initialise(
        root,
        images=source / "images",
        boxes=source / "annotations",
        boxes_format="voc",
        splits={"train": source / "seed.txt", "val": source / "val.txt", "test": test},
    )
    return open_workspace(root)


def trained(
    workspace: Workspace, start: str, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Train once and return AP on test."""
    run = train_detector(
        workspace,
        weights={"none": "none", "shipped": None, "coco": given.coco.resolve()}[start],
        epochs=given.epochs,
        batch=16,
        imgsz=IMGSZ,
        seed=seed,
    )
    found = evaluate_model(workspace, weights=run.folder, split="test").evaluation.to_dict()
    return {key: found[key] for key in ("map50_95", "map50", "map50_95_local", "accuracy")}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results of earlier calls."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def is_of(row: dict[str, Any], task: str, start: str, seed: int) -> bool:
    """Return whether a result is of this training."""
    return (row["task"], row["start"], row["seed"]) == (task, start, seed)


def table(results: list[dict[str, Any]], task: str) -> str:
    """Return means and standard deviations over seeds as Markdown."""
    columns = ("map50_95", "map50", "accuracy")
    lines = [f"| {task}, from | {' | '.join(columns)} |", "|---|---|---|---|"]
    for start in STARTS:
        rows = [row for row in results if (row["task"], row["start"]) == (task, start)]
        cells = [spread([row[column] for row in rows]) for column in columns]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
