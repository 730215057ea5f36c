"""What a training saw is known by content, whatever the images are called and split into later."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Sample, Split
from wafer.datasets.runs import MODEL_FILE
from wafer.datasets.seen import seen_before, write_seen
from wafer.datasets.workspace import Workspace, create_workspace, open_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Sixteen images of noise, ten of them for training."""
    images = tmp_path / "w" / "images"
    images.mkdir(parents=True)
    samples = []
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(images / f"{number:02}.png")
        split: Split = "train" if number < 10 else "test"
        samples.append(Sample(f"{number:02}.png", "dust", None, None, split))
    classes = ClassTable((DefectClass(0, "clean", "none"), DefectClass(1, "dust")))
    return create_workspace(tmp_path / "w", images=images, classes=classes, samples=samples)


def run_of(workspace: Workspace, name: str, weights: bytes) -> Path:
    run = workspace.runs / name
    (run / "weights").mkdir(parents=True)
    (run / MODEL_FILE).write_bytes(weights)
    return run


def test_images_are_counted_by_content_for_a_run_and_its_bundle(
    workspace: Workspace, tmp_path: Path
) -> None:
    samples = workspace.samples()
    train = [s for s in samples if s.split == "train"]
    run_of(workspace, "mlp-001", b"another")
    run = run_of(workspace, "mlp-002", b"this one")
    write_seen(workspace, [*train, train[0]], run, start=None)
    rest = [s for s in samples if s.split != "train"]
    for model in (run / MODEL_FILE, tmp_path / "bundle" / "weights.safetensors"):
        if not model.exists():
            model.parent.mkdir()
            shutil.copy(run / MODEL_FILE, model)
        assert seen_before(workspace, samples, model) == 0  # those of train are no news
        moved = [replace(s, split="test") for s in train]
        assert seen_before(workspace, [*rest, *moved], model) == len(train)
        assert seen_before(workspace, [*rest, moved[0], moved[0]], model) == 1
    (workspace.images / train[0].image).rename(workspace.images / "renamed.png")
    renamed = replace(train[0], image="renamed.png", split="val")
    assert seen_before(open_workspace(workspace.root), [renamed], run / MODEL_FILE) == 1


def test_of_a_model_from_elsewhere_nothing_is_known(workspace: Workspace, tmp_path: Path) -> None:
    run = run_of(workspace, "mlp-001", b"ours")
    write_seen(workspace, workspace.samples(), run, start=None)
    (tmp_path / "other.safetensors").write_bytes(b"theirs")
    assert seen_before(workspace, workspace.samples(), tmp_path / "other.safetensors") is None


def test_what_the_first_weights_saw_counts_too(workspace: Workspace, tmp_path: Path) -> None:
    samples = workspace.samples()
    first, second = (run_of(workspace, f"mlp-00{n}", b"%d" % n) for n in (1, 2))
    unknown = tmp_path / "unknown.safetensors"
    unknown.write_bytes(b"of somebody else")
    write_seen(workspace, samples[:5], first, start=unknown)
    write_seen(workspace, samples[10:13], second, start=first / MODEL_FILE)
    now = [replace(s, split="test") for s in samples]
    assert seen_before(workspace, now, first / MODEL_FILE) == 5
    assert seen_before(workspace, now, second / MODEL_FILE) == 8
