"""Measure how many synthetic images a second are written: `python benchmarks/synth_speed.py`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from wafer.datasets.synthetic.generate import generate_workspace


def main() -> None:
    """Print one line: images, side, processes, seconds, images a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=680)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate_workspace(
            Path(folder) / "synth", images=given.images, size=given.size, processes=given.processes
        )
        seconds = time.perf_counter() - start
    sys.stdout.write(
        f"{given.images} images of {given.size} px, {given.processes} processes: "
        f"{seconds:.1f} s, {given.images / seconds:.1f} img/s\n"
    )


if __name__ == "__main__":
    main()
