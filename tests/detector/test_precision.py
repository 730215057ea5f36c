"""The precision of training steps: chosen by the fastest steps, remembered, and without a trace."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from wafer.detector import precision
from wafer.detector.precision import CpuModel, fastest_precision


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CpuModel:
    """Return a small network, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return CpuModel("yolov5n.yaml", ch=1, nc=3, verbose=False)


def probe(model: CpuModel) -> str:
    return fastest_precision(model, architecture="yolov5n", channels=1, image_size=32)


def steps(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, list[float]]) -> None:
    """Let steps take given times, again and again."""
    times = {name: cycle(values) for name, values in seconds.items()}
    monkeypatch.setattr(precision, "_step_seconds", lambda model, *_: next(times[model.precision]))


@pytest.mark.parametrize(
    ("float32", "bfloat16", "faster"),
    [
        # Another program slows most of the steps, of bfloat16 more than of float32.
        ([1.0, 1.0, 1.1, 1.0, 1.0], [9.0, 9.0, 0.6, 9.0, 9.0], "bfloat16"),
        ([1.0, 9.0, 9.0, 9.0, 9.0], [1.1, 1.1, 1.1, 1.1, 1.1], "float32"),
        # Not worth its rounding.
        ([1.0] * 5, [0.95] * 5, "float32"),
    ],
)
def test_other_work_on_the_machine_does_not_decide(
    model: CpuModel,
    monkeypatch: pytest.MonkeyPatch,
    float32: list[float],
    bfloat16: list[float],
    faster: str,
) -> None:
    steps(monkeypatch, {"float32": float32, "bfloat16": bfloat16})
    assert probe(model) == faster


def test_a_processor_without_bfloat16_is_not_asked_to_the_end(
    model: CpuModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def step_seconds(model: CpuModel, *_: Any) -> float:
        asked.append(model.precision)
        return 1.0 if model.precision == "float32" else 15.0

    monkeypatch.setattr(precision, "_step_seconds", step_seconds)
    assert probe(model) == "float32"
    assert asked == ["float32", "bfloat16"] * 2


def test_what_was_chosen_is_remembered(
    model: CpuModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps(monkeypatch, {"float32": [1.0], "bfloat16": [0.5]})
    assert probe(model) == "bfloat16"
    steps(monkeypatch, {"float32": [0.5], "bfloat16": [1.0]})
    assert probe(model) == "bfloat16"
    assert list(json.loads((tmp_path / "wafer/precision.json").read_text()).values()) == [
        "bfloat16"
    ]


@pytest.mark.slow
def test_the_probe_leaves_the_model_as_it_was(model: CpuModel) -> None:
    def state() -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    before = state()
    assert probe(model) in ("float32", "bfloat16")
    assert all(torch.equal(tensor, before[name]) for name, tensor in state().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.precision == "float32"
