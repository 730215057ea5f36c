"""What is said where the classes of the workspace are others than those of the model."""

import csv
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WeightsError
from wafer.datasets.workspace import Workspace
from wafer.evaluation.calibration import decide
from wafer.inference.classification import OnTorch, TorchModel, classify_with
from wafer.inference.records import Predictor, TopOne

MODEL = ClassTable(
    (DefectClass(10, "scratch"), DefectClass(20, "dust"), DefectClass(0, "clean", "none"))
)
Classify = Callable[[ClassTable], list[str]]


class Scratch:
    """Finds a scratch in every image."""

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        scores = np.tile(np.array([0.9, 0.1], np.float32), (len(images), 1))
        return TopOne.of(np.tile(np.array([1, 2, 9, 9], np.float32), (len(images), 1)), scores)

    def close(self) -> None:
        pass


def load(*_: object) -> TorchModel:
    predictor = Predictor(
        model="m",
        engine=Scratch(),
        classes=MODEL,
        decide=partial(decide, platt=None, none_class="clean", none_review_above=None),
        image_size=32,
        colour=False,
        white_level=255,
    )
    return TorchModel(path=Path("m.safetensors"), digest="0" * 64, predictor=predictor)


@pytest.fixture
def classify(tmp_path: Path) -> Classify:
    """Classify one image in a workspace of some classes; return the codes of the rows."""
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "a.png")
    on_torch = OnTorch(
        backend=lambda device: SimpleNamespace(version="1"),  # type: ignore[arg-type, return-value]
        load=load,
    )

    def run(classes: ClassTable) -> list[str]:
        classify_with(
            on_torch,
            [str(tmp_path / "a.png")],
            workspace=Workspace(root=tmp_path, images=tmp_path, classes=classes),
            output=tmp_path / "p.csv",
            device="cpu",
        )
        with (tmp_path / "p.csv").open(newline="") as handle:
            return [row["class_code"] for row in csv.DictReader(handle)]

    return run


def changed(**fields: dict[str, Any]) -> ClassTable:
    """Return the classes of the model with other fields of some."""
    return ClassTable(tuple(replace(c, **fields.get(c.name, {})) for c in MODEL))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (MODEL, []),
        (
            changed(scratch={"code": 20}, dust={"code": 10}),
            [
                "codes are those of the model (scratch 10, dust 20), the workspace has others "
                "(scratch 20, dust 10); `wafer train` makes a model of these"
            ],
        ),
        (
            changed(dust={"killer": True}),
            [
                "killer was changed for dust after the training, and the limit on automatic "
                '"no defect" is still that of the model; train it again with `wafer train`'
            ],
        ),
        (
            changed(dust={"name": "particle"}),
            [
                "the model knows the classes scratch, dust, clean, the workspace scratch, "
                "particle, clean; answers are of the model's, `wafer train` makes one of the others"
            ],
        ),
    ],
)
def test_what_the_workspace_changed_is_named_and_codes_stay_the_models(
    classify: Classify, caplog: pytest.LogCaptureFixture, classes: ClassTable, said: list[str]
) -> None:
    assert classify(classes) == ["10"]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == said


def test_a_class_of_another_kind_is_refused_before_anything_is_written(
    classify: Classify, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError) as caught:
        classify(changed(scratch={"kind": "whole_image"}))
    assert str(caught.value) == (
        "the model knows the class scratch as box, the workspace as whole_image; set the kind back "
        "in classes.yaml, or train one here with `wafer train`"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
