"""The whole paper on the embedded synthetic images, in minutes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.files import write_text
from wafer.datasets.runs import MODEL_FILE
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace
from wafer.detector.classification import classify_images
from wafer.detector.evaluating import evaluate_model
from wafer.detector.training import check_start, train_detector
from wafer.evaluation.results import Evaluation

__all__ = ["Demonstration", "earlier_run", "run_demo"]

MODEL = "yolov5n"

Progress = Callable[[str, int, int | None], None]
"""Called with the name of the step, what is done of it, and its size where that is known."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a demonstration leaves behind."""

    evaluation: Evaluation
    report: Path
    predictions: Path


def run_demo(
    folder: Path,
    *,
    seed: int = 0,
    images: int = 600,
    size: int = 340,
    imgsz: int = 192,
    epochs: int = 40,
    progress: Progress,
) -> Demonstration:
    """Make synthetic images, train, evaluate on test, classify, report.

    Images that were made and a training that was finished before are not made again.

    Args:
        folder: the workspace, made where it is not there yet.
        seed: of the images and of the training.
        images: how many, the same number of each class.
        size: their side in pixels.
        imgsz: training size in pixels.
        epochs: of the training.
        progress: called as each step goes on.

    Raises:
        TrainingError: a seed out of range.
        WorkspaceError: the folder is of something else, or of another seed.
    """
    check_start(model=MODEL, weights=None, seed=seed, device="auto")
    workspace = generate_workspace(
        folder,
        images=images,
        counts="balanced",
        size=size,
        difficulty="easy",
        seed=seed,
        progress=lambda done, total: progress("rendering", done, total),
    )
    run = _trained(workspace, imgsz=imgsz, epochs=epochs, seed=seed, progress=progress)
    measured = evaluate_model(
        workspace,
        weights=run,
        progress=lambda done, total: progress("evaluating", done, total),
    )
    predictions = workspace.root / "predictions.csv"
    classify_images(
        [str(workspace.images)],
        weights=run,
        workspace=workspace.root,
        output=predictions,
        force=True,
        progress=lambda done, total: progress("classifying", done, total),
    )
    return Demonstration(measured.evaluation, measured.report, predictions)


def _trained(
    workspace: Workspace, *, imgsz: int, epochs: int, seed: int, progress: Progress
) -> Path:
    """Return the folder of a finished training, which an earlier demonstration may have done."""
    arguments = {"imgsz": imgsz, "epochs": epochs, "seed": seed}
    record = workspace.root / "demo.json"
    before = earlier_run(record, arguments)
    if before is not None and (workspace.runs / before / MODEL_FILE).is_file():
        return workspace.runs / before
    trained = train_detector(
        workspace,
        model=MODEL,
        epochs=epochs,
        batch=16,
        imgsz=imgsz,
        img_weights=True,
        optimizer="AdamW",
        hyperparameters={"lr0": 0.001},
        seed=seed,
        progress=lambda epoch, epochs, batch, batches: progress(
            "training", (epoch - 1) * batches + batch, epochs * batches
        ),
    )
    write_text(record, json.dumps({"arguments": arguments, "run": trained.folder.name}))
    return trained.folder


def earlier_run(record: Path, arguments: Mapping[str, int]) -> str | None:
    """Return the name of an earlier demonstration's run, None where its record has no such.

    Args:
        record: ``demo.json``, which may be missing or damaged.
        arguments: of the training; a run of others does not count.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("arguments") != arguments:
        return None
    return str(content.get("run"))
