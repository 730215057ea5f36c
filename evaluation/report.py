"""The report of an evaluation: metrics.json, figures, and one page that needs nothing else.

The page holds its images itself, runs no script and loads nothing from anywhere: it can be mailed,
archived and printed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wafer.datasets.files import write_bytes, write_text
from wafer.datasets.images import decode_image
from wafer.datasets.records import Box, Sample
from wafer.datasets.workspace import Workspace
from wafer.evaluation import figures
from wafer.evaluation.detection import SCORE_THRESHOLD
from wafer.evaluation.figures import LoadImage
from wafer.evaluation.metrics import golden_set_size
from wafer.evaluation.pages import data_url, render_page
from wafer.evaluation.records import Detection, Prediction
from wafer.evaluation.remarks import remarks
from wafer.evaluation.results import Evaluation

__all__ = ["METRICS_FILE", "REPORT_FILE", "Evaluated", "report_on", "write_report"]

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"

SHOWN_PAIRS = 12
SHOWN_MISTAKES = 12
LARGEST_SIDE = 1024
JPEG_QUALITY = 88
GOLDEN_TARGETS = (0.90, 0.95, 0.98, 0.99)
GOLDEN_ERRORS = (0, 1, 2)
# A close-up has this many times the side of the box, within these shares of the whole image.
CLOSE_UP = 1.6
LEAST_CLOSE_UP, LARGEST_CLOSE_UP = 0.15, 0.75


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was measured, and the report that shows it."""

    evaluation: Evaluation
    report: Path


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer as the page shows it: the image with all boxes, whole and close up.

    ``data`` is the image as a data URL, ``width`` and ``height`` its size in pixels of the
    original, ``close_up`` the part to show enlarged as (x, y, width, height), None for the whole.
    """

    prediction: Prediction
    truth: str
    killer: bool
    data: str
    width: int
    height: int
    true_boxes: tuple[Box, ...]
    other_boxes: tuple[Box, ...]
    close_up: tuple[float, float, float, float] | None


def report_on(
    workspace: Workspace,
    evaluation: Evaluation,
    *,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    detections: Sequence[Detection] | None,
    folder: Path | None,
) -> Evaluated:
    """Write the report of a model on a workspace; see `write_report`.

    Args:
        workspace: whose images are shown.
        evaluation: of the model.
        samples: the images with their true labels.
        predictions: one for each sample.
        detections: every box with its score; None for a model that gives no boxes.
        folder: where it goes; None is ``runs/evaluate/<model>-<split>`` of the workspace.
    """

    def load_image(image: str) -> NDArray[np.uint8]:
        return decode_image(
            workspace.image_path(image),
            colour=workspace.colour,
            white_level=workspace.white_level,
        )

    own = workspace.root / "runs" / "evaluate" / f"{evaluation.model}-{evaluation.split}"
    report = write_report(
        own if folder is None else folder,
        evaluation,
        load_image=load_image,
        samples=samples,
        predictions=predictions,
        detections=detections,
        title=f"{evaluation.model} on {workspace.root.resolve().name}",
    )
    return Evaluated(evaluation, report)


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    load_image: LoadImage,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    detections: Sequence[Detection] | None,
    title: str,
) -> Path:
    """Write metrics.json, the figures as PNG, and report.html, each in one step.

    Args:
        folder: is made where needed; files of an earlier report in it are replaced.
        evaluation: of these samples and predictions.
        load_image: gives the decoded image for the path in a sample, uint8 of shape
            (height, width) or (height, width, 3). It is asked for a few images only.
        samples: the images with their true labels.
        predictions: one for each sample.
        detections: every box with its score; None for a model that gives no boxes.
        title: heading of the page.

    Returns:
        The path of report.html, which is written last.
    """
    content = evaluation.to_dict()
    write_text(folder / METRICS_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
    scored = _scored(evaluation, samples, predictions)
    drawn = _draw_figures(folder, evaluation, scored, load_image)
    page = render_page(
        "wafer.evaluation",
        TEMPLATE,
        title=title,
        evaluation=evaluation,
        values=content,
        remarks=remarks(evaluation),
        figures={name: data_url(data, "png") for name, data in drawn.items()},
        mistakes=_mistakes(evaluation, scored, detections or (), load_image),
        mistakes_in_all=int((~evaluation.answers.correct).sum()),
        golden=[(t, [golden_set_size(t, errors=e) for e in GOLDEN_ERRORS]) for t in GOLDEN_TARGETS],
    )
    write_bytes(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _scored(
    evaluation: Evaluation, samples: Sequence[Sample], predictions: Sequence[Prediction]
) -> list[tuple[Sample, Prediction, str]]:
    """Return sample, prediction and true class of every image that has one."""
    names = evaluation.classes.names
    by_image = {sample.image: sample for sample in samples}
    answers = {prediction.image: prediction for prediction in predictions}
    truth = zip(evaluation.answers.images, evaluation.answers.truth.tolist(), strict=True)
    return [(by_image[image], answers[image], names[position]) for image, position in truth]


def _draw_figures(
    folder: Path,
    evaluation: Evaluation,
    scored: Sequence[tuple[Sample, Prediction, str]],
    load_image: LoadImage,
) -> dict[str, bytes]:
    pairs = _pairs(scored)
    made = {
        "classes": figures.class_figure(evaluation),
        "confusion_top1": figures.top_one_confusion_figure(evaluation),
        "confusion_detection": figures.detection_confusion_figure(evaluation),
        "reliability": figures.reliability_figure(evaluation) if scored else None,
        "risk_coverage": figures.risk_coverage_figure(evaluation) if scored else None,
        "truth_and_prediction": figures.comparison_figure(
            [(sample, prediction) for sample, prediction, _ in pairs],
            truths=[truth for *_, truth in pairs],
            load_image=load_image,
        )
        if pairs
        else None,
    }
    drawn = {name: figures.png_bytes(figure) for name, figure in made.items() if figure is not None}
    for name in made:
        path = folder / f"{name}.png"
        if name in drawn:
            write_bytes(path, drawn[name])
        else:
            path.unlink(missing_ok=True)  # of an earlier report: would contradict this one
    return drawn


def _pairs(
    scored: Sequence[tuple[Sample, Prediction, str]],
) -> list[tuple[Sample, Prediction, str]]:
    """Choose images class by class in turn, in an order that knows nothing of the answers."""
    by_class: defaultdict[str, list[tuple[Sample, Prediction, str]]] = defaultdict(list)
    for item in sorted(scored, key=lambda item: _shuffled(item[0].image)):
        by_class[item[2]].append(item)
    turns = chain.from_iterable(zip_longest(*(by_class[name] for name in sorted(by_class))))
    return [item for item in turns if item is not None][: max(SHOWN_PAIRS, len(by_class))]


def _shuffled(image: str) -> str:
    return hashlib.sha256(image.encode("utf-8", "surrogateescape")).hexdigest()


def _mistakes(
    evaluation: Evaluation,
    scored: Sequence[tuple[Sample, Prediction, str]],
    detections: Sequence[Detection],
    load_image: LoadImage,
) -> list[Mistake]:
    wrong = [item for item in scored if item[1].class_name != item[2]]
    wrong.sort(key=lambda item: (-item[1].confidence, item[0].image))
    return [
        _mistake(
            *item,
            killer=evaluation.classes[item[2]].killer,
            others=[d for d in detections if d.image == item[0].image],
            image=load_image(item[0].image),
        )
        for item in wrong[:SHOWN_MISTAKES]
    ]


def _mistake(
    sample: Sample,
    prediction: Prediction,
    truth: str,
    *,
    killer: bool,
    others: Sequence[Detection],
    image: NDArray[np.uint8],
) -> Mistake:
    height, width = image.shape[:2]
    true_boxes = tuple(annotation.box for annotation in sample.annotations or ())
    answered = () if prediction.box is None else (prediction.box,)
    return Mistake(
        prediction=prediction,
        truth=truth,
        killer=killer,
        data=data_url(_jpeg(image), "jpeg"),
        width=width,
        height=height,
        true_boxes=true_boxes,
        other_boxes=tuple(
            d.box for d in others if d.score >= SCORE_THRESHOLD and d.box != prediction.box
        ),
        close_up=_close_up([*true_boxes, *answered], width, height),
    )


def _close_up(
    boxes: Sequence[Box], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """Return the square around the smallest box, None where it would show nearly the whole."""
    if not boxes:
        return None
    box = min(boxes, key=lambda box: box.area)
    shorter = min(width, height)
    side = max(CLOSE_UP * max(box.width, box.height), LEAST_CLOSE_UP * shorter)
    if side > LARGEST_CLOSE_UP * shorter:
        return None
    x = min(max((box.xmin + box.xmax - side) / 2, 0), width - side)
    y = min(max((box.ymin + box.ymax - side) / 2, 0), height - side)
    return x, y, side, side


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
