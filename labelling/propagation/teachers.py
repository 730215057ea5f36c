"""Detectors that learn from what people drew, each without one fold, and label what they missed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wafer.datasets.records import Annotation, Sample
from wafer.datasets.runs import MODEL_FILE, newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.detector.training import train_detector
from wafer.labelling.propagation.roles import Roles
from wafer.labelling.propagation.scores import Ask

__all__ = ["HostedTeacher", "TeacherSettings", "Teaching", "plan_teaching", "train_teacher"]

BACKGROUND_SHARE = 0.3
"""Of the training images at most this share is empty."""
DRAWN_TWICE = 2
"""How often a person's image is seen beside those that a model labelled."""
LONGER = 1.5
"""A later round sees at most so many times as many images as the first."""
FEWEST_EPOCHS = 8
FEWEST_VAL = 40
VAL_SHARE = 0.5
"""Images that choose the epoch, as a share of those trained on; a validation takes its time."""


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """How teachers are trained; arguments of `wafer train`."""

    model: str
    weights: Path | Literal["none"] | None
    epochs: int
    batch: int
    imgsz: int
    seed: int
    device: str


@dataclass(frozen=True, slots=True)
class HostedTeacher:
    """A finished model elsewhere: what it is called in the ledger, and how it is asked."""

    name: str
    ask: Ask


@dataclass(frozen=True, slots=True)
class Teaching:
    """What one teacher learns from, which images choose its epoch, and for how long it trains."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    epochs: int


def plan_teaching(
    roles: Roles,
    *,
    fold: int,
    labelled: Mapping[str, Sequence[Annotation]] | None,
    hardest: Mapping[str, float],
    epochs: int,
    seed: int,
) -> Teaching:
    """Choose the images of a teacher that never sees those of its fold.

    Args:
        roles: what each image is for.
        fold: the one that is held out.
        labelled: the boxes of images of the pool that were accepted; None in the first round.
        hardest: how sure earlier teachers were of a defect on an empty image; the surest first.
        epochs: of the first round.
        seed: chooses among empty images and validation images.
    """
    shuffle = random.Random(seed)
    drawn = [s for s in roles.drawn if roles.fold[s.image] != fold]
    pseudo = [
        replace(s, annotations=tuple(labelled[s.image]))
        for s in roles.pool
        if labelled is not None
        and s.image in labelled
        and s.split == "train"
        and roles.fold[s.image] != fold
    ]
    boxed = drawn if labelled is None else [*drawn * DRAWN_TWICE, *pseudo]
    empty = [s for s in roles.empty if roles.fold[s.image] != fold]
    shuffle.shuffle(empty)
    empty.sort(key=lambda s: -hardest.get(s.image, 0.0))
    train = [replace(s, split="train") for s in [*boxed, *empty[: _backgrounds(boxed)]]]
    first = len(drawn) + min(len(empty), _backgrounds(drawn))
    wanted = epochs if labelled is None else round(epochs * LONGER * first / len(train))
    return Teaching(
        train=tuple(train),
        val=_validation(roles, fold, len(train), shuffle),
        epochs=max(min(wanted, epochs), min(FEWEST_EPOCHS, epochs)),
    )


def _backgrounds(boxed: Sequence[Sample]) -> int:
    """Return how many empty images go with so many others, at most."""
    return round(len(boxed) * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE))


def _validation(
    roles: Roles, fold: int, trained: int, shuffle: random.Random
) -> tuple[Sample, ...]:
    held_out = [s for s in roles.drawn if roles.fold[s.image] == fold]
    val = list(roles.val or held_out)
    most = max(FEWEST_VAL, round(trained * VAL_SHARE))
    chosen = shuffle.sample(val, min(most, len(val)))
    return tuple(replace(s, split="val") for s in sorted(chosen, key=lambda s: s.image))


def train_teacher(
    workspace: Workspace,
    teaching: Teaching,
    *,
    folder: Path,
    settings: TeacherSettings,
    progress: Callable[[float], None],
) -> Path:
    """Train a teacher, or find it trained, and return its model file.

    Args:
        workspace: where the images are.
        teaching: what it learns from.
        folder: its own, for the run.
        settings: how it is trained.
        progress: called with the share that is done, 0 to 1.
    """
    run = newest_finished_run(folder)
    if run is not None:
        progress(1.0)
        return run.folder / MODEL_FILE

    def report(epoch: int, epochs: int, batch: int, batches: int) -> None:
        progress(((epoch - 1) * batches + batch) / (epochs * batches))

    trained = train_detector(
        workspace,
        runs=folder,
        samples=[*teaching.train, *teaching.val],
        progress=report,
        model=settings.model,
        weights=settings.weights,
        epochs=teaching.epochs,
        batch=settings.batch,
        imgsz=settings.imgsz,
        seed=settings.seed,
        device=settings.device,
    )
    return trained.folder / MODEL_FILE
