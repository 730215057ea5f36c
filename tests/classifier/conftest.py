"""A small workspace, and a classifier that was trained on it once."""

from pathlib import Path

import pytest

from wafer.classifier.training import TrainedClassifier, train_classifier
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
def trained(made: Workspace) -> TrainedClassifier:
    return train_classifier(made, model="mlp_hog", imgsz=64)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A workspace of its own, over the same images."""
    for name in ("wafer.toml", "classes.yaml", "image_labels.csv"):
        (tmp_path / name).write_bytes((made.root / name).read_bytes())
    for name in ("images", "labels", "truth"):
        (tmp_path / name).symlink_to(made.root / name)
    return open_workspace(tmp_path)
