"""Training a classifier on a workspace: choose the images, fit, calibrate, write the model file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

import numpy as np
import torch  # noqa: TID253

from wafer.classifier.cnn import last_epoch
from wafer.classifier.exporting import export_classifier
from wafer.classifier.images import Chosen, LabelledImages, choose_images, load_images
from wafer.classifier.knowing import known_tensors, seen
from wafer.classifier.loading import TEMPERATURE, look_at
from wafer.classifier.models import STATE, Logits, Progress, Sampler, Settings, Task, model_named
from wafer.classifier.names import CLASSIFIERS, NETWORKS
from wafer.classifier.pretrained import Pretrained, first_weights
from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import DataError, Fault, TrainingError
from wafer.datasets.files import sha256_file
from wafer.datasets.runs import MODEL_FILE, Run, TrainedRun, locked, open_run
from wafer.datasets.seen import write_seen
from wafer.datasets.workspace import Workspace, dataset_hash
from wafer.evaluation.calibration import killer_escape_limit
from wafer.evaluation.temperature import fit_temperature, log_loss, probabilities
from wafer.inference.bundle import TOLERANCES
from wafer.inference.devices import torch_device
from wafer.weights.checkpoint import save_checkpoint
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.loading import Tensors

__all__ = [
    "LAST_FILE",
    "ClassifierArguments",
    "Plan",
    "fit_decision",
    "plan_notes",
    "plan_training",
    "run_training",
    "train_classifier",
]

LAST_FILE = Path("weights", "last.safetensors")
"""Where a run folder keeps a network as it was after the last epoch."""

LARGEST_SEED = 2**31
LIBRARIES = ("scikit-image", "scikit-learn", "timm")
SMALLEST_SIDE = 32
SMALLEST_SIDE_OF = {"inception_v3": 96}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training whose arguments and images have been checked, before any image is decoded."""

    model: str
    settings: Settings
    start: Path | None
    seed: int
    device: str
    train: Chosen
    val: Chosen
    dataset_hash: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Return all that decides the result, for run.json."""
        return {
            "model": self.model,
            "pretrained": None if self.start is None else sha256_file(self.start),
            **asdict(self.settings),
            "seed": self.seed,
            "device": self.device,
        }


class ClassifierArguments(TypedDict, total=False):
    """What a training can be told; `plan_training` says what each means."""

    model: Required[str]
    pretrained: Pretrained | None
    epochs: int | None
    batch: int | None
    imgsz: int | None
    lr0: float | None
    patience: int | None
    sampler: Sampler | None
    cutmix: float | None
    ghost_batch: int | None
    seed: int
    device: str


def train_classifier(
    workspace: Workspace,
    *,
    runs: Path | None = None,
    progress: Progress | None = None,
    **arguments: Unpack[ClassifierArguments],
) -> TrainedRun:
    """Train a classifier on the train split of a workspace; val says when to stop.

    A run of the same arguments and data that was killed is gone on with.

    Args:
        workspace: where the images, classes and runs are.
        runs: the folder of numbered runs; None takes that of the workspace, whose folder of models
            then gets a bundle of a network.
        progress: called after every batch.
        arguments: as for `plan_training`.

    Raises:
        TrainingError: as `plan_training`, or a training that gives no usable numbers.
        DataError, WeightsError: as `plan_training`.
    """
    return run_training(
        workspace,
        plan_training(workspace, **arguments),
        runs=workspace.runs if runs is None else runs,
        bundle=runs is None,
        progress=progress,
    )


def plan_training(
    workspace: Workspace,
    *,
    model: str,
    pretrained: Pretrained | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    imgsz: int | None = None,
    lr0: float | None = None,
    patience: int | None = None,
    sampler: Sampler | None = None,
    cutmix: float | None = None,
    ghost_batch: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Plan:
    """Check the arguments and images of a training.

    It learns from every image whose class is known, with boxes or without.

    Args:
        workspace: where the images and classes are.
        model: one of ``CLASSIFIERS``.
        pretrained: first weights of a network, see `first_weights`; None is ``cached``.
        epochs: at least 1; None for this and the next four takes what suits the model, the paper's
            value where it has one.
        batch: images a step, at least 1.
        imgsz: side of the input in pixels, a multiple of 32.
        lr0: first learning rate, above 0 and at most 1.
        patience: stop after so many epochs without a lower loss on val; 0 never stops early.
        sampler: of a network: how often the images of a class come, see `drawn_images`.
        cutmix: of a network: probability that an image gets a piece of another, 0 to 1.
        ghost_batch: of a network: images over which its batch norms take statistics in training, at
            least 2 and at most half a batch; 0 for the batch.
        seed: decides every random choice.
        device: ``auto``, ``cpu`` or ``cuda:N``.

    Raises:
        TrainingError: an argument out of range, fewer than two classes to tell apart, or no
            validation image.
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
        **_of_networks(model, sampler=sampler, cutmix=cutmix, ghost_batch=ghost_batch),
    }
    settings = replace(module.SETTINGS, **{k: v for k, v in given.items() if v is not None})
    _check_settings(model, settings, seed, steps=module.SETTINGS.batch > 0)
    samples = workspace.samples()
    train, val = (choose_images(workspace, samples, split) for split in ("train", "val"))
    _check_images(train, val)
    return Plan(
        model=model,
        settings=settings,
        start=start,
        seed=seed,
        device=str(torch_device(device)),
        train=train,
        val=val,
        dataset_hash=dataset_hash(workspace, [*train.samples, *val.samples]),
    )


def run_training(
    workspace: Workspace, plan: Plan, *, runs: Path, bundle: bool, progress: Progress | None
) -> TrainedRun:
    """Train as planned, in the unfinished run of this plan or a new one; raises as planning does.

    Args:
        workspace: that of the plan.
        plan: from `plan_training`.
        runs: the folder of runs.
        bundle: whether a bundle is made of a network at the end.
        progress: called after every batch.
    """
    train, val = _load(workspace, plan)
    run, resumed = open_run(
        runs, model=plan.model, arguments=plan.arguments, dataset_hash=plan.dataset_hash
    )
    with locked(run):
        libraries = {name: version(name) for name in LIBRARIES}
        run.update(versions={**run.record["versions"], **libraries})
        write_seen(workspace, plan.train.samples, run.folder, start=plan.start)
        task = Task(
            train=train,
            val=val,
            classes=len(workspace.classes),
            settings=plan.settings,
            start=plan.start,
            seed=plan.seed,
            device=plan.device,
            folder=run.folder,
            progress=progress,
        )
        metrics = _fit(run, task, workspace=workspace, bundle=bundle)
    return TrainedRun(run.folder, resumed, metrics, plan_notes(workspace.classes, plan))


def _load(workspace: Workspace, plan: Plan) -> list[LabelledImages]:
    """Return the images of train and of val; those that cannot be decoded are named together."""
    loaded: list[LabelledImages] = []
    faults: list[Fault] = []
    for chosen in (plan.train, plan.val):
        try:
            loaded.append(load_images(workspace, chosen, image_size=plan.settings.image_size))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    return loaded


def plan_notes(classes: ClassTable, plan: Plan) -> tuple[str, ...]:
    """Return what a user should know of the images of a training."""
    texts = []
    left_out = plan.train.left_out + plan.val.left_out
    if left_out:
        texts.append(f"{left_out} images without exactly one known class were left out")
    for name in classes.names:
        texts += _class_notes(name, plan.train.counts, plan.val.counts)
    return tuple(texts)


def _fit(run: Run, task: Task, *, workspace: Workspace, bundle: bool) -> Mapping[str, float | None]:
    name = str(run.record["model"])
    tensors = model_named(name).fit(task)
    if name in NETWORKS:
        _save(run, task, last_epoch(task), LAST_FILE, workspace=workspace)
    metrics, temperature = _save(run, task, tensors, MODEL_FILE, workspace=workspace)
    run.update(metrics=metrics, temperature=temperature)
    if bundle and name in NETWORKS:
        run.note_bundle(export_classifier(workspace, run.folder).folder)
    run.update(status="finished")
    (run.folder / STATE).unlink(missing_ok=True)
    return metrics


def _save(
    run: Run, task: Task, tensors: Tensors, file: Path, *, workspace: Workspace
) -> tuple[Mapping[str, float | None], float]:
    """Write a model file; return its metrics on validation, and the temperature that fits them."""
    record = run.record
    name = str(record["model"])
    channels = 3 if workspace.colour else 1
    network = model_named(name).network(
        tensors, classes=task.classes, channels=channels, device=task.device
    )
    logits, features = look_at(network, task.val.pixels)
    temperature = fit_temperature(logits, task.val.labels)
    known: Tensors = {}
    if file == MODEL_FILE:
        val = seen(logits, features, temperature=temperature)
        known = known_tensors(network, task, val=val, temperature=temperature)
    save_checkpoint(
        run.folder / file,
        {**tensors, TEMPERATURE: torch.tensor([temperature]), **known},
        architecture=name,
        classes=workspace.classes,
        image_size=task.settings.image_size,
        channels=channels,
        white_level=workspace.white_level,
        decision=fit_decision(logits, temperature, task.val, workspace.classes),
        dataset_hash=record["dataset_hash"],
        training=record["arguments"],
        versions=record["versions"],
    )
    metrics = {
        "accuracy": float((logits.argmax(axis=1) == task.val.labels).mean()),
        "log_loss": log_loss(logits / temperature, task.val.labels),
    }
    return metrics, temperature


def fit_decision(
    logits: Logits, temperature: float, val: LabelledImages, classes: ClassTable
) -> DecisionRule:
    """Return the P(defect) from which on "no defect" goes to review, where a class is a killer.

    An engine that runs a bundle may give each killer image less by the tolerance of scores.
    """
    killers = [position for position, c in enumerate(classes) if c.killer]
    if classes.none_class is None or not killers:
        return DecisionRule()
    none = classes.names.index(classes.none_class.name)
    defect = 1 - probabilities(logits, temperature=temperature)[:, none]
    lowest = np.maximum(defect[np.isin(val.labels, killers)] - TOLERANCES["f32"].score, 0)
    return DecisionRule(none_review_above=killer_escape_limit(lowest.tolist()))


def _start(model: str, pretrained: Pretrained | None) -> Path | None:
    if model in NETWORKS:
        return first_weights(model, pretrained or "cached")
    if pretrained is not None:
        raise TrainingError(f"--pretrained goes with a network, not with {model}; leave it out")
    return None


def _of_networks(model: str, **options: object) -> dict[str, object]:
    given = [name for name, value in options.items() if value is not None]
    if given and model not in NETWORKS:
        option = given[0].replace("_", "-")
        raise TrainingError(f"--{option} goes with a network, not with {model}; leave it out")
    return options


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
        (not 0 <= settings.cutmix <= 1, "--cutmix must be from 0 to 1"),
        (
            settings.ghost_batch != 0 and not 2 <= settings.ghost_batch <= settings.batch / 2,
            "--ghost-batch must be at least 2 and at most half of --batch",
        ),
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


def _class_notes(name: str, train: Counter[str], val: Counter[str]) -> list[str]:
    if not train[name]:
        return [
            f"{name} has no training image: nothing of it is learnt, and an answer of it is chance"
        ]
    few = [f"{name} has one training image: too few to learn from"] if train[name] == 1 else []
    if not val[name]:
        few.append(f"{name} has no validation image: nobody knows how well it is found")
    return few
