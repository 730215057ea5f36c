"""The report of a propagation: numbers as JSON, and one page that shows what they mean."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import ImageError, WaferError
from wafer.datasets.files import write_text
from wafer.datasets.images import decode_image
from wafer.datasets.workspace import Workspace
from wafer.evaluation.metrics import clopper_pearson
from wafer.labelling.certificate import Answer
from wafer.labelling.propagation.decisions import ImageDecision, Judged
from wafer.labelling.propagation.gate import Comparison
from wafer.labelling.propagation.outcome import small_classes
from wafer.labelling.propagation.places import Place
from wafer.labelling.propagation.roles import Roles
from wafer.labelling.propagation.rounds import Reading, RoundResult
from wafer.labelling.propagation.suspicion import Suspicion
from wafer.labelling.queue import QueueItem

__all__ = [
    "REPORT",
    "REPORT_DATA",
    "ClassRow",
    "Summary",
    "read_summary",
    "summarise",
    "write_report",
]

REPORT = "report.html"
REPORT_DATA = "report.json"
COUNT_LOW, COUNT_HIGH = 0.7, 1.3
"""Boxes a labelled image, over those a drawn one, outside which something is wrong."""
SHOWN_ACCEPTED, SHOWN_REVIEW = 4, 4
PICTURE = 220
SHOWN_LIST = 30


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How one class fares.

    ``drawn`` are drawn images, ``pool`` those to be labelled, ``accepted`` and ``review`` what
    became of them. ``estimate`` is the share right among the drawn images that reach the
    ``threshold``, ``interval`` its 90 % Clopper-Pearson interval over ``reached`` images.
    ``count_ratio`` compares boxes an image with the drawn ones. ``answer`` is what may be said of
    the class; ``bound`` the certified share, once an audit was made.
    """

    name: str
    drawn: int
    pool: int
    accepted: int
    review: int
    boxes: int
    threshold: float | None
    reached: int
    estimate: float | None
    interval: tuple[float, float] | None
    count_ratio: float | None
    answer: Answer
    bound: float | None = None
    audited: int = 0

    @property
    def odd_count(self) -> bool:
        """Return whether the accepted images have far more or fewer boxes than drawn ones."""
        ratio = self.count_ratio
        return ratio is not None and not COUNT_LOW <= ratio <= COUNT_HIGH


@dataclass(frozen=True, slots=True)
class Summary:
    """All numbers of a propagation."""

    classes: tuple[ClassRow, ...]
    by_rule: int
    promise: float
    confidence: float
    round: int
    model: str
    gate: tuple[tuple[Comparison, ...], ...]
    calibration_error: float | None
    calibration_error_open: float | None
    false_boxes: float | None
    contradictions: tuple[tuple[str, str | None, str, float], ...]
    suspicions: tuple[tuple[str, str, float], ...]
    queue: Mapping[str, int]
    queue_seconds: float
    ledger: Mapping[str, object] | None
    notes: tuple[str, ...]


def summarise(
    roles: Roles,
    result: RoundResult,
    comparisons: Sequence[Sequence[Comparison]],
    items: Sequence[QueueItem],
    found: Sequence[Suspicion],
    *,
    classes: ClassTable,
    promise: float,
    confidence: float,
    ledger: Mapping[str, object] | None,
    notes: tuple[str, ...],
) -> Summary:
    """Return the numbers of a propagation."""
    small = small_classes(result.decisions, promise=promise, confidence=confidence)
    known = any(d.image_class is not None for d in result.decisions)
    reading = result.guided if known and roles.exclusive else result.open
    rows = tuple(_row(name, roles, result, reading, small) for name in classes.box_names)
    odd = [row.name for row in rows if row.odd_count]
    if odd:
        notes = (
            *notes,
            f"accepted images of {', '.join(odd)} have far more or fewer boxes than drawn ones",
        )
    contradicted = [
        (d.image, d.image_class, *d.other) for d in result.decisions if d.other is not None
    ]
    empty = {s.image: s.image_class for s in roles.empty}
    contradicted += [(image, empty[image], name, s) for image, name, s in result.contradicted]
    return Summary(
        classes=rows,
        by_rule=len(roles.empty),
        promise=promise,
        confidence=confidence,
        round=result.spoken.number,
        model=result.spoken.model,
        gate=tuple(map(tuple, comparisons)),
        calibration_error=result.guided.error,
        calibration_error_open=result.open.error,
        false_boxes=result.false_boxes,
        contradictions=tuple(sorted(contradicted, key=lambda each: -each[3])),
        suspicions=tuple((s.image, s.kind, s.strength) for s in found),
        queue=dict(Counter(item.reason for item in items)),
        queue_seconds=sum(item.seconds for item in items),
        ledger=ledger,
        notes=notes,
    )


def _row(
    name: str, roles: Roles, result: RoundResult, reading: Reading, small: frozenset[str]
) -> ClassRow:
    ours = [d for d in result.decisions if d.class_name == name]
    accepted = [d for d in ours if d.accepted]
    drawn = [s for s in roles.people if any(a.class_name == name for a in s.annotations or ())]
    drawn_boxes = sum(a.class_name == name for s in drawn for a in s.annotations or ())
    boxes = sum(p.class_name == name for d in accepted for p in d.boxes)
    limit = reading.limits.get(name)
    reached = [j for j in reading.judged if _reaches(j, name, limit)]
    right = sum(j.right for j in reached)
    ratio = None
    if accepted and drawn_boxes:
        ratio = (boxes / len(accepted)) / (drawn_boxes / len(drawn))
    return ClassRow(
        name=name,
        drawn=len(drawn),
        pool=len(ours),
        accepted=len(accepted),
        review=len(ours) - len(accepted),
        boxes=boxes,
        threshold=limit,
        reached=len(reached),
        estimate=right / len(reached) if reached else None,
        interval=clopper_pearson(right, len(reached), confidence=0.9),
        count_ratio=ratio,
        answer="review it whole" if not accepted or name in small else "estimated",
    )


def _reaches(judged: Judged, name: str, limit: float | None) -> bool:
    reached = limit is not None and judged.probability >= limit
    return judged.class_name == name and judged.eligible and reached


def write_report(
    folder: Path,
    summary: Summary,
    *,
    workspace: Workspace,
    decisions: Sequence[ImageDecision],
) -> Path:
    """Write report.json and report.html, which is last and needs nothing but itself.

    Args:
        folder: of the run.
        summary: the numbers.
        workspace: where the images are.
        decisions: some of them are shown.
    """
    write_text(folder / REPORT_DATA, json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n")
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("wafer.labelling.propagation").joinpath("report.html.j2")
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        title=f"Labels for {workspace.root.name}",
        summary=summary,
        samples={row.name: _samples(row.name, decisions, workspace) for row in summary.classes},
        shown=SHOWN_LIST,
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def read_summary(path: Path) -> Summary:
    """Read the numbers of a report.

    Raises:
        WaferError: there are none.
    """
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            ClassRow(**{**r, "interval": None if r["interval"] is None else tuple(r["interval"])})
            for r in raw["classes"]
        ]
        gate = tuple(tuple(Comparison(**c) for c in each) for each in raw["gate"])
        lists = {name: tuple(map(tuple, raw[name])) for name in ("contradictions", "suspicions")}
        kept = {**raw, **lists, "classes": tuple(rows), "gate": gate}
        return replace(Summary(**kept), notes=tuple(raw["notes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WaferError(
            f"{path}: cannot be read ({error}); run `wafer label-propagate` again"
        ) from error


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the page: its JPEG as a data URL, size in pixels, boxes and a caption."""

    data: str
    width: int
    height: int
    boxes: tuple[Place, ...]
    accepted: bool
    caption: str


def _samples(name: str, decisions: Sequence[ImageDecision], workspace: Workspace) -> list[Picture]:
    """Return some accepted images of a class, spread over their probabilities, and some others."""
    ours = sorted((d for d in decisions if d.class_name == name), key=lambda d: -d.probability)
    accepted = [d for d in ours if d.accepted]
    others = [d for d in ours if not d.accepted and d.places]
    chosen = [*_spread(accepted, SHOWN_ACCEPTED), *_spread(others, SHOWN_REVIEW)]
    pictures = []
    for decision in chosen:
        try:
            pictures.append(_picture(decision, workspace))
        except ImageError:
            continue  # gone or changed since; its place in the queue says so
    return pictures


def _spread(decisions: Sequence[ImageDecision], number: int) -> list[ImageDecision]:
    if len(decisions) <= number:
        return list(decisions)
    places = np.linspace(0, len(decisions) - 1, number).round().astype(int)
    return [decisions[place] for place in places]


def _picture(decision: ImageDecision, workspace: Workspace) -> Picture:
    pixels = decode_image(
        workspace.image_path(decision.image),
        colour=workspace.colour,
        white_level=workspace.white_level,
    )
    image = Image.fromarray(pixels)
    width, height = image.size
    image.thumbnail((2 * PICTURE, 2 * PICTURE))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=80)
    shown = [p for p in decision.places if p in decision.boxes or p.probability >= 0.1]
    return Picture(
        data="data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii"),
        width=width,
        height=height,
        boxes=tuple(shown or decision.places[:1]),
        accepted=decision.accepted,
        caption=decision.image if decision.accepted else f"{decision.image}: {decision.reason}",
    )
