"""A hosted model as teacher: boxes of the image that was asked about, and nothing unasked."""

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.errors import ExchangeError
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.roboflow.teacher import Teacher, hosted_teacher


def teacher(workspace: Workspace, pauses: list[float]) -> Teacher:
    return hosted_teacher(workspace, "fab-9/defects/3", confirm=lambda _: True, pause=pauses.append)


def seen(name: str, *corners: float, score: float) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = corners
    return {
        **{"x": (xmin + xmax) / 2, "y": (ymin + ymax) / 2, "class": name, "class_id": 0},
        **{"width": xmax - xmin, "height": ymax - ymin, "confidence": score},
    }


def test_boxes_come_back_in_pixels_best_first_and_within_the_image(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.predictions = [
        seen("residue", 10, 8, 60, 40, score=0.25),
        seen("scratch", 100, -5, 140, 20.5, score=0.875),
        seen("scratch", 121, 3, 130, 9, score=0.5),
    ]
    boxes = teacher(workspace, pauses)("lot1/a.png")
    assert [(a.class_name, a.box.corners, a.source, a.score) for a in boxes] == [
        ("scratch", (100, 0, 120, 20.5), "model", 0.875),
        ("residue", (10, 8, 60, 40), "model", 0.25),
    ]


def test_the_model_sees_the_image_as_it_is_read_here(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    wide = np.linspace(0, 65535, 9600).reshape(80, 120).astype(np.uint16)
    Image.fromarray(wide).save(workspace.images / "wide.tif")
    assert teacher(workspace, pauses)("wide.tif") == ()
    asked = remote.images["asked"]
    with Image.open(io.BytesIO(base64.b64decode(unquote_to_bytes(asked.data or "")))) as got:
        grey = np.rint(wide.astype(float) * 255 / 65535)
        assert (np.asarray(got.convert("L")) == grey).all()
    (query,) = asked.queries
    assert (query["confidence"], query["overlap"]) == ("1", "70")


@pytest.mark.parametrize("trouble", [429, 503, "cut"])
def test_trouble_is_asked_again(
    workspace: Workspace, remote: Any, pauses: list[float], trouble: object
) -> None:
    remote.troubles["infer"] = [trouble]
    assert teacher(workspace, pauses)("lot1/a.png") == ()
    assert pauses == ([3] if trouble == 429 else [1])


def test_a_refused_key_ends_it(workspace: Workspace, remote: Any, pauses: list[float]) -> None:
    remote.troubles["infer"] = [401]
    with pytest.raises(ExchangeError, match="refused") as caught:
        teacher(workspace, pauses)("lot1/a.png")
    assert remote.key not in str(caught.value)


@pytest.mark.parametrize(
    ("predictions", "problem"),
    [
        ([seen("crack", 1, 1, 9, 9, score=0.5)], "knows a class 'crack', the workspace"),
        ([{"class": "scratch", "x": 1, "y": 1}], "a box that is no box"),
        ([seen("scratch", 1, 1, float("nan"), 9, score=0.5)], "a box that is no box"),
        ("nothing", "asking fab-9/defects/3 about lot1/a.png"),
        (None, "asking fab-9/defects/3 about lot1/a.png"),
    ],
)
def test_an_answer_that_cannot_be_is_said(
    workspace: Workspace, remote: Any, pauses: list[float], predictions: Any, problem: str
) -> None:
    remote.predictions = predictions
    with pytest.raises(ExchangeError, match=problem):
        teacher(workspace, pauses)("lot1/a.png")


def test_without_a_yes_there_is_no_teacher(workspace: Workspace, remote: Any) -> None:
    asked: list[str] = []

    def refuse(text: str) -> bool:
        asked.append(text)
        return False

    with pytest.raises(ExchangeError, match="nothing was sent"):
        hosted_teacher(workspace, "fab-9/defects/3", confirm=refuse)
    assert asked == [
        f"each image will be sent to {remote.url}, where the model fab-9/defects/3 looks at it"
    ]
    with pytest.raises(ExchangeError, match="is not WORKSPACE/PROJECT/VERSION"):
        hosted_teacher(workspace, "fab-9/defects", confirm=refuse)
    assert remote.requests == []


@pytest.mark.slow
def test_the_command_asks_before_it_sends_anything(workspace: Workspace, remote: Any) -> None:
    def run(teacher: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("wafer"), "label-propagate", "--teacher", teacher],
            cwd=workspace.root,
            input="n\n",
            capture_output=True,
            text=True,
        )

    done = run("roboflow:fab-9/defects/3")
    assert done.returncode == 1
    assert (
        f"each image will be sent to {remote.url}, where the model fab-9/defects/3" in done.stderr
    )
    assert "wafer: nothing was sent; answer yes, or add --yes" in done.stderr
    done = run("roboflow:fab-9/defects")
    assert done.returncode == 1
    assert "wafer: 'fab-9/defects' is not WORKSPACE/PROJECT/VERSION" in done.stderr
    assert remote.requests == []
