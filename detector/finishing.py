"""The end of a training: the best weights become a model that knows when to say "no defect"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from safetensors.torch import load_file

from wafer.datasets.classes import ClassTable
from wafer.datasets.files import atomic_file, write_text
from wafer.datasets.records import Sample
from wafer.datasets.runs import MODEL_FILE, Run, versions
from wafer.datasets.workspace import Workspace
from wafer.detector.architecture import build_model, fill_model
from wafer.detector.exporting import export_model
from wafer.detector.knowing import known_tensors
from wafer.detector.plan import TrainingPlan
from wafer.detector.prediction import Scored, score_samples
from wafer.detector.trainer import BEST, LAST, STATE, read_state
from wafer.detector.ultralytics_adapter import VERSION, DetectionModel
from wafer.evaluation.calibration import fit_platt, killer_escape_limit
from wafer.evaluation.detection import average_precision
from wafer.inference.bundle import TOLERANCES
from wafer.weights.checkpoint import save_checkpoint
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.loading import Tensors

__all__ = ["RESULTS", "finish_run", "fit_decision"]

RESULTS = "results.csv"
"""The name of the file in a run folder, a row an epoch."""


def finish_run(
    run: Run,
    *,
    workspace: Workspace,
    plan: TrainingPlan,
    val: Sequence[Sample],
    bundle: bool,
    rejects: bool,
) -> Mapping[str, float | None]:
    """Calibrate the best weights on val and write the model files of a run.

    ``weights/best.safetensors`` is the model that wafer uses; ``best.pt`` and ``last.pt`` are the
    same networks for ultralytics.

    Args:
        run: whose training came to its end.
        workspace: the images.
        plan: what was trained.
        val: validation images.
        bundle: make a bundle too, among the models of the workspace.
        rejects: keep what it takes to tell images of no class, a pass over many of the images.

    Returns:
        mAP50 and mAP50-95 on val; None where val has no box.
    """
    if run.finished:
        metrics: Mapping[str, float | None] = run.record["metrics"]
        return metrics
    record = run.record
    arguments = record["arguments"]
    model = build_model(plan.architecture, names=plan.names, channels=plan.channels)
    fill_model(model, load_file(run.folder / BEST))
    scored = list(
        score_samples(
            model.eval(),
            val,
            workspace=workspace,
            classes=workspace.classes,
            image_size=arguments["imgsz"],
            colour=plan.colour,
            white_level=plan.white_level,
        )
    )
    rule = fit_decision(val, scored, classes=workspace.classes)
    known: Tensors = {}
    if rejects:
        known = known_tensors(
            model,
            plan,
            val,
            workspace=workspace,
            image_size=arguments["imgsz"],
            rule=rule,
            seed=arguments["seed"],
        )
    save_checkpoint(
        run.folder / MODEL_FILE,
        {**model.state_dict(), **known},
        architecture=plan.architecture,
        classes=workspace.classes,
        image_size=arguments["imgsz"],
        channels=plan.channels,
        white_level=plan.white_level,
        decision=rule,
        dataset_hash=record["dataset_hash"],
        training=arguments,
        versions=versions(),
    )
    _write_ultralytics(run.folder / BEST, plan, arguments)
    _write_ultralytics(run.folder / LAST, plan, arguments)
    metrics = _metrics(val, scored, workspace.classes)
    run.update(metrics=metrics)
    if bundle:
        run.note_bundle(export_model(workspace, run.folder).folder)
    _settle_results(run)
    run.update(status="finished")
    for leftover in (BEST, LAST, STATE):
        (run.folder / leftover).unlink(missing_ok=True)
    return metrics


def _settle_results(run: Run) -> None:
    """Put the results of all epochs on disk, as far as ultralytics has left that to chance."""
    state = read_state(run.folder)
    assert state is not None, "a training that came to its end has saved its state"
    write_text(run.folder / RESULTS, state["results"])


def fit_decision(
    samples: Sequence[Sample], scored: Sequence[Scored], *, classes: ClassTable
) -> DecisionRule:
    """Fit P(defect) over the best score on validation images, and the limit for killers.

    Without a ``none`` class, or without images of it, there is nothing to fit. An engine that runs
    a bundle may give each killer image a lower score, by its tolerance: the limit is that of these.
    """
    if classes.none_class is None:
        return DecisionRule()
    shown = [_classes_shown(sample, classes.none_class.name) for sample in samples]
    known = [(row.score, names) for row, names in zip(scored, shown, strict=True) if names]
    is_defect = [names != {classes.none_class.name} for _, names in known]
    platt = fit_platt([score for score, _ in known], is_defect)
    if platt is None:
        return DecisionRule()
    killers = {c.name for c in classes if c.killer}
    lowest = [score - TOLERANCES["f32"].score for score, names in known if names & killers]
    escaping = [platt.probability(max(0.0, score)) for score in lowest]
    limit = killer_escape_limit(escaping) if killers else None
    return DecisionRule(platt=(platt.slope, platt.intercept), none_review_above=limit)


def _classes_shown(sample: Sample, none_class: str) -> set[str]:
    if sample.image_class is not None:
        return {sample.image_class}
    return {a.class_name for a in sample.annotations or ()} or {none_class}


def _metrics(
    samples: Sequence[Sample], scored: Sequence[Scored], classes: ClassTable
) -> dict[str, float | None]:
    found = average_precision(
        samples,
        [detection for row in scored for detection in row.detections],
        classes=classes,
        sizes={row.image: row.size for row in scored},
    )
    return {"map50": found.map50, "map50_95": found.map50_95}


def _write_ultralytics(tensors: Path, plan: TrainingPlan, arguments: Mapping[str, Any]) -> None:
    """Write a checkpoint that ``YOLO("best.pt")`` opens; nothing of this machine is in it."""
    model = DetectionModel(
        f"{plan.architecture}.yaml", ch=plan.channels, nc=len(plan.names), verbose=False
    )
    fill_model(model, load_file(tensors))
    model.names = dict(enumerate(plan.names))
    model.args = {"task": "detect", "imgsz": arguments["imgsz"]}
    content = {
        "epoch": -1,
        "model": model.half(),
        "ema": None,
        "train_args": model.args,
        "version": VERSION,
        "license": "AGPL-3.0",
    }
    with atomic_file(tensors.with_suffix(".pt")) as handle:
        torch.save(content, handle)
