"""Measuring a model on a workspace that says other things about images than the model does."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.errors import DataError
from wafer.datasets.records import Sample
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


@pytest.mark.slow
def test_a_known_class_counts_without_boxes_and_boxes_of_a_model_never_do(
    workspace: Workspace, tmp_path: Path
) -> None:
    model = [s for s in workspace.samples() if s.annotations and s.image_class != "deviation"]
    alone, guessed, unknown, nothing = model[:4]
    changed = {
        alone.image: replace(alone, annotations=None),
        guessed.image: replace(
            guessed,
            annotations=tuple(replace(a, source="model") for a in guessed.annotations or ()),
        ),
        unknown.image: replace(
            unknown,
            image_class=None,
            annotations=tuple(replace(a, source="model") for a in unknown.annotations or ()),
        ),
        nothing.image: replace(nothing, image_class=None, annotations=None),
    }
    samples = tuple(replace(changed.get(s.image, s), split="train") for s in workspace.samples())

    class Given(Workspace):
        def true_samples(self) -> tuple[Sample, ...]:
            return samples

    given = Given(workspace.root, workspace.images, workspace.classes)
    done = evaluate_model(
        given, weights=shipped("yolov5n"), split="train", device="cpu", folder=tmp_path
    )
    found = done.evaluation.to_dict()
    assert found["n"] == 46
    assert found["excluded"]["excluded_unlabelled"] == 1
    assert found["excluded"]["excluded_untrusted_boxes"] == 1
    assert found["excluded"]["excluded_from_boxes_not_looked_at"] == 2


def test_all_images_that_cannot_be_decoded_are_named(workspace: Workspace, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(workspace.images, images)
    test = sorted(s.image for s in workspace.samples() if s.split == "test")
    for name in (test[0], test[-1]):
        path = images / name
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        evaluate_model(replace(workspace, images=images), weights=shipped("yolov5n"), device="cpu")
    assert [fault.file for fault in caught.value.faults] == [
        str(images / name) for name in (test[0], test[-1])
    ]
    assert "set its split to `unused`" in str(caught.value)
