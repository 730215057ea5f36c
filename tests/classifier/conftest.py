"""A small workspace, and a classifier that was trained on it once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wafer.classifier.images import LabelledImages
from wafer.classifier.models import Settings, Task
from wafer.classifier.training import train_classifier
from wafer.datasets.runs import TrainedRun
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that no test changes; trainings may add runs to it."""
    root = tmp_path_factory.mktemp("classifier") / "w"
    return generate_workspace(
        root, images=64, counts="balanced", size=64, difficulty="easy", seed=3, processes=1
    )


@pytest.fixture(scope="session")
def trained(made: Workspace) -> TrainedRun:
    return train_classifier(made, model="mlp_hog", imgsz=64)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A workspace of its own, over the same images."""
    for name in ("wafer.toml", "classes.yaml", "image_labels.csv"):
        (tmp_path / name).write_bytes((made.root / name).read_bytes())
    for name in ("images", "labels", "truth"):
        (tmp_path / name).symlink_to(made.root / name)
    return open_workspace(tmp_path)


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Task]:
    """Return a maker of trainings on images whose stripes tell the class."""

    def make(*, classes: int, side: int, number: int = 48, **settings: Any) -> Task:
        random = np.random.default_rng(1)
        labels = np.arange(number) % classes
        stripes = np.arange(side) // 4 % 2 * 120
        turned = [np.tile(stripes, (side, 1)), np.tile(stripes[:, None], (1, side))]
        turned.append(np.zeros((side, side), np.int64))
        noise = random.integers(60, size=(number, side, side))
        pixels = (np.stack([turned[label] for label in labels]) + noise).astype(np.uint8)
        images = LabelledImages(pixels, labels, np.zeros(number, bool))
        given = {"epochs": 3, "batch": 16, "learning_rate": 0.01, "patience": 0, **settings}
        return Task(
            train=images,
            val=images,
            classes=classes,
            settings=Settings(image_size=side, **given),
            start=None,
            seed=7,
            device="cpu",
            folder=tmp_path,
            progress=None,
        )

    return make
