"""The commands of the README run as they stand there, on small data laid out as it says."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wafer.datasets.synthetic.generate import generate_workspace

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)

# A later option wins, so that a training of 100 epochs becomes one that a test can wait for.
SHORTER = {"wafer train": " --epochs 1 --imgsz 64", "wafer synth": " --images 56 --size 96"}


def run_block(block: str, folder: Path) -> None:
    lines = ["set -e"]
    for line in block.strip().splitlines():
        extra = [options for start, options in SHORTER.items() if line.startswith(start)]
        lines.append(line + "".join(extra))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, classes and boxes as somebody would bring them, with the README's own names."""
    folder = tmp_path_factory.mktemp("fab")
    made = generate_workspace(
        folder / "source", images=56, counts="balanced", size=96, difficulty="easy", processes=1
    )
    shutil.copytree(made.images, folder / "my-images")
    shutil.copytree(made.labels, folder / "my-boxes")
    shutil.copy(made.root / "classes.yaml", folder / "my-boxes" / "classes.yaml")
    with (folder / "my-labels.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["image", "class", "group"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows(made.root / "image_labels.csv"))
    (folder / "new-images").mkdir()
    for path in sorted(made.images.iterdir())[:5]:
        shutil.copy(path, folder / "new-images")
    shutil.rmtree(folder / "source")
    return folder


def test_the_readme_has_the_blocks_that_are_run_here() -> None:
    assert len(BLOCKS) == 4
    assert "make demo" in README
    assert "make test" in README


@pytest.mark.slow
def test_step_by_step(tmp_path: Path) -> None:
    run_block(BLOCKS[0], tmp_path)
    predictions = rows(tmp_path / "my-synth" / "predictions.csv")
    images = sorted(p.name for p in (tmp_path / "my-synth" / "images").iterdir())
    assert [row["image"] for row in predictions] == images
    assert {row["error"] for row in predictions} == {""}


@pytest.mark.slow
def test_your_own_images(fab: Path) -> None:
    run_block(BLOCKS[1], fab)
    predictions = rows(fab / "my-fab" / "new.csv")
    images = sorted(p.name for p in (fab / "new-images").iterdir())
    assert [row["image"] for row in predictions] == images
    run_block(BLOCKS[2], fab)
    assert (fab / "my-coco").is_dir()


@pytest.mark.slow
def test_the_shortest_way_from_nothing_to_predictions(tmp_path: Path) -> None:
    run_block(
        "wafer synth d\ncd d\nwafer train --img-weights --epochs 1\nwafer classify images/",
        tmp_path,
    )
    predictions = rows(tmp_path / "d" / "predictions.csv")
    assert len(predictions) == len(list((tmp_path / "d" / "images").iterdir())) == 56
