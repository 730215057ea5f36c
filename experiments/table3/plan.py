"""The seven experiments of Table 3, what each scale makes of them, and how that differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wafer.detector.training import TrainingArguments

__all__ = [
    "EXPERIMENTS",
    "SCALES",
    "Experiment",
    "Published",
    "Scale",
    "ScaleName",
    "Setting",
    "cost",
    "settings",
    "training_arguments",
]

ScaleName = Literal["smoke", "cpu", "paper"]

NOMINAL_BATCH = 64
WEIGHT_DECAY = 0.0005


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper's Table 3 says about one experiment, on its validation images."""

    precision: float
    recall: float
    map50_95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One row of the paper's Table 3 with the paper's own settings.

    ``seed`` is added to that of the table. ``evolves`` is the experiment whose trainings are those
    of an evolution of hyperparameters, ``evolved`` the one that takes its result.
    """

    name: str
    batch: int
    epochs: int
    img_weights: bool
    published: Published
    seed: int = 0
    evolves: bool = False
    evolved: bool = False


EXPERIMENTS = (
    Experiment(
        name="exp1",
        batch=64,
        epochs=100,
        img_weights=False,
        published=Published(0.9628, 0.8994, 0.6912),
    ),
    Experiment(
        name="exp2",
        batch=256,
        epochs=100,
        img_weights=False,
        published=Published(0.9484, 0.9076, 0.7081),
    ),
    Experiment(
        name="exp3",
        batch=512,
        epochs=100,
        img_weights=False,
        published=Published(0.9486, 0.9229, 0.7215),
    ),
    Experiment(
        name="exp4",
        batch=64,
        epochs=100,
        img_weights=False,
        published=Published(0.9575, 0.9123, 0.7057),
        seed=1,
    ),
    Experiment(
        name="exp5",
        batch=64,
        epochs=100,
        img_weights=True,
        published=Published(0.9564, 0.9253, 0.7398),
    ),
    Experiment(
        name="exp6",
        batch=64,
        epochs=15,
        img_weights=True,
        published=Published(0.9299, 0.8997, 0.7033),
        evolves=True,
    ),
    Experiment(
        name="exp7",
        batch=64,
        epochs=200,
        img_weights=True,
        published=Published(0.9566, 0.9013, 0.708),
        evolved=True,
    ),
)
"""The rows of the table; exp1 and exp4 are the same settings with two seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What becomes of the paper's settings.

    ``images`` (their side ``size`` in pixels, ``difficulty`` as for ``wafer synth``) are those of
    the synthetic workspace, ``image_size`` the side in pixels that is trained on. ``batches`` and
    ``epochs`` go from the paper's number to ours. ``generations`` is the cost of the evolution in
    trainings, ``backgrounds`` how many images without a defect are trained on at most.
    ``hyperparameters`` replace the defaults of ``wafer train``. ``scaled_decay`` tells that weight
    decay grows with a batch above 64, as in YOLOv5. ``remark`` is what a reader has to be told.
    """

    name: ScaleName
    images: int
    size: int
    difficulty: str
    image_size: int
    batches: Mapping[int, int]
    epochs: Mapping[int, int]
    generations: int
    backgrounds: int
    optimizer: str
    hyperparameters: Mapping[str, float]
    scaled_decay: bool = False
    remark: str | None = None


SCALES: Mapping[ScaleName, Scale] = {
    "smoke": Scale(
        name="smoke",
        images=64,
        size=96,
        difficulty="easy",
        image_size=64,
        batches={64: 16, 256: 32, 512: 64},
        epochs={100: 2, 15: 1, 200: 3},
        generations=2,
        backgrounds=8,
        optimizer="AdamW",
        hyperparameters={"lr0": 0.001},
        remark="at scale smoke nothing is learnt: it shows that everything runs, and no more",
    ),
    # Images and batches an eighth, so that an epoch has as many steps as in the paper; epochs a
    # fifth, but not below ten, in which a detector has hardly found its first box; three quarters
    # of the image size, which halves the time.
    "cpu": Scale(
        name="cpu",
        images=1068,
        size=680,
        difficulty="paper",
        image_size=192,
        batches={64: 8, 256: 32, 512: 64},
        epochs={100: 20, 15: 10, 200: 40},
        generations=7,
        backgrounds=12,
        optimizer="AdamW",
        hyperparameters={"lr0": 0.001},
    ),
    # What differs from YOLOv5's hyp.scratch-low.yaml among the hyperparameters that both have.
    "paper": Scale(
        name="paper",
        images=8546,
        size=680,
        difficulty="paper",
        image_size=256,
        batches={64: 64, 256: 256, 512: 512},
        epochs={100: 100, 15: 15, 200: 200},
        generations=7,
        backgrounds=100,
        optimizer="SGD",
        hyperparameters={"flipud": 0.0, "close_mosaic": 0},
        scaled_decay=True,
    ),
}


def cost(experiment: Experiment, scale: Scale) -> int:
    """Return how many epochs an experiment takes, all trainings of an evolution together."""
    return scale.epochs[experiment.epochs] * (scale.generations if experiment.evolves else 1)


def training_arguments(
    experiment: Experiment,
    scale: Scale,
    *,
    seed: int,
    model: str,
    weights: Path | Literal["none"] | None,
    device: str,
) -> TrainingArguments:
    """Return what the training of an experiment is told, without the result of an evolution.

    Args:
        experiment: the row of the table.
        scale: what its settings become.
        seed: of the table.
        model: as for ``prepare_training``, like ``weights`` and ``device``.
        weights: see ``model``.
        device: see ``model``.
    """
    hyperparameters = dict(scale.hyperparameters)
    if scale.scaled_decay:
        hyperparameters["weight_decay"] = WEIGHT_DECAY * experiment.batch / NOMINAL_BATCH
    return {
        "model": model,
        "weights": weights,
        "img_weights": experiment.img_weights,
        "epochs": scale.epochs[experiment.epochs],
        "batch": scale.batches[experiment.batch],
        "imgsz": scale.image_size,
        "max_backgrounds": scale.backgrounds,
        "optimizer": scale.optimizer,
        "hyperparameters": hyperparameters,
        "seed": seed + experiment.seed,
        "device": device,
    }


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the paper has it, and as it is here."""

    name: str
    paper: str
    here: str


def settings(scale: Scale, *, model: str, start: str, workspace: str | None) -> tuple[Setting, ...]:
    """Return all settings that decide about the figures, the paper's beside ours.

    Args:
        scale: of the table.
        model: which YOLOv5.
        start: the first weights, in words.
        workspace: the name of the user's own; None is the synthetic workspace of the scale.
    """
    return (
        *_data_settings(scale, workspace),
        Setting("image size", "256 px", f"{scale.image_size} px"),
        Setting("batch", _numbers(scale.batches), _numbers(scale.batches.values())),
        Setting("epochs", _numbers(scale.epochs), _numbers(scale.epochs.values())),
        Setting(
            "evolution (exp6)",
            "7 generations of YOLOv5's evolve",
            f"{scale.generations} trainings, --evolve-mode classic (YOLOv5 v7.0), but validated "
            "after every epoch, so that the AP feeds the image weights",
        ),
        Setting("seeds", "not given; exp1 and exp4 have the same settings", "exp4 has its own"),
        Setting(
            "detector",
            "YOLOv5 with anchors, size not given",
            f"{model} with ultralytics' head and loss, without anchors",
        ),
        Setting("first weights", "YOLOv5's, trained on COCO", start),
        *_optimizer_settings(scale),
        Setting(
            "image weights",
            "YOLOv5's: images without a box are never drawn",
            "the same formula; images without a box keep their share, none comes more than ten "
            "times an epoch, the AP is a running mean",
        ),
        Setting("best epoch", "by 0.1 mAP50 + 0.9 mAP50-95", "by mAP50-95"),
        Setting(
            "precision, recall, AP",
            "YOLOv5's: precision and recall where the mean F1 is highest",
            "precision and recall by the same formula; AP and matching by pycocotools",
        ),
    )


def _data_settings(scale: Scale, workspace: str | None) -> tuple[Setting, ...]:
    ours = f"those of {workspace}"
    split = "split as they are there"
    if workspace is None:
        ours = (
            f"{scale.images:,} synthetic ones of {scale.size} px, difficulty {scale.difficulty}, "
            "classes in the paper's proportions, most of them assumed"
        )
        split = "split 65/15/20, wafers kept whole"
    return (
        Setting("images", "8,546 real ones of 680 px", ours),
        Setting(
            "images without a defect in training", "100 of 2,000", f"at most {scale.backgrounds}"
        ),
        Setting(
            "figures from",
            "validation images",
            f"val, which also chose the epoch, and test, which no training saw; {split}",
        ),
    )


def _optimizer_settings(scale: Scale) -> tuple[Setting, ...]:
    if scale.scaled_decay:
        optimizer = "the same, with weight decay scaled by the batch as there"
        augmentation = "the same; there is no hue or saturation in grey images"
    else:
        optimizer = (
            f"{scale.optimizer}, lr0 {scale.hyperparameters['lr0']:g}, for trainings of few steps"
        )
        augmentation = "that of wafer train: vertical flips too, no mosaic in the last epochs"
    return (
        Setting("optimizer", "not given; YOLOv5's default is SGD, lr0 0.01", optimizer),
        Setting("augmentation", "not given; YOLOv5's default", augmentation),
    )


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
