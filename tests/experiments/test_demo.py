"""The demonstration, on fewer and smaller images than it makes by itself."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from wafer.datasets.errors import TrainingError
from wafer.experiments.demo import Demonstration, earlier_run, run_demo


def small_demo(folder: Path, steps: list[tuple[str, int, int | None]]) -> Demonstration:
    return run_demo(
        folder,
        images=56,
        size=96,
        imgsz=64,
        epochs=1,
        progress=lambda step, done, total: steps.append((step, done, total)),
    )


@pytest.mark.slow
def test_it_leaves_a_report_and_a_row_for_every_image_and_repeats_no_step(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    done = small_demo(tmp_path / "demo", steps)
    assert [name for name in dict.fromkeys(step for step, _, _ in steps)] == [
        "rendering",
        "training",
        "evaluating",
        "classifying",
    ]
    assert all(total for _, _, total in steps)
    with done.predictions.open(encoding="utf-8") as handle:
        assert len(list(csv.DictReader(handle))) == 56
    assert done.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    metrics = json.loads((done.report.parent / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["split"] == "test"
    assert metrics["n"] == done.evaluation.n > 0
    written = done.predictions.read_bytes()
    steps.clear()
    again = small_demo(tmp_path / "demo", steps)
    assert {step for step, _, _ in steps} == {"evaluating", "classifying"}
    assert again.predictions.read_bytes() == written
    shutil.rmtree(tmp_path / "demo" / "runs" / "train")
    steps.clear()
    small_demo(tmp_path / "demo", steps)
    assert "training" in {step for step, _, _ in steps}


def test_what_is_wrong_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--seed must be from 0"):
        run_demo(tmp_path / "demo", seed=-1, progress=lambda *_: pytest.fail("it began"))
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"arguments": {"seed": 0}, "run": "yolov5n-001"}', None]
)
def test_a_record_that_says_nothing_usable_is_as_none(tmp_path: Path, text: str | None) -> None:
    record = tmp_path / "demo.json"
    if text is not None:
        record.write_text(text)
    assert earlier_run(record, {"seed": 1}) is None
    record.write_text('{"arguments": {"seed": 1}, "run": "yolov5n-002"}')
    assert earlier_run(record, {"seed": 1}) == "yolov5n-002"
