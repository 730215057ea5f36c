"""What images look like: the same after a kill as without one, and nothing is done twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.duplicates import perceptual_hash
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.detector.features import pooled_features
from wafer.detector.loading import load_detector
from wafer.detector.model import forward
from wafer.inference.preprocess import letterbox
from wafer.labelling.looks import look_at
from wafer.weights.manifest import shipped

NUMBER = 96
SCRIPT = """
import sys
from pathlib import Path
import wafer.labelling.looks as looks
from wafer.datasets.workspace import open_workspace
looks.SAVE_EVERY = looks.BATCH = 8
workspace = open_workspace(Path(sys.argv[1]))
images = [sample.image for sample in workspace.samples()]
looks.look_at(workspace, images, device="cpu")
"""


def made(folder: Path, number: int) -> Workspace:
    (folder / "images").mkdir(parents=True)
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:03}.png")
    samples = [Sample(f"{i:03}.png") for i in range(number)]
    classes = ClassTable((DefectClass(1, "scratch"),))
    return create_workspace(folder, images=folder / "images", classes=classes, samples=samples)


def test_features_are_the_pooled_inputs_of_the_head() -> None:
    path = shipped("yolov5n")
    assert path is not None
    model = load_detector(path, device="cpu").model
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    features = pooled_features(model, images)
    assert features.shape == (3, 2 * (64 + 128 + 256))
    parts = np.split(features, np.cumsum([64, 64, 128, 128, 256]), axis=1)
    for part in parts:
        assert np.linalg.norm(part, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert not model.model[-1]._forward_pre_hooks
    alone = pooled_features(model, images[1:2])
    assert features[1:2] == pytest.approx(alone, abs=1e-4)
    assert forward(model, images).shape[0] == 3


@pytest.mark.slow
def test_looks_are_those_of_the_decoded_image(tmp_path: Path) -> None:
    workspace = made(tmp_path, 3)
    path = shipped("yolov5n")
    assert path is not None
    detector = load_detector(path, device="cpu")
    looks = look_at(workspace, ["002.png", "000.png"], device="cpu")
    assert looks.images == ("002.png", "000.png")
    pixels = [decode_image(workspace.image_path(image)) for image in looks.images]
    assert (looks.hashes == [perceptual_hash(each) for each in pixels]).all()
    size = detector.checkpoint.image_size
    wanted = pooled_features(detector.model, np.stack([letterbox(p, size).image for p in pixels]))
    assert looks.features == pytest.approx(wanted, abs=1e-3)


@pytest.mark.slow
def test_a_changed_image_is_looked_at_again(tmp_path: Path) -> None:
    workspace = made(tmp_path, 2)
    first = look_at(workspace, ["000.png", "001.png"], device="cpu")
    pixels = np.full((64, 64), 7, np.uint8)
    pixels[:20] = 200
    Image.fromarray(pixels).save(workspace.image_path("001.png"))
    second = look_at(workspace, ["000.png", "001.png"], device="cpu")
    assert (second.features[0] == first.features[0]).all()
    assert (second.features[1] != first.features[1]).any()


@pytest.mark.slow
def test_a_killed_look_goes_on_where_it_was(tmp_path: Path) -> None:
    workspace = made(tmp_path / "killed", NUMBER)
    process = subprocess.Popen([sys.executable, "-P", "-c", SCRIPT, str(workspace.root)])
    folder = workspace.cache / "looks"
    while not list(folder.glob("yolov5n*.npz")):
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with np.load(next(folder.glob("yolov5n*.npz"))) as arrays:
        kept = len(arrays["digests"])
    assert 8 <= kept < NUMBER
    told: list[int] = []
    images = [sample.image for sample in workspace.samples()]
    looks = look_at(workspace, images, device="cpu", progress=lambda done, _: told.append(done))
    assert told[0] > kept
    assert told[-1] == NUMBER
    fresh = look_at(made(tmp_path / "fresh", NUMBER), images, device="cpu")
    assert looks.images == fresh.images
    assert (looks.hashes == fresh.hashes).all()
    assert looks.features == pytest.approx(fresh.features, abs=1e-3)
