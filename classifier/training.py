"""Training a classifier on a workspace: choose the images, fit, calibrate, write the model file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253

from wafer.classifier.images import Chosen, LabelledImages, choose_images, load_images
from wafer.classifier.loading import TEMPERATURE, batched_logits
from wafer.classifier.models import STATE, Logits, Progress, Settings, Task, model_named
from wafer.classifier.names import CLASSIFIERS, NETWORKS
from wafer.classifier.pretrained import Pretrained, first_weights
from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import TrainingError
from wafer.datasets.files import sha256_file
from wafer.datasets.runs import MODEL_FILE, Run, TrainedRun, locked, open_run
from wafer.datasets.workspace import Workspace, dataset_hash
from wafer.evaluation.calibration import killer_escape_limit
from wafer.evaluation.temperature import fit_temperature, log_loss, probabilities
from wafer.inference.devices import torch_device
from wafer.weights.checkpoint import save_checkpoint
from wafer.weights.decision_rule import DecisionRule

__all__ = ["train_classifier"]

LARGEST_SEED = 2**31
LIBRARIES = ("scikit-image", "scikit-learn", "timm")
SMALLEST_SIDE = 32
SMALLEST_SIDE_OF = {"inception_v3": 96}


def train_classifier(
    workspace: Workspace,
    *,
    model: str,
    pretrained: Pretrained | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    imgsz: int | None = None,
    lr0: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    runs: Path | None = None,
    progress: Progress | None = None,
) -> TrainedRun:
    """Train a classifier on the train split of a workspace; val says when to stop.

    It learns from every image whose class is known, with boxes or without. A run of the same
    arguments and data that was killed is gone on with.

    Args:
        workspace: where the images, classes and runs are.
        model: one of ``CLASSIFIERS``.
        pretrained: first weights of a network, see `first_weights`; None is ``cached``.
        epochs: at least 1; None for this and the next four takes what suits the model, the paper's
            value where it has one.
        batch: images a step, at least 1.
        imgsz: side of the input in pixels, a multiple of 32.
        lr0: first learning rate, above 0 and at most 1.
        patience: stop after so many epochs without a lower loss on val; 0 never stops early.
        seed: decides every random choice.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        runs: the folder of numbered runs; None takes that of the workspace.
        progress: called after every batch.

    Raises:
        TrainingError: an argument out of range, fewer than two classes to tell apart, no
            validation image, or a training that gives no usable numbers.
        DataError: faults in the workspace or images that cannot be decoded.
        WeightsError: first weights that are missing or do not fit.
    """
    if model not in CLASSIFIERS:
        raise TrainingError(
            f"no classifier is called {model!r}; choose one of {', '.join(CLASSIFIERS)}"
        )
    start = _start(model, pretrained)
    module = model_named(model)
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "image_size": imgsz,
        "learning_rate": lr0,
        "patience": patience,
    }
    settings = replace(module.SETTINGS, **{k: v for k, v in given.items() if v is not None})
    _check_settings(model, settings, seed, steps=module.SETTINGS.batch > 0)
    samples = workspace.samples()
    train, val = (choose_images(workspace, samples, split) for split in ("train", "val"))
    _check_images(train, val)
    where = str(torch_device(device))
    run, resumed = open_run(
        workspace.runs if runs is None else runs,
        model=model,
        arguments={
            "model": model,
            "pretrained": None if start is None else sha256_file(start),
            **asdict(settings),
            "seed": seed,
            "device": where,
        },
        dataset_hash=dataset_hash(workspace, [*train.samples, *val.samples]),
    )
    with locked(run):
        libraries = {name: version(name) for name in LIBRARIES}
        run.update(versions={**run.record["versions"], **libraries})
        task = Task(
            train=load_images(workspace, train, image_size=settings.image_size),
            val=load_images(workspace, val, image_size=settings.image_size),
            classes=len(workspace.classes),
            settings=settings,
            start=start,
            seed=seed,
            device=where,
            folder=run.folder,
            progress=progress,
        )
        metrics = _fit(run, task, workspace=workspace)
    return TrainedRun(run.folder, resumed, metrics, _notes(workspace.classes, train, val))


def _fit(run: Run, task: Task, *, workspace: Workspace) -> Mapping[str, float | None]:
    record = run.record
    name = str(record["model"])
    model = model_named(name)
    channels = 3 if workspace.colour else 1
    tensors = model.fit(task)
    network = model.network(tensors, classes=task.classes, channels=channels, device=task.device)
    logits = batched_logits(network, task.val.pixels)
    temperature = fit_temperature(logits, task.val.labels)
    save_checkpoint(
        run.folder / MODEL_FILE,
        {**tensors, TEMPERATURE: torch.tensor([temperature])},
        architecture=name,
        classes=workspace.classes,
        image_size=task.settings.image_size,
        channels=channels,
        white_level=workspace.white_level,
        decision=_decision(logits, temperature, task.val, workspace.classes),
        dataset_hash=record["dataset_hash"],
        training=record["arguments"],
        versions=record["versions"],
    )
    metrics = {
        "accuracy": float((logits.argmax(axis=1) == task.val.labels).mean()),
        "log_loss": log_loss(logits / temperature, task.val.labels),
    }
    run.update(metrics=metrics, temperature=temperature, status="finished")
    (run.folder / STATE).unlink(missing_ok=True)
    return metrics


def _decision(
    logits: Logits, temperature: float, val: LabelledImages, classes: ClassTable
) -> DecisionRule:
    """Return the P(defect) from which on "no defect" goes to review, where a class is a killer."""
    killers = [position for position, c in enumerate(classes) if c.killer]
    if classes.none_class is None or not killers:
        return DecisionRule()
    none = classes.names.index(classes.none_class.name)
    defect = 1 - probabilities(logits, temperature=temperature)[:, none]
    escaping = defect[np.isin(val.labels, killers)].tolist()
    return DecisionRule(none_review_above=killer_escape_limit(escaping))


def _start(model: str, pretrained: Pretrained | None) -> Path | None:
    if model in NETWORKS:
        return first_weights(model, pretrained or "cached")
    if pretrained is not None:
        raise TrainingError(f"--pretrained goes with a network, not with {model}; leave it out")
    return None


def _check_settings(model: str, settings: Settings, seed: int, *, steps: bool) -> None:
    side = SMALLEST_SIDE_OF.get(model, SMALLEST_SIDE)
    least = 2 if model in NETWORKS else 1  # batch norm has no spread of one image
    faults = [
        (settings.epochs < 1, "--epochs must be at least 1"),
        (steps and settings.batch < least, f"--batch must be at least {least}"),
        (not steps and settings.batch != 0, "this model takes no --batch; leave it out"),
        (
            settings.image_size < side or settings.image_size % 32 != 0,
            f"--imgsz must be a multiple of 32, at least {side}",
        ),
        (not 0 < settings.learning_rate <= 1, "--lr0 must be above 0 and at most 1"),
        (settings.patience < 0, "--patience must not be negative; 0 never stops early"),
        (not 0 <= seed <= LARGEST_SEED, f"--seed must be from 0 to {LARGEST_SEED}"),
    ]
    found = [text for wrong, text in faults if wrong]
    if found:
        raise TrainingError("; ".join(found))


def _check_images(train: Chosen, val: Chosen) -> None:
    if len(train.counts) < 2:
        known = ", ".join(train.counts) or "none"
        raise TrainingError(
            f"a classifier needs training images of two classes, and these have {known}; give the "
            "images a class in image_labels.csv, or run `wafer split`"
        )
    if not val.samples:
        raise TrainingError(
            "no image of a known class is in the val split, so no epoch can be chosen; run "
            "`wafer split`"
        )


def _notes(classes: ClassTable, train: Chosen, val: Chosen) -> tuple[str, ...]:
    texts = []
    left_out = train.left_out + val.left_out
    if left_out:
        texts.append(f"{left_out} images without exactly one known class were left out")
    for name in classes.names:
        texts += _class_notes(name, train.counts, val.counts)
    return tuple(texts)


def _class_notes(name: str, train: Counter[str], val: Counter[str]) -> list[str]:
    if not train[name]:
        return [f"{name} has no training image: it will never be answered"]
    few = [f"{name} has one training image: too few to learn from"] if train[name] == 1 else []
    if not val[name]:
        few.append(f"{name} has no validation image: nobody knows how well it is found")
    return few
