"""How long a model takes for an image, and how large it is on disk: a row of Table 2."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from wafer.datasets.files import write_text
from wafer.datasets.images import decode_bytes
from wafer.experiments.comparison.plan import SpeedTest
from wafer.inference.cores import thread_count
from wafer.inference.pipeline import read_bytes
from wafer.inference.precision import use_cores
from wafer.inference.preprocess import letterbox
from wafer.inference.processor import LISTING
from wafer.inference.records import Predictor

__all__ = [
    "SPEED_FILE",
    "Conditions",
    "Speed",
    "Timing",
    "conditions_here",
    "measure_speed",
    "read_speed",
    "write_speed",
]

SPEED_FILE = "speed.json"

WARM_UPS = 2
LEAST, MOST = 3, 100
WORTHWHILE = 0.95
"""A larger batch is tried only while the last one took less than this of the time before."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds an image: median and 95th percentile of so many measurements."""

    median: float
    p95: float
    count: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Timing:
        """Return the summary of some measurements, at least one."""
        median, p95 = np.percentile(milliseconds, [50, 95])
        return cls(round(float(median), 3), round(float(p95), 3), len(milliseconds))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What times can be compared under: the side of the input in pixels, and what computes."""

    image_size: int
    processor: str
    threads: int
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one model takes for one image.

    One image at a time: ``load`` reads and decodes a file, ``preprocess`` makes it the input of a
    network, ``model`` answers (features such as HOG are part of it), ``total`` is all three.
    ``batches`` are timings of ``model`` an image by the number of images at once, 1 among them.
    ``source_size`` is the side of the files in pixels, ``bytes`` the size of the model file.
    """

    load: Timing
    preprocess: Timing
    model: Timing
    total: Timing
    batches: Mapping[int, Timing]
    source_size: int
    bytes: int
    conditions: Conditions

    @property
    def best_batch(self) -> int:
        """Return the number of images at once that takes least time an image."""
        return min(self.batches, key=lambda batch: (self.batches[batch].median, batch))


def measure_speed(
    predictor: Predictor,
    images: Sequence[Path],
    *,
    test: SpeedTest,
    model_file: Path,
    device: str,
) -> Speed:
    """Time a model that is open and warm on files that lie in the file cache.

    Args:
        predictor: the model; its own image size does not count.
        images: at least one file, taken in turn.
        test: how; each size of batch at least three times, at most a hundred.
        model_file: what is on disk.
        device: what it runs on, ``cpu`` or ``cuda:N``.
    """
    use_cores()
    for path in images:
        read_bytes(path)
    single = _Single(predictor, images, test.image_size)
    for _ in range(WARM_UPS):
        single.step()
    single.clear()
    _repeat(single.step, test.seconds)
    model = Timing.of(single.model)
    timings = {1: model}
    for batch in test.batches:
        pixels = np.resize(single.pixels, (batch, *single.pixels.shape[1:]))
        timings[batch] = _batch_timing(predictor, pixels, test.seconds)
        if timings[batch].median > WORTHWHILE * min(
            timing.median for size, timing in timings.items() if size != batch
        ):
            break
    return Speed(
        load=Timing.of(single.load),
        preprocess=Timing.of(single.preprocess),
        model=model,
        total=Timing.of(np.sum([single.load, single.preprocess, single.model], axis=0).tolist()),
        batches=timings,
        source_size=single.source_size,
        bytes=model_file.stat().st_size,
        conditions=conditions_here(test, device),
    )


def conditions_here(test: SpeedTest, device: str) -> Conditions:
    """Return what a model would be timed under here and now, on ``cpu`` or ``cuda:N``."""
    return Conditions(test.image_size, _processor(), thread_count(), device)


def read_speed(folder: Path) -> Speed | None:
    """Return what was measured of the run in a folder, None where it was not, or otherwise."""
    path = folder / SPEED_FILE
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.keys() != {field.name for field in fields(Speed)}:
        return None
    timings = {k: Timing(**content[k]) for k in ("load", "preprocess", "model", "total")}
    batches = {int(batch): Timing(**timing) for batch, timing in content["batches"].items()}
    under = Conditions(**content["conditions"])
    return Speed(**{**content, **timings, "batches": batches, "conditions": under})


def write_speed(folder: Path, speed: Speed) -> None:
    """Write down what was measured of the run in a folder."""
    write_text(folder / SPEED_FILE, json.dumps(asdict(speed), indent=2) + "\n")


class _Single:
    """One image at a time, its three parts timed in milliseconds."""

    def __init__(self, predictor: Predictor, images: Sequence[Path], size: int) -> None:
        self._predictor, self._images, self._size = predictor, images, size
        self._next = 0
        self.clear()

    def clear(self) -> None:
        self.load: list[float] = []
        self.preprocess: list[float] = []
        self.model: list[float] = []

    def step(self) -> None:
        path = self._images[self._next % len(self._images)]
        self._next += 1
        predictor = self._predictor
        start = time.perf_counter()
        image = decode_bytes(
            read_bytes(path),
            path.name,
            colour=predictor.colour,
            white_level=predictor.white_level,
        )
        loaded = time.perf_counter()
        self.pixels = letterbox(image, self._size).image[None]
        ready = time.perf_counter()
        predictor.engine.infer(self.pixels)
        done = time.perf_counter()
        self.source_size = max(image.shape[:2])
        self.load.append(1000 * (loaded - start))
        self.preprocess.append(1000 * (ready - loaded))
        self.model.append(1000 * (done - ready))


def _batch_timing(predictor: Predictor, pixels: Any, seconds: float) -> Timing:
    taken: list[float] = []

    def step() -> None:
        start = time.perf_counter()
        predictor.engine.infer(pixels)
        taken.append(1000 * (time.perf_counter() - start) / len(pixels))

    step()  # warms up: memory for a larger batch
    taken.clear()
    _repeat(step, seconds)
    return Timing.of(taken)


def _repeat(step: Callable[[], None], seconds: float) -> None:
    end = time.perf_counter() + seconds
    for number in range(MOST):
        if number >= LEAST and time.perf_counter() > end:
            return
        step()


def _processor() -> str:
    """Return the name of the processor, as well as it is known."""
    text = LISTING.read_text(encoding="utf-8", errors="replace") if LISTING.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else "unknown processor"
