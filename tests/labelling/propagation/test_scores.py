"""Scores of all classes in all views, on the real shipped model; chunks that are kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import paper_classes
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.labelling.propagation.scores import Candidates, score_images
from wafer.weights.manifest import shipped


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("scores")
    images = root / "pictures"
    images.mkdir()
    noise = np.random.default_rng(0)
    pixels = noise.normal(110, 12, (96, 128)).clip(0, 255).astype(np.uint8)
    pixels[20:50, 30:45] = 240
    pixels[60:70, 80:120] = 15
    Image.fromarray(pixels).save(images / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(images / "left_right.png")
    Image.fromarray(pixels[::-1]).save(images / "top_bottom.png")
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:100])
    names = ("a", "cut", "left_right", "top_bottom")
    samples = [Sample(f"{name}.png", split="train") for name in names]
    return create_workspace(root / "w", images=images, classes=paper_classes(), samples=samples)


def scored(workspace: Workspace, folder: Path, told: list[int]) -> dict[str, Candidates]:
    model = shipped("yolov5n")
    assert model is not None
    names = ("a.png", "cut.png", "left_right.png", "top_bottom.png")
    return dict(
        score_images(
            model, names, workspace=workspace, folder=folder, device="cpu", progress=told.append
        )
    )


def view(candidates: Candidates, number: int) -> tuple[np.ndarray, np.ndarray]:
    rows = candidates.views == number
    boxes, scores = candidates.boxes[rows], candidates.scores[rows]
    order = np.lexsort(boxes.round(1).T)
    return boxes[order], scores[order]


@pytest.mark.slow
def test_a_mirrored_view_is_the_view_of_the_mirrored_image(
    workspace: Workspace, tmp_path: Path
) -> None:
    told: list[int] = []
    found = scored(workspace, tmp_path, told)
    assert told == [4]
    original = found["a.png"]
    assert set(original.views.tolist()) == {0, 1, 2}
    for name, number in (("left_right.png", 1), ("top_bottom.png", 2)):
        boxes, scores = view(original, number)
        mirrored = found[name].boxes[found[name].views == 0].copy()
        axis, length = (0, 128) if number == 1 else (1, 96)
        mirrored[:, [axis, axis + 2]] = length - mirrored[:, [axis + 2, axis]]
        order = np.lexsort(mirrored.round(1).T)
        assert boxes == pytest.approx(mirrored[order], abs=0.3)
        other = found[name].scores[found[name].views == 0][order]
        assert scores == pytest.approx(other, abs=0.01)


def test_every_candidate_has_the_scores_of_all_classes(
    workspace: Workspace, tmp_path: Path
) -> None:
    found = scored(workspace, tmp_path, [])["a.png"]
    assert found.scores.shape == (len(found.boxes), len(paper_classes().detector_names))
    assert np.all(found.scores.max(axis=1) >= 0.0099)
    assert np.all((found.boxes[:, 2] <= 128) & (found.boxes[:, 3] <= 96))


@pytest.mark.slow
def test_chunks_on_disk_are_read_and_a_corrupt_image_says_why(
    workspace: Workspace, tmp_path: Path
) -> None:
    first = scored(workspace, tmp_path, [])
    (chunk,) = tmp_path.glob("*.npz")
    written = chunk.stat().st_mtime_ns
    second = scored(workspace, tmp_path, [])
    assert chunk.stat().st_mtime_ns == written
    for name, candidates in first.items():
        assert np.array_equal(candidates.boxes, second[name].boxes)
        assert np.array_equal(candidates.scores, second[name].scores)
    assert "cut off" in first["cut.png"].error or first["cut.png"].error
    assert len(first["cut.png"].boxes) == 0
