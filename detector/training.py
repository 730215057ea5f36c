"""Training a YOLOv5 on a workspace: choose the images, run, finish with a model file."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from wafer.datasets.errors import TrainingError, WeightsError
from wafer.datasets.files import sha256_file
from wafer.datasets.ledger import read_chain
from wafer.datasets.records import Sample
from wafer.datasets.runs import Run, TrainedRun, locked, open_run
from wafer.datasets.seen import write_seen
from wafer.datasets.workspace import Selection, Workspace, dataset_hash, select
from wafer.detector.architecture import ARCHITECTURES, build_model, start_from
from wafer.detector.finishing import finish_run
from wafer.detector.hyperparameters import faults_of, resolve
from wafer.detector.image_weights import MODES, Mode
from wafer.detector.plan import PLAN, TrainingImage, TrainingPlan, read_plan, write_plan
from wafer.detector.precision import fastest_precision
from wafer.detector.processes import Progress
from wafer.detector.trainer import WaferTrainer, read_state
from wafer.detector.worker import train_in_processes
from wafer.inference.devices import training_devices
from wafer.inference.precision import Precision
from wafer.weights.manifest import shipped

__all__ = [
    "LARGEST_SEED",
    "PreparedTraining",
    "TrainingArguments",
    "prepare_training",
    "train_detector",
]

log = logging.getLogger(__name__)

LAYERS = 24
"""Layers of a YOLOv5 before its head."""
LARGEST_SEED = 2**31
"""numpy takes 32 bits, and an evolution and several processes count on from the seed."""
SHARE_WITHOUT_MOSAIC = 3
"""At most one in so many epochs, the last ones, goes without mosaic, however short a training."""


class TrainingArguments(TypedDict, total=False):
    """What a training can be told; ``prepare_training`` says what each means."""

    model: str
    weights: Path | Literal["none"] | None
    img_weights: bool
    img_weights_mode: Mode
    epochs: int
    batch: int
    imgsz: int
    freeze: int
    max_backgrounds: int | None
    optimizer: str
    patience: int
    seed: int
    draw_seed: int | None
    device: str
    hyperparameters: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PreparedTraining:
    """A training whose arguments and data were checked, with nothing left to be chosen."""

    arguments: Mapping[str, Any]
    plan: TrainingPlan
    dataset_hash: str
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    notes: tuple[str, ...]


def train_detector(
    workspace: Workspace,
    *,
    runs: Path | None = None,
    expected_hash: str | None = None,
    any_device: bool = False,
    samples: Sequence[Sample] | None = None,
    progress: Progress | None = None,
    **arguments: Unpack[TrainingArguments],
) -> TrainedRun:
    """Train a detector on the train split of a workspace and choose its epoch on val.

    A run of the same arguments and data that was killed is gone on with after its last epoch.

    Args:
        workspace: where the images, classes and runs are.
        runs: the folder of numbered runs; None takes that of the workspace, whose models are
            what other commands use, and makes a bundle of the model for them.
        expected_hash: the data that the training has to be on; None takes what is there.
        any_device: go on with a run that was begun on another device too.
        samples: as for ``prepare_training``. A model of such keeps nothing to tell images of no
            class by: it is a teacher, which nobody asks about them.
        progress: called after every batch.
        arguments: see ``prepare_training``.

    Raises:
        TrainingError: an argument out of range, no box to learn from, no validation image, data
            that have changed, a loss that is no number, a GPU out of memory, or a disk that is
            full.
        DataError: faults in the workspace or images that cannot be decoded.
        WeightsError: first weights that do not fit.
    """
    ready = prepare_training(workspace, samples=samples, **arguments)
    _check_hash(workspace, ready.dataset_hash, expected_hash)
    run, resumed = open_run(
        workspace.runs if runs is None else runs,
        model=str(ready.arguments["model"]),
        arguments={**ready.arguments, "device": None} if any_device else ready.arguments,
        dataset_hash=ready.dataset_hash,
    )
    with locked(run):
        if any_device:
            run.update(device=ready.arguments["device"])
        ready = _with_precision_of(run, ready) if resumed else ready
        write_plan(ready.plan, run.folder / PLAN)
        write_seen(workspace, ready.train, run.folder, start=ready.plan.start)
        if (ledger := read_chain(workspace.root).copy) is not None:
            run.update(ledger=ledger)
        state = read_state(run.folder)
        if state is None or not state["complete"]:
            _train(run, ready.arguments, progress)
        metrics = finish_run(
            run,
            workspace=workspace,
            plan=ready.plan,
            val=ready.val,
            bundle=runs is None,
            rejects=samples is None,
        )
    return TrainedRun(run.folder, resumed, metrics, ready.notes)


def prepare_training(
    workspace: Workspace,
    *,
    model: str = "yolov5n",
    weights: Path | Literal["none"] | None = None,
    img_weights: bool = False,
    img_weights_mode: Mode = "yolov5",
    epochs: int = 100,
    batch: int = 64,
    imgsz: int = 256,
    freeze: int = 0,
    max_backgrounds: int | None = None,
    optimizer: str = "auto",
    patience: int = 100,
    seed: int = 0,
    draw_seed: int | None = None,
    device: str = "auto",
    hyperparameters: Mapping[str, float] | None = None,
    samples: Sequence[Sample] | None = None,
) -> PreparedTraining:
    """Check what a training is told and what it works on, and settle every choice.

    Args:
        workspace: where the images and classes are.
        model: ``yolov5n``, ``s``, ``m``, ``l`` or ``x``.
        weights: first weights: an official YOLOv5 v6/v7 file or a wafer model (safetensors);
            None takes the shipped ones where there are some for ``model``, ``"none"`` trains from
            scratch.
        img_weights: draw images by image weights, backgrounds keeping their share.
        img_weights_mode: how they are weighed, one of ``image_weights.MODES``.
        epochs: at least 1.
        batch: images a step, at least 1; shared out among several devices.
        imgsz: training size in pixels, a multiple of 32.
        freeze: how many of the first layers keep their weights, 0 to 24; 10 is the backbone.
        max_backgrounds: at most so many images without a defect in training; None takes all.
        optimizer: one of ``OPTIMIZERS``; ``auto`` chooses it, its ``lr0`` and momentum.
        patience: stop after so many epochs without a better validation.
        seed: decides the draws, the augmentation and the first values of untrained layers.
        draw_seed: decides which backgrounds are left out; None takes ``seed``. Trainings of
            different seeds are on the same data where they share it.
        device: ``auto``, ``cpu``, ``cuda:N``, or ``cuda:0,1`` for several.
        hyperparameters: values that replace those of ``HYPERPARAMETERS``.
        samples: images with their splits and boxes; None takes those of the workspace. One that
            comes twice is seen twice an epoch.

    Raises:
        TrainingError: an argument out of range, no box to learn from, or no validation image.
        DataError: faults in the workspace.
        WeightsError: first weights that do not fit.
    """
    given = dict(hyperparameters or {})
    devices = training_devices(device)
    faults = [
        *_faults(model, epochs, batch, imgsz, freeze, max_backgrounds, img_weights_mode, devices),
        *_number_faults(seed=seed, patience=patience),
        *faults_of(optimizer, given),
    ]
    if faults:
        raise TrainingError("; ".join(faults))
    start = _first_weights(model, weights)
    draw_seed = seed if draw_seed is None else draw_seed
    samples = workspace.samples() if samples is None else samples
    train, notes = _training_samples(workspace, samples, max_backgrounds, draw_seed)
    selection = select(samples, "val")
    val = selection.samples
    _check_samples(workspace, train, val)
    optimizer, hyp = resolve(
        optimizer,
        given,
        steps=-(-len(train) // batch) * epochs,
        classes=len(workspace.classes.detector_names),
    )
    arguments = {
        "model": model,
        "weights": None if start is None else sha256_file(start),
        "img_weights": img_weights_mode if img_weights else None,
        "epochs": epochs,
        "batch": batch,
        "imgsz": imgsz,
        "freeze": freeze,
        "max_backgrounds": max_backgrounds,
        "optimizer": optimizer,
        "patience": patience,
        "seed": seed,
        "draw_seed": draw_seed,
        "device": devices,
        "hyperparameters": hyp,
    }
    return PreparedTraining(
        arguments=arguments,
        plan=_plan(workspace, train, val, arguments=arguments, start=start),
        dataset_hash=dataset_hash(workspace, [*train, *val]),
        train=train,
        val=val,
        notes=(*_start_notes(start, weights), *notes, *_val_notes(selection)),
    )


def check_start(
    *, model: str, weights: Path | Literal["none"] | None, seed: int, device: str
) -> None:
    """Check those arguments of a training that need no data, as ``prepare_training`` would.

    Raises:
        TrainingError: an argument out of range.
        WeightsError: there are no such first weights, or they do not fit.
    """
    training_devices(device)
    faults = [*_model_faults(model), *_number_faults(seed=seed, patience=0)]
    if faults:
        raise TrainingError("; ".join(faults))
    network = build_model(model, names=["any"], channels=1)
    if (start := _first_weights(model, weights)) is not None:
        start_from(network, start)


def _with_precision_of(run: Run, ready: PreparedTraining) -> PreparedTraining:
    """Keep the precision that a training was begun with, on whatever processor it goes on."""
    if not (run.folder / PLAN).is_file():
        return ready
    precision = read_plan(run.folder / PLAN).precision
    return replace(ready, plan=replace(ready.plan, precision=precision))


def _train(run: Run, arguments: Mapping[str, Any], progress: Progress | None) -> None:
    hyp = arguments["hyperparameters"]
    overrides = {
        "model": f"{arguments['model']}.yaml",
        "data": str(run.folder / PLAN),
        "save_dir": str(run.folder),
        "exist_ok": True,
        "pretrained": False,
        "workers": min(8, os.cpu_count() or 1),
        "amp": arguments["device"] != "cpu",
        # A step after every batch. ultralytics adds up gradients until 64 images were seen: with
        # the small batches that small data call for that is a quarter of the steps. The trainer
        # also reads from here what batch was asked for.
        "nbs": arguments["batch"],
        **{k: arguments[k] for k in ("epochs", "batch", "imgsz", "optimizer", "patience")},
        "freeze": arguments["freeze"] or None,
        "seed": arguments["seed"],
        "device": arguments["device"].removeprefix("cuda:"),
        **hyp,
        "close_mosaic": min(int(hyp["close_mosaic"]), arguments["epochs"] // SHARE_WITHOUT_MOSAIC),
    }
    world = len(arguments["device"].split(","))
    if world > 1:
        train_in_processes(overrides, folder=run.folder, world=world, progress=progress)
        return
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
        img_weights=arguments["img_weights"],
        precision=precision,
        start=None if start is None else start.resolve(),
        cache=workspace.cache / "train",
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


def _faults(
    model: str,
    epochs: int,
    batch: int,
    imgsz: int,
    freeze: int,
    max_backgrounds: int | None,
    img_weights_mode: str,
    devices: str,
) -> list[str]:
    faults = _model_faults(model)
    world = len(devices.split(","))
    if epochs < 1:
        faults.append("--epochs must be at least 1")
    if batch < 1:
        faults.append("--batch must be at least 1")
    elif batch % world:
        faults.append(f"--batch {batch} cannot be shared out evenly among {world} devices")
    if imgsz < 64 or imgsz % 32:
        faults.append("--imgsz must be a multiple of 32, at least 64")
    if not 0 <= freeze <= LAYERS:
        faults.append(f"--freeze must be from 0 to {LAYERS}, the layers before the head")
    if max_backgrounds is not None and max_backgrounds < 0:
        faults.append("--max-backgrounds must not be negative")
    if img_weights_mode not in MODES:
        faults.append(f"--img-weights-mode must be one of {', '.join(MODES)}")
    return faults


def _model_faults(model: str) -> list[str]:
    if model in ARCHITECTURES:
        return []
    return [f"no detector is called {model!r}; choose one of {', '.join(ARCHITECTURES)}"]


def _number_faults(*, seed: int, patience: int) -> list[str]:
    faults = []
    if not 0 <= seed <= LARGEST_SEED:
        faults.append(f"--seed must be from 0 to {LARGEST_SEED}")
    if patience < 0:
        faults.append("--patience must not be negative; 0 never stops early")
    return faults


def _check_hash(workspace: Workspace, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        raise TrainingError(
            f"{workspace.root}: the images, labels or splits have changed since this was begun "
            f"(data {expected[:12]}, now {digest[:12]}); put them back, or start anew"
        )


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
