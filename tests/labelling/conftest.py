"""A workspace as easy as it gets, and one labelling of it that was killed half-way and went on."""

import fcntl
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace, open_workspace
from wafer.labelling.propagation.propagating import Propagated, propagate

CLASSES = ClassTable(
    (DefectClass(0, "ok", "none"), DefectClass(1, "bright"), DefectClass(2, "dark"))
)
DRAWN, POOL, SIDE = 36, 170, 64
ARGUMENTS = {"epochs": 12, "batch": 4, "imgsz": 64, "folds": 2, "rounds": 1}


@dataclass(frozen=True)
class Labelled:
    """A workspace after `wafer label-propagate`, with what it should have found."""

    workspace: Workspace
    truth: dict[str, tuple[Annotation, ...]]
    drawn: dict[str, bytes]
    done: Propagated
    first_teacher: bytes


def _image(path: Path, name: str | None, noise: np.random.Generator) -> Box:
    pixels = noise.normal(120, 6, (SIDE, SIDE))
    width, height = (int(v) for v in noise.integers(16, 28, 2))
    x, y = int(noise.integers(2, SIDE - 2 - width)), int(noise.integers(2, SIDE - 2 - height))
    if name is not None:
        pixels[y : y + height, x : x + width] = 230 if name == "bright" else 20
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return Box(x, y, x + width, y + height)


def make_easy(
    root: Path, *, pool: int = POOL
) -> tuple[Workspace, dict[str, tuple[Annotation, ...]]]:
    """Bright and dark squares; a corrupt image, a wrong class, and images without a class."""
    images = root / "pictures"
    images.mkdir(parents=True)
    noise = np.random.default_rng(0)
    truth: dict[str, tuple[Annotation, ...]] = {}
    samples = []

    def add(image: str, name: str | None, **known: object) -> None:
        box = _image(images / image, name, noise)
        truth[image] = () if name is None else (Annotation(box, name),)
        boxes = truth[image] if known.pop("drawn", False) else None
        samples.append(Sample(image, annotations=boxes, **known))  # type: ignore[arg-type]

    for k in range(DRAWN):
        name = ("bright", "dark")[k % 2]
        add(f"d{k:03d}.png", name, image_class=name, split="train", drawn=True)
    for k in range(16):
        name = ("bright", "dark")[k % 2]
        add(f"v{k:03d}.png", name, image_class=name, split="val", drawn=True)
    for k in range(pool):
        name = ("bright", "dark")[k % 2]
        add(f"p{k:03d}.png", name, image_class=name, split="train")
    for k in range(8):
        add(f"n{k:03d}.png", None, image_class="ok", split="train")
    add("wrong.png", "dark", image_class="bright", split="train")
    add("empty.png", None, image_class="bright", split="train")
    add("unknown.png", "dark", image_class=None, split="train")
    add("corrupt.png", "dark", image_class="dark", split="train")
    workspace = create_workspace(root / "w", images=images, classes=CLASSES, samples=samples)
    path = images / "corrupt.png"
    path.write_bytes(path.read_bytes()[:200])
    return workspace, truth


def kill_when(command: list[str], ready: Callable[[], bool]) -> None:
    """Start a process and kill it without warning as soon as something is there."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not ready():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Labelled:
    """Nobody changes it, so the processes of a test run share one, which takes a minute to make."""
    if worker_id == "master":
        return _labelled(tmp_path_factory.mktemp("labelled"))
    shared = tmp_path_factory.getbasetemp().parent / "labelled"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = shared.with_suffix(".pickle")
        if not record.exists():
            record.write_bytes(pickle.dumps(_labelled(shared)))
        made: Labelled = pickle.loads(record.read_bytes())
        return made


def _labelled(root: Path) -> Labelled:
    workspace, truth = make_easy(root)
    drawn = {p.name: p.read_bytes() for p in workspace.labels.iterdir()}
    runs = workspace.root / "runs" / "propagate"
    options = [text for name, value in ARGUMENTS.items() for text in (f"--{name}", str(value))]
    command = [
        str(Path(sys.executable).with_name("wafer")),
        *("label-propagate", "--workspace", str(workspace.root), *options),
    ]
    begun = runs / "yolov5n-001" / "round-1"
    kill_when(command, lambda: any((begun / "fold-0" / "scores").glob("*.npz")))
    teacher = begun / "fold-0" / "teacher" / "yolov5n-001" / "weights" / "best.safetensors"
    first = teacher.read_bytes() + str(teacher.stat().st_mtime_ns).encode()
    done = propagate(workspace, **ARGUMENTS)  # type: ignore[arg-type]
    return Labelled(workspace, truth, drawn, done, first)


@pytest.fixture
def small(tmp_path: Path) -> Workspace:
    """A workspace of a few such images that nobody has labelled yet."""
    return make_easy(tmp_path, pool=40)[0]


@pytest.fixture
def easy(tmp_path: Path) -> tuple[Workspace, dict[str, tuple[Annotation, ...]]]:
    """A workspace of such images that nobody has labelled yet, and what is in them."""
    return make_easy(tmp_path)


@pytest.fixture
def own(labelled: Labelled, tmp_path: Path) -> Labelled:
    """A copy that a test may change, over the same images."""
    shutil.copytree(labelled.workspace.root, tmp_path / "w", symlinks=True)
    workspace = open_workspace(tmp_path / "w")
    return Labelled(workspace, labelled.truth, labelled.drawn, labelled.done, b"")
