"""What int8 costs and gains: answers, file and processor time beside f32, both on OpenVINO.

    python benchmarks/int8.py WORKSPACE --model runs/train/yolov5n-001

Both bundles are made in the workspace, the int8 one with its gate on the validation images, whose
table is printed if it refuses. Then both classify the validation and the test images as `wafer
classify` does. Time is that of one processor for the network alone, batches of 16 in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from wafer.datasets.errors import WeightsError
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.exporting import export_model
from wafer.detector.quantising import shift_between
from wafer.evaluation.answers import true_classes
from wafer.evaluation.records import Prediction
from wafer.inference.bundle import Bundle
from wafer.inference.engines.open_vino import OPEN_VINO
from wafer.inference.pipeline import classify
from wafer.inference.sources import ImageInput
from wafer.weights.manifest import shipped

BATCH = 16
SPLITS = ("val", "test")


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("workspace", type=Path)
    options.add_argument("--model", type=Path, default=shipped("yolov5n"))
    options.add_argument("--rounds", type=int, default=15)
    given = options.parse_args()
    workspace = open_workspace(given.workspace)
    f32 = export_model(workspace, given.model)
    try:
        int8 = export_model(workspace, given.model, precision="int8")
    except WeightsError as error:
        sys.exit(str(error))
    for split in SPLITS:
        _print_answers(workspace, split, f32, int8)
    for name, bundle in (("f32", f32), ("int8", int8)):
        size = sum((bundle.folder / f"model.{end}").stat().st_size for end in ("xml", "bin"))
        sys.stdout.write(f"{name}: network {size / 1e6:.1f} MB\n")
    _print_times(f32, int8, given.rounds)


def _print_answers(workspace: Workspace, split: str, f32: Bundle, int8: Bundle) -> None:
    none = f32.classes.none_class
    truth = {
        sample.image: min(true_classes(sample, none_class=None if none is None else none.name))
        for sample in workspace.samples()
        if sample.split == split
    }
    before, after = (_answers(workspace, list(truth), bundle) for bundle in (f32, int8))
    shift = shift_between(truth.values(), before, after, classes=f32.classes)
    ious = [a.box.iou(b.box) for a, b in zip(before, after, strict=True) if a.box and b.box]
    apart = [abs(a.confidence - b.confidence) for a, b in zip(before, after, strict=True)]
    sys.stdout.write(
        f"{split}\n{shift.table()}\n  boxes of both: mean IoU {statistics.mean(ious):.3f}; "
        f"confidence apart by {statistics.mean(apart):.4f}, at most {max(apart):.3f}\n"
    )


def _answers(workspace: Workspace, images: list[str], bundle: Bundle) -> list[Prediction]:
    inputs = [ImageInput(workspace.image_path(image), image) for image in images]
    rows = classify(inputs, bundle.predictor(OPEN_VINO.open(bundle, BATCH)), batch=BATCH)
    return [row.prediction for row in rows if row.prediction is not None]


def _print_times(f32: Bundle, int8: Bundle, rounds: int) -> None:
    images = np.resize(f32.golden().images, (BATCH, *f32.golden().images.shape[1:]))
    engines = {"f32": OPEN_VINO.open(f32, BATCH), "int8": OPEN_VINO.open(int8, BATCH)}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for name, engine in [*engines.items()] * (rounds + 1):
        start = time.process_time()
        engine.infer(images)
        times[name].append((time.process_time() - start) / BATCH)
    for name, found in times.items():
        seconds = found[1:]  # the first one warms up
        sys.stdout.write(
            f"{name}: {1000 * statistics.median(seconds):.2f} ms an image on one core, "
            f"at best {1000 * min(seconds):.2f}\n"
        )


if __name__ == "__main__":
    main()
