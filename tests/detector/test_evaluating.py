"""Measuring a model on a workspace that says other things about images than the model does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.evaluating import evaluate_model
from wafer.weights.manifest import shipped

SIXTEEN_BITS = 257
"""Makes 255 of eight bits the 65535 of sixteen."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of 16-bit images."""
    root = tmp_path_factory.mktemp("workspaces") / "w"
    generate_workspace(
        root, images=48, counts="balanced", size=96, difficulty="easy", seed=3, processes=1
    )
    for path in list((root / "images").iterdir()):
        pixels = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(pixels * SIXTEEN_BITS).save(path.with_suffix(".png"))
        path.unlink()
    labels = root / "image_labels.csv"
    labels.write_text(labels.read_text().replace(".jpg", ".png"))
    return open_workspace(root)


def figures(workspace: Workspace, folder: Path) -> dict[str, Any]:
    done = evaluate_model(
        workspace, weights=shipped("yolov5n"), split="all", device="cpu", folder=folder
    )
    found: dict[str, Any] = done.evaluation.to_dict()
    del found["dataset_hash"]  # the settings are part of it
    return found


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"white_level": 4095}, {"colour": True}])
def test_images_are_prepared_as_the_model_was_trained(
    workspace: Workspace, tmp_path: Path, setting: dict[str, Any]
) -> None:
    expected = figures(workspace, tmp_path / "one")
    assert expected["n"] == 48
    assert figures(replace(workspace, **setting), tmp_path / "other") == expected
