"""A model that Roboflow hosts, as a teacher: it looks at an image and returns boxes."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wafer.datasets.boxes import fitted_box
from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import ExchangeError
from wafer.datasets.records import Annotation
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.plain_images import plain_image
from wafer.labelling.exchange.roboflow.asking import Pause, api_key, ask
from wafer.labelling.exchange.roboflow.sdk import ObjectDetectionModel, inference_host

__all__ = ["Teacher", "hosted_teacher"]

MODEL = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+/[0-9]+")

Teacher = Callable[[str], tuple[Annotation, ...]]
"""Returns the boxes that a model sees in an image of a workspace, best first."""


def hosted_teacher(
    workspace: Workspace,
    model: str,
    *,
    confirm: Callable[[str], bool],
    confidence: int = 1,
    overlap: int = 70,
    pause: Pause = time.sleep,
) -> Teacher:
    """Return a function that sends an image to a hosted model and returns its boxes.

    Args:
        workspace: of the images.
        model: ``WORKSPACE/PROJECT/VERSION``.
        confirm: called once, now, with what will be sent where; refused, there is no teacher.
        confidence: lowest score in percent, 1 to 100.
        overlap: greatest overlap of two boxes of a class in percent.
        pause: see `ask`.

    Raises:
        ExchangeError: another name, no key, or not confirmed; the function: refused, no answer, or
            a box of an unknown class.
    """
    if not MODEL.fullmatch(model):
        raise ExchangeError(f"{model!r} is not WORKSPACE/PROJECT/VERSION of a hosted model")
    key = api_key()
    host = inference_host()
    if not confirm(f"each image will be sent to {host}, where the model {model} looks at it"):
        raise ExchangeError("nothing was sent; answer yes, or add --yes")
    name, version = model.split("/")[1:]
    sdk = ObjectDetectionModel(key, model, name=name, version=version)
    cache = workspace.image_cache()

    def teach(image: str) -> tuple[Annotation, ...]:
        _, data = plain_image(workspace, image)
        size = cache.size(image)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image"
            path.write_bytes(data)
            found = ask(
                f"asking {model} about {image}",
                lambda: _predictions(
                    sdk.predict(str(path), confidence=confidence, overlap=overlap)
                ),
                key=key,
                pause=pause,
            )
        boxes = [_annotation(each, workspace.classes, size, model) for each in found]
        return tuple(sorted(filter(None, boxes), key=lambda a: -(a.score or 0)))

    return teach


def _predictions(group: Any) -> list[Mapping[str, Any]]:
    found = group.json()["predictions"]
    if not all(isinstance(each, Mapping) for each in found):
        raise TypeError("an answer without predictions")
    return list(found)


def _annotation(
    prediction: Mapping[str, Any], classes: ClassTable, size: tuple[int, int], model: str
) -> Annotation | None:
    """Return a prediction as a box within the image; None where nothing of it is inside."""
    name = prediction.get("class")
    if name not in classes.detector_names:
        raise ExchangeError(
            f"the model {model} knows a class {name!r}, the workspace "
            f"{', '.join(classes.detector_names)}; take a model of these classes"
        )
    values = [prediction.get(key) for key in ("x", "y", "width", "height", "confidence")]
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise ExchangeError(f"the model {model} answers with a box that is no box: {values}")
    x, y, width, height, score = (float(v) for v in values if v is not None)
    corners = (
        *(max(x - width / 2, 0.0), max(y - height / 2, 0.0)),
        *(min(x + width / 2, size[0]), min(y + height / 2, size[1])),
    )
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None
    return Annotation(fitted_box(corners, size), str(name), "model", min(max(score, 0.0), 1.0))
