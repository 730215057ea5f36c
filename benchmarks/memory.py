"""Whether the memory of `wafer classify` grows with the number of rows.

    python benchmarks/memory.py FOLDER --rows 100000

A folder of so many files, hard links to a few synthetic images of 200 px, is classified with a
bundle of the shipped model, or of `--model`, by one command. The memory of all its processes
together (PSS, shared pages counted once) is sampled every half second beside the rows that are
done, and printed by powers of ten.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.detector.exporting import export_model
from wafer.weights.manifest import shipped

IMAGES = 64


def main() -> None:
    """Link, classify, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", type=Path, help="a model file; one of a small input is faster")
    given = parser.parse_args()
    root = given.folder.resolve()
    workspace = generate_workspace(
        root / "images", images=IMAGES, counts="balanced", size=200, seed=12
    )
    output = root / "rows.csv"
    script = [sys.executable, "-P", "-c", "from wafer.cli import app; app()", "classify"]
    folder = linked(root, workspace.images, given.rows)
    bundle = export_model(workspace, given.model or shipped("yolov5n"), precision="f32").folder
    command = [*script, str(folder), "--weights", str(bundle), "--output", str(output), "--force"]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        samples = list(sampled(process, output))
        said = process.stderr.read().decode() if process.stderr else ""
    if process.returncode:
        raise SystemExit(said)
    with output.open() as lines:
        written = sum(1 for _ in lines) - 1
    sys.stdout.write(f"{written} rows in {time.monotonic() - start:.0f} s\n\n")
    sys.stdout.write(table(samples, given.rows))


def linked(root: Path, images: Path, number: int) -> Path:
    """Return a folder with so many names of the images."""
    folder = root / f"links-{number}"
    folder.mkdir(exist_ok=True)
    sources = sorted(images.iterdir())
    for position in range(sum(1 for _ in folder.iterdir()), number):
        source = sources[position % len(sources)]
        os.link(source, folder / f"{position:08d}{source.suffix}")
    return folder


def sampled(process: subprocess.Popen[bytes], output: Path) -> Iterator[tuple[int, float]]:
    """Yield the rows that are done and the MB held, until the process ends."""
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(0.5)
        with suppress(psutil.Error, OSError, ValueError, IndexError):
            journal = output.with_name(f".{output.name}.journal").read_bytes()
            rows = json.loads(journal.split(b"\n")[-2]).get("rows", 0)
            processes = [tree, *tree.children(recursive=True)]
            yield rows, sum(each.memory_full_info().pss for each in processes) / 1e6


def table(samples: list[tuple[int, float]], rows: int) -> str:
    """Return the largest memory up to each power of ten of rows, as Markdown."""
    limits = [10**power for power in range(2, 9) if 10**power < rows] + [rows]
    text = "| rows up to | MB |\n| --- | --- |\n"
    before = 0
    for limit in limits:
        held = [memory for done, memory in samples if before < done <= limit]
        text += f"| {limit:,} | {max(held, default=float('nan')):.0f} |\n"
        before = limit
    return text


if __name__ == "__main__":
    main()
