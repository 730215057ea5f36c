"""Training a YOLOv5 on a workspace: choose the images, run, finish with a model file."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wafer.datasets.errors import TrainingError, WeightsError
from wafer.datasets.files import sha256_file
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Selection, Workspace, dataset_hash, select
from wafer.detector.architecture import ARCHITECTURES, build_model, start_from
from wafer.detector.finishing import finish_run
from wafer.detector.plan import PLAN, TrainingImage, TrainingPlan, write_plan
from wafer.detector.precision import Precision, fastest_precision
from wafer.detector.runs import Run, locked, open_run, torch_device
from wafer.detector.trainer import Progress, WaferTrainer, read_state
from wafer.weights.manifest import shipped

__all__ = ["HYPERPARAMETERS", "OPTIMIZERS", "TrainedRun", "train_detector"]

log = logging.getLogger(__name__)

OPTIMIZERS = ("auto", "SGD", "Adam", "AdamW")

HYPERPARAMETERS: Mapping[str, float] = {
    "lrf": 0.01,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
    "box": 7.5,
    "cls": 0.5,
    "dfl": 1.5,
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.4,
    "degrees": 0.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 0.0,
    "perspective": 0.0,
    "flipud": 0.5,
    "fliplr": 0.5,
    "mosaic": 1.0,
    "mixup": 0.0,
    "close_mosaic": 10,
}
"""YOLOv5's hyperparameters under ultralytics' names. Ours differ in two: no hue or saturation,
because the images are grey, and vertical flips, because a microscope image has no upper side."""


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished training: its folder, whether it was gone on with, and its validation metrics."""

    folder: Path
    resumed: bool
    metrics: Mapping[str, float | None]
    notes: tuple[str, ...]


def train_detector(
    workspace: Workspace,
    *,
    model: str = "yolov5n",
    weights: Path | Literal["none"] | None = None,
    img_weights: bool = False,
    epochs: int = 100,
    batch: int = 64,
    imgsz: int = 256,
    max_backgrounds: int | None = None,
    optimizer: str = "auto",
    lr0: float = 0.01,
    patience: int = 100,
    seed: int = 0,
    device: str = "auto",
    hyperparameters: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> TrainedRun:
    """Train a detector on the train split of a workspace and choose its epoch on val.

    A run of the same arguments and data that was killed is gone on with after its last epoch.

    Args:
        workspace: where the images, classes and runs are.
        model: ``yolov5n``, ``s``, ``m``, ``l`` or ``x``.
        weights: first weights: an official YOLOv5 v6/v7 file or a wafer model (safetensors);
            None takes the shipped ones where there are some for ``model``, ``"none"`` trains from
            scratch.
        img_weights: draw images by YOLOv5's image weights, backgrounds keeping their share.
        epochs: at least 1.
        batch: images a step, at least 1.
        imgsz: training size in pixels, a multiple of 32.
        max_backgrounds: at most so many images without a defect in training; None takes all.
        optimizer: one of ``OPTIMIZERS``; ``auto`` lets ultralytics choose it and its ``lr0``.
        lr0: first learning rate; not used by ``auto``.
        patience: stop after so many epochs without a better validation.
        seed: decides the draws, the augmentation and the first values of untrained layers.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        hyperparameters: values that replace those of ``HYPERPARAMETERS``.
        progress: called after every batch.

    Raises:
        TrainingError: an argument out of range, no box to learn from, or no validation image.
        DataError: faults in the workspace or images that cannot be decoded.
        WeightsError: first weights that do not fit.
    """
    _check_arguments(model, epochs, batch, imgsz, max_backgrounds, optimizer, hyperparameters)
    start = _first_weights(model, weights)
    samples = workspace.samples()
    train, notes = _training_samples(workspace, samples, max_backgrounds, seed)
    selection = select(samples, "val")
    val = selection.samples
    _check_samples(workspace, train, val)
    notes = (*_start_notes(start, weights), *notes, *_val_notes(selection))
    arguments = {
        "model": model,
        "weights": None if start is None else sha256_file(start),
        "img_weights": img_weights,
        "epochs": epochs,
        "batch": batch,
        "imgsz": imgsz,
        "max_backgrounds": max_backgrounds,
        "optimizer": optimizer,
        "lr0": lr0,
        "patience": patience,
        "seed": seed,
        "device": str(torch_device(device)),
        "hyperparameters": {**HYPERPARAMETERS, **(hyperparameters or {})},
    }
    plan = _plan(workspace, train, val, arguments=arguments, start=start)
    digest = dataset_hash(workspace, [*train, *val])
    run, resumed = open_run(workspace.runs, model=model, arguments=arguments, dataset_hash=digest)
    with locked(run):
        write_plan(plan, run.folder / PLAN)
        state = read_state(run.folder)
        if state is None or not state["complete"]:
            _train(run, arguments, progress)
        metrics = finish_run(run, workspace=workspace, plan=plan, val=val)
    return TrainedRun(run.folder, resumed, metrics, notes)


def _train(run: Run, arguments: Mapping[str, Any], progress: Progress | None) -> None:
    overrides = {
        "model": f"{arguments['model']}.yaml",
        "data": str(run.folder / PLAN),
        "save_dir": str(run.folder),
        "exist_ok": True,
        "pretrained": False,
        "workers": min(8, os.cpu_count() or 1),
        "amp": arguments["device"] != "cpu",
        **{k: arguments[k] for k in ("epochs", "batch", "imgsz", "optimizer", "lr0", "patience")},
        "seed": arguments["seed"],
        "device": arguments["device"].removeprefix("cuda:"),
        **arguments["hyperparameters"],
    }
    trainer = WaferTrainer(overrides=overrides)
    trainer.progress = progress
    trainer.train()


def _plan(
    workspace: Workspace,
    train: Sequence[Sample],
    val: Sequence[Sample],
    *,
    arguments: Mapping[str, Any],
    start: Path | None,
) -> TrainingPlan:
    names = workspace.classes.detector_names
    channels = 3 if workspace.colour else 1
    architecture = str(arguments["model"])
    precision: Precision = "float32"
    model = build_model(architecture, names=names, channels=channels)
    if start is not None:
        start_from(model, start)  # weights that do not fit are refused before a run is opened
    if arguments["device"] == "cpu":
        precision = fastest_precision(
            model, architecture=architecture, channels=channels, image_size=arguments["imgsz"]
        )
    return TrainingPlan(
        architecture=architecture,
        names=names,
        channels=channels,
        white_level=workspace.white_level,
        img_weights=bool(arguments["img_weights"]),
        precision=precision,
        start=None if start is None else start.resolve(),
        train=tuple(_training_image(sample, workspace) for sample in train),
        val=tuple(_training_image(sample, workspace) for sample in val),
    )


def _first_weights(model: str, weights: Path | Literal["none"] | None) -> Path | None:
    if weights is None:
        return shipped(model)
    if weights == "none":
        return None
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such file of first weights")
    return weights


def _start_notes(start: Path | None, weights: object) -> tuple[str, ...]:
    if start is None or weights is not None:
        return ()
    return (f"starts from the shipped weights {start.stem}; --weights none starts from scratch",)


def _val_notes(selection: Selection) -> tuple[str, ...]:
    left_out = selection.excluded_unlabelled + selection.excluded_untrusted
    if not left_out:
        return ()
    return (f"{left_out} validation images without trusted labels were left out",)


def _training_image(sample: Sample, workspace: Workspace) -> TrainingImage:
    table = workspace.classes
    annotations = sample.annotations or ()
    return TrainingImage(
        path=workspace.image_path(sample.image),
        classes=tuple(table.detector_index(a.class_name) for a in annotations),
        boxes=tuple(a.box.corners for a in annotations),
        whole_image=any(table[a.class_name].kind == "whole_image" for a in annotations),
    )


def _training_samples(
    workspace: Workspace, samples: Sequence[Sample], max_backgrounds: int | None, seed: int
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    chosen = [s for s in samples if s.split == "train" and s.annotations is not None]
    notes = []
    unlabelled = sum(s.split == "train" and s.annotations is None for s in samples)
    if unlabelled:
        notes.append(
            f"{unlabelled} training images have no label file and were left out; an image with "
            "nothing on it needs an empty one"
        )
    missing = sorted(set(workspace.classes.box_names) - _classes_in(chosen))
    if missing:
        notes.append(f"no training box for {', '.join(missing)}: their AP will be empty")
    backgrounds = [s for s in chosen if not s.annotations]
    if max_backgrounds is not None and len(backgrounds) > max_backgrounds:
        dropped = random.Random(seed).sample(backgrounds, len(backgrounds) - max_backgrounds)
        gone = {s.image for s in dropped}
        chosen = [s for s in chosen if s.image not in gone]
        notes.append(f"{max_backgrounds} of {len(backgrounds)} images without a defect are used")
    return tuple(chosen), tuple(notes)


def _classes_in(samples: Sequence[Sample]) -> set[str]:
    return {a.class_name for s in samples for a in s.annotations or ()}


def _check_arguments(
    model: str,
    epochs: int,
    batch: int,
    imgsz: int,
    max_backgrounds: int | None,
    optimizer: str,
    hyperparameters: Mapping[str, float] | None,
) -> None:
    faults = []
    if model not in ARCHITECTURES:
        faults.append(f"no detector is called {model!r}; choose one of {', '.join(ARCHITECTURES)}")
    if epochs < 1:
        faults.append("--epochs must be at least 1")
    if batch < 1:
        faults.append("--batch must be at least 1")
    if imgsz < 64 or imgsz % 32:
        faults.append("--imgsz must be a multiple of 32, at least 64")
    if max_backgrounds is not None and max_backgrounds < 0:
        faults.append("--max-backgrounds must not be negative")
    if optimizer not in OPTIMIZERS:
        faults.append(f"--optimizer must be one of {', '.join(OPTIMIZERS)}")
    unknown = sorted(set(hyperparameters or ()) - set(HYPERPARAMETERS))
    if unknown:
        faults.append(f"no hyperparameter is called {', '.join(unknown)}")
    if faults:
        raise TrainingError("; ".join(faults))


def _check_samples(workspace: Workspace, train: Sequence[Sample], val: Sequence[Sample]) -> None:
    if not _classes_in(train) & set(workspace.classes.box_names):
        raise TrainingError(
            "no class has a training box, so there is nothing to learn from; draw some, or add "
            "them with `wafer init --boxes`"
        )
    if not val:
        raise TrainingError(
            "no labelled image is in the val split, so no epoch can be chosen; "
            "run `wafer split` or label some of its images"
        )
