"""Timing a model whose time is known."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wafer.datasets.classes import paper_classes
from wafer.evaluation.calibration import decide_class
from wafer.experiments.comparison.plan import SpeedTest
from wafer.experiments.comparison.speed import (
    Timing,
    conditions_here,
    measure_speed,
    read_speed,
    write_speed,
)
from wafer.inference.records import Predictor, TopOne


class Sleeper:
    """Takes 4 ms a call and 1 ms an image, up to 16 at once; then 3 ms an image."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        self.shapes.append(images.shape)
        number = len(images)
        time.sleep(0.004 + number * (0.001 if number <= 16 else 0.003))
        return TopOne.of(np.zeros((number, 4)), np.ones((number, 8)))

    def close(self) -> None:
        pass


def predictor(engine: Sleeper) -> Predictor:
    return Predictor(
        model="sleeper",
        engine=engine,
        classes=paper_classes(),
        decide=lambda *answer: decide_class(*answer, none_class=None, none_review_above=None),
        image_size=64,
        colour=False,
        white_level=65535,
        boxless=True,
    )


def test_parts_batches_and_size_are_measured_and_come_back_from_disk(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.new("L", (120, 80)).save(path)
    engine = Sleeper()
    speed = measure_speed(
        predictor(engine),
        paths,
        test=SpeedTest(image_size=96, seconds=0.1),
        model_file=paths[0],
        device="cpu",
    )
    assert set(speed.batches) == {1, 4, 16, 64}
    assert speed.best_batch == 16
    assert 5 <= speed.model.median <= speed.model.p95
    assert 1.25 <= speed.batches[16].median < speed.batches[4].median < speed.model.median
    assert speed.total.median >= speed.model.median > speed.load.median > 0
    assert 3 <= speed.model.count <= 25  # not the warm-ups, and no longer than it was told
    assert {shape[1:] for shape in engine.shapes} == {(96, 96)}
    assert (speed.conditions.image_size, speed.source_size) == (96, 120)
    assert speed.conditions == conditions_here(SpeedTest(image_size=96, seconds=9.0), "cpu")
    assert speed.conditions != conditions_here(SpeedTest(image_size=96, seconds=9.0), "cuda:0")
    assert speed.bytes == paths[0].stat().st_size
    assert read_speed(tmp_path) is None
    write_speed(tmp_path, speed)
    assert read_speed(tmp_path) == speed


def test_larger_batches_are_not_tried_once_they_do_not_pay(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (64, 64)).save(path)

    class Linear(Sleeper):
        def infer(self, images: NDArray[np.uint8], /) -> TopOne:
            time.sleep(0.003 * len(images))
            return TopOne.of(np.zeros((len(images), 4)), np.ones((len(images), 8)))

    speed = measure_speed(
        predictor(Linear()),
        [path],
        test=SpeedTest(image_size=64, seconds=0.01),
        model_file=path,
        device="cpu",
    )
    assert max(speed.batches) <= 16
    assert speed.batches[1] == speed.model


def test_a_timing_is_a_median_and_a_percentile() -> None:
    assert Timing.of([float(i) for i in range(101)]) == Timing(50.0, 95.0, 101)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 1)
