"""The whole paper on the embedded synthetic images, in minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.detector.classification import classify_images
from wafer.detector.evaluating import evaluate_model
from wafer.detector.training import train_detector
from wafer.evaluation.results import Evaluation

__all__ = ["Demonstration", "run_demo"]

Progress = Callable[[str, int, int | None], None]
"""Called with the name of the step, what is done of it, and its size where that is known."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What a demonstration leaves behind."""

    evaluation: Evaluation
    report: Path
    predictions: Path


def run_demo(folder: Path, *, seed: int = 0, progress: Progress) -> Demonstration:
    """Make synthetic images, train, evaluate on test, classify, report.

    Every step that was finished before is not done again.

    Args:
        folder: the workspace, made where it is not there yet.
        seed: of the images and of the training.
        progress: called as each step goes on.
    """
    workspace = generate_workspace(
        folder,
        images=900,
        counts="balanced",
        size=340,
        difficulty="easy",
        seed=seed,
        progress=lambda done, total: progress("rendering", done, total),
    )
    run = train_detector(
        workspace,
        epochs=60,
        batch=16,
        imgsz=160,
        img_weights=True,
        optimizer="AdamW",
        lr0=0.002,
        seed=seed,
        progress=lambda epoch, epochs, batch, batches: progress(
            "training", (epoch - 1) * batches + batch, epochs * batches
        ),
    )
    measured = evaluate_model(
        workspace,
        weights=run.folder,
        progress=lambda done, total: progress("evaluating", done, total),
    )
    predictions = workspace.root / "predictions.csv"
    classify_images(
        [str(workspace.images)],
        weights=run.folder,
        workspace=workspace.root,
        output=predictions,
        force=True,
        progress=lambda done, total: progress("classifying", done, total),
    )
    return Demonstration(measured.evaluation, measured.report, predictions)
