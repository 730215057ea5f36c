"""The models of Tables 1 and 2, what the paper says of them, and what each scale makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wafer.experiments.table3.plan import ScaleName

__all__ = [
    "CLASSIFIERS",
    "PAPER_SETTINGS",
    "PUBLISHED",
    "SCALES",
    "Published",
    "Scale",
    "SpeedTest",
    "Training",
    "conditions",
    "paper_settings",
    "published",
]

CLASSIFIERS = (
    "inception_v3",
    "resnet50",
    "efficientnet_b3",
    "efficientnet_b7",
    "efficientnet_lite0",
    "xgboost",
    "mlp_hog",
    "mlp",
)
"""The rows of both tables; the detector is the last one."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper says of a model: two figures of Table 1, and Table 2 as it is printed."""

    weighted_accuracy: float | None = None
    mean_confidence: float | None = None
    speed: str | None = None


PUBLISHED: Mapping[str, Published] = {
    "inception_v3": Published(0.98320, 0.9945, "69.24 ms"),
    "resnet50": Published(0.97121, 0.98122, "70.04 ms"),
    "efficientnet_b3": Published(0.9656, 0.99095, "765.613 s, GPU"),
    "efficientnet_b7": Published(0.9663, 0.9923, "1421.05 s, GPU"),
}
DETECTOR = Published(0.976, 0.9121)

PAPER_SETTINGS: Mapping[str, tuple[int, int]] = {
    "inception_v3": (64, 50),
    "efficientnet_b3": (128, 20),
    "efficientnet_b7": (128, 20),
    "mlp_hog": (200, 20),
    "mlp": (200, 20),
}
"""Batch and epochs, where the paper gives them; all its images are of 256 px."""
DETECTOR_SETTINGS = (64, 100)
"""Of exp5 in Table 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is told to the training of a classifier; None is what `wafer train` takes."""

    epochs: int | None = None
    batch: int | None = None
    image_size: int | None = None
    patience: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedTest:
    """How speed is measured: images of ``image_size`` pixels, one and ``batches`` at a time.

    Each is repeated for ``seconds``.
    """

    image_size: int
    seconds: float
    batches: tuple[int, ...] = (4, 16, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What becomes of the paper's settings.

    ``images`` (their side ``size`` in pixels, ``counts`` and ``difficulty`` as for `wafer synth`)
    are those of the synthetic workspace. ``trainings`` are the classifiers that differ from `wafer
    train`, ``detector`` is what the detector is told. ``remark`` is what a reader has to be told.
    """

    name: ScaleName
    images: int
    size: int
    counts: str
    difficulty: str
    detector: Mapping[str, Any]
    trainings: Mapping[str, Training] = field(default_factory=dict)
    speed: SpeedTest
    remark: str | None = None


SCALES: Mapping[ScaleName, Scale] = {
    # inception_v3 takes no fewer pixels than 96.
    "smoke": Scale(
        name="smoke",
        images=48,
        size=96,
        counts="balanced",
        difficulty="easy",
        detector={
            "epochs": 1,
            "batch": 16,
            "imgsz": 64,
            "max_backgrounds": 8,
            "optimizer": "AdamW",
            "hyperparameters": {"lr0": 0.001},
        },
        trainings={
            "inception_v3": Training(epochs=1, batch=16, image_size=96),
            "resnet50": Training(epochs=1, batch=16, image_size=32),
            "efficientnet_b3": Training(epochs=1, batch=16, image_size=32),
            "efficientnet_b7": Training(epochs=1, batch=16, image_size=32),
            "efficientnet_lite0": Training(epochs=2, batch=16, image_size=64),
            "xgboost": Training(epochs=5, image_size=96),
            "mlp_hog": Training(epochs=2, batch=16, image_size=96),
            "mlp": Training(epochs=2, batch=16, image_size=96),
        },
        speed=SpeedTest(image_size=96, seconds=0.1, batches=(4,)),
        remark="at scale smoke nothing is learnt: it shows that everything runs, and no more",
    ),
    # Chosen for two hours on two cores without bfloat16: the larger a network, the smaller its
    # images and the fewer its epochs. Smaller batches than the paper's, since there are a quarter
    # of its images and a network needs steps; for the same reason more epochs of the perceptrons.
    # With the usual patience of ten epochs no network could be told to have converged; in its four
    # epochs efficientnet_b7 never does.
    "cpu": Scale(
        name="cpu",
        images=2000,
        size=256,
        counts="paper",
        difficulty="easy",
        detector={
            "epochs": 20,
            "batch": 16,
            "imgsz": 192,
            "max_backgrounds": 24,
            "optimizer": "AdamW",
            "hyperparameters": {"lr0": 0.001},
        },
        trainings={
            "inception_v3": Training(epochs=12, batch=16, image_size=160, patience=4),
            "resnet50": Training(epochs=12, batch=16, image_size=160, patience=4),
            "efficientnet_b3": Training(epochs=10, batch=16, image_size=128, patience=4),
            "efficientnet_b7": Training(epochs=4, batch=16, image_size=128),
            "efficientnet_lite0": Training(epochs=12, batch=32, image_size=224, patience=4),
            "mlp_hog": Training(epochs=100),
            "mlp": Training(epochs=100),
        },
        speed=SpeedTest(image_size=256, seconds=8.0),
    ),
    # The detector as in the paper's exp5, the weights of which it classified with.
    "paper": Scale(
        name="paper",
        images=8546,
        size=680,
        counts="paper",
        difficulty="paper",
        detector={
            "epochs": 100,
            "batch": 64,
            "imgsz": 256,
            "max_backgrounds": 100,
            "optimizer": "SGD",
            "hyperparameters": {"flipud": 0.0, "close_mosaic": 0},
        },
        speed=SpeedTest(image_size=256, seconds=20.0),
    ),
}


def paper_settings(name: str) -> tuple[int | None, int | None]:
    """Return the paper's batch and epochs of a model of ours, None where it gives none."""
    return PAPER_SETTINGS.get(name, (None, None)) if name in CLASSIFIERS else DETECTOR_SETTINGS


def published(name: str) -> Published:
    """Return what the paper says of a model of ours; every name that is no classifier's is YOLO."""
    return PUBLISHED.get(name, Published()) if name in CLASSIFIERS else DETECTOR


def conditions(scale: Scale, workspace: str | None) -> tuple[str, ...]:
    """Return how the figures come about, in sentences without their full stop.

    Args:
        scale: of the tables.
        workspace: the name of the user's own; None is the synthetic workspace of the scale.
    """
    images = f"Images are those of {workspace}, split as they are there"
    if workspace is None:
        images = (
            f"Images are {scale.images:,} synthetic ones of {scale.size} px, difficulty "
            f"{scale.difficulty}, split 65/15/20, wafers kept whole; the paper has 8,546 real ones "
            "of 680 px, split 80/20"
        )
    backgrounds = scale.detector["max_backgrounds"]
    return (
        images,
        "Figures are of test, which no training saw; val chose the epoch of each training, the "
        "temperature of each classifier and the best model; the paper has no third part",
        "Weighted accuracy and classification ratio (here: mean confidence) are the paper's: the "
        "sum of the confidence of right answers divided by that of all answers, and the mean "
        "confidence",
        f"The detector is trained with image weights and at most {backgrounds} images without a "
        "defect, as the paper's was, and answers with the class of its best box; the weights it "
        "starts from, where none are named, were trained on synthetic images of other seeds, which "
        "no classifier had",
        "A network starts from ImageNet weights where they are on this machine, else from scratch",
        "A model is called not converged where its epochs ran out before validation stopped it",
        "The interval of the accuracy is Clopper and Pearson's; those of ECE and of differences "
        "are from 1,000 resamples of the images; p is McNemar's exact test, corrected by Holm",
        f"Speed is measured with inputs of {scale.speed.image_size} px for every model, whatever "
        "it was trained on: networks on torch in float32, perceptrons on NumPy in float64, trees "
        "on XGBoost; the model part includes features such as HOG; "
        "files are in the file cache; the paper does not say what its times include, nor of how "
        "many images its seconds are",
    )
