"""Bundles of a class table and a few golden images, whose networks are only bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wafer.datasets.classes import DefectClass
from wafer.inference.bundle import (
    DESCRIPTION,
    FILES,
    GOLDEN,
    PREPROCESSING,
    TOLERANCES,
    Bundle,
    Description,
    Precision,
)
from wafer.inference.golden import Golden
from wafer.inference.registry import add_bundle
from wafer.weights.decision_rule import DecisionRule

SIZE = 32


def golden(images: int = 5) -> Golden:
    """Grey images whose answers are functions of their brightness, which a fake engine can give."""
    pixels = np.zeros((images, SIZE, SIZE), np.uint8)
    pixels += (np.arange(images, dtype=np.uint8) * 40 + 20)[:, None, None]
    bright = pixels.mean((1, 2), dtype=np.float32) / 255
    return Golden(
        images=pixels,
        boxes=np.stack([bright, bright, bright + 9, bright + 9], axis=1),
        scores=np.stack([bright, 1 - bright], axis=1),
        features=bright[:, None],
        decided=np.ones(images, np.bool_),
    )


def description(precision: Precision = "f32") -> Description:
    return Description(
        architecture="yolov5n",
        classes=(DefectClass(1, "spot"), DefectClass(2, "line"), DefectClass(0, "clean", "none")),
        image_size=SIZE,
        channels=1,
        white_level=255,
        preprocessing=dict(PREPROCESSING),
        precision=precision,
        tolerance=TOLERANCES[precision],
        golden_images=5,
        decision=DecisionRule(platt=(1.0, 0.0), none_review_above=0.4),
        dataset_hash="0" * 64,
        metrics={"map50": 0.5, "map50_95": None},
        training={"epochs": 3},
        versions={"export": {"onnx": "1"}},
        weights_sha256="1" * 64,
        licence="AGPL-3.0-or-later",
        provenance="made in a test",
    )


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bundle]:
    def made(network: bytes = b"network", precision: Precision = "f32") -> Bundle:
        def fill(folder: Path) -> None:
            for name in FILES:
                (folder / name).write_bytes(network + name.encode())
            (folder / GOLDEN).write_bytes(golden().to_bytes())
            (folder / DESCRIPTION).write_bytes(description(precision).to_bytes())

        return add_bundle(tmp_path / "models", fill)

    return made
