"""What the page is told of an image, and what it sends back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wafer.datasets.boxes import fitted_box, full_frame
from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import ConflictError, WaferError
from wafer.datasets.ledger import Corners, Entry, ImageState
from wafer.datasets.records import Box
from wafer.labelling.ledger import BoxEvent
from wafer.labelling.queue import Candidate, Queue
from wafer.labelling.review.piles import Task
from wafer.labelling.verdicts import ReviewedBox

__all__ = ["GivenBox", "ShownBox", "reviewed_boxes", "shown_boxes"]

SAME = 0.9
"""From this overlap on a candidate is a box that is there already."""
DRAWN = 0.999
"""From this overlap on it is the drawn box that an item names, as a label file rounds it."""


@dataclass(frozen=True, slots=True)
class ShownBox:
    """A box on the page: ``taken`` ones are recorded as they are, the others only offered.

    Either ``entry`` (a number of the ledger) or ``candidate`` (one of the queue; no other queue has
    the same) says where it comes from. ``suspicious`` marks a person's box that may be wrong.
    """

    box: Corners
    class_name: str
    taken: bool
    probability: float | None = None
    entry: int | None = None
    candidate: str | None = None
    source: str | None = None
    suspicious: bool = False


@dataclass(frozen=True, slots=True)
class GivenBox:
    """A box as a person left it, with where it comes from as in `ShownBox`."""

    box: Corners
    class_name: str
    entry: int | None = None
    candidate: str | None = None


def shown_boxes(
    task: Task, state: ImageState | None, *, queue: Queue | None
) -> tuple[ShownBox, ...]:
    """Return the boxes of an image as the page begins with them: what is there, what may be.

    In an audit no probability and no candidate is told.
    """
    live = () if state is None else state.live
    blind = task.pile == "audit"
    shown = [_of_entry(entry, task, blind=blind) for entry in live]
    for key, candidate in _offered(task, queue).items():
        if not any(_same(candidate, entry) for entry in live):
            shown.append(
                ShownBox(
                    candidate.box,
                    candidate.class_name,
                    taken=candidate.proposed and not live,
                    probability=candidate.probability,
                    candidate=key,
                    source="model",
                )
            )
    return tuple(shown)


def _offered(task: Task, queue: Queue | None) -> dict[str, Candidate]:
    """Return the candidates of a task by what tells them from those of a renewed queue."""
    if queue is None:
        return {}
    made = (queue.run, queue.model, queue.round)
    named = ((repr((*made, each)), each) for each in task.candidates)
    return {hashlib.sha256(text.encode()).hexdigest()[:16]: each for text, each in named}


def _of_entry(entry: Entry, task: Task, *, blind: bool) -> ShownBox:
    annotation = entry.annotation()
    if blind:
        return ShownBox(annotation.box.corners, annotation.class_name, taken=True)
    return ShownBox(
        annotation.box.corners,
        annotation.class_name,
        taken=True,
        probability=entry.probability,
        entry=entry.number,
        source=entry.source,
        suspicious=task.drawn is not None and annotation.box.iou(Box(*task.drawn)) >= DRAWN,
    )


def _same(candidate: Candidate, entry: Entry) -> bool:
    annotation = entry.annotation()
    named = annotation.class_name == candidate.class_name
    return named and annotation.box.iou(Box(*candidate.box)) >= SAME


def reviewed_boxes(
    given: Sequence[GivenBox],
    *,
    task: Task,
    state: ImageState | None,
    queue: Queue | None,
    classes: ClassTable,
    size: tuple[int, int],
) -> tuple[ReviewedBox, ...]:
    """Return what a person left as boxes with their origins.

    Args:
        given: what the page sent.
        task: what it was sent for.
        state: of the ledger, which is the one the person saw.
        queue: where the candidates are from.
        classes: a class of kind ``whole_image`` has the full frame, once.
        size: (width, height) of the image in pixels.

    Raises:
        ConflictError: a candidate that the queue has no more.
        WaferError: an unknown class or entry, two boxes of one origin, a box outside the image.
    """
    entries = {} if state is None else {entry.number: entry for entry in state.live}
    boxes: list[ReviewedBox] = []
    used: set[tuple[int | None, str | None]] = set()
    for each in given:
        origin = _origin(each, task, entries, queue)
        source = (each.entry, each.candidate)
        if origin is not None and source in used:
            raise WaferError("two boxes cannot come from one")
        used.add(source)
        if each.class_name not in classes.detector_names:
            raise WaferError(f"no box can be of class {each.class_name!r}")
        boxes.append(ReviewedBox(_box(each, origin, classes, size), each.class_name, origin))
    _check_frames(boxes, classes)
    return tuple(boxes)


def _origin(
    given: GivenBox, task: Task, entries: Mapping[int, Entry], queue: Queue | None
) -> Entry | BoxEvent | None:
    if given.entry is not None:
        if given.entry not in entries:
            raise WaferError(f"the image has no box of entry {given.entry}")
        return entries[given.entry]
    if given.candidate is None:
        return None
    offered = _offered(task, queue)
    if queue is None or given.candidate not in offered:
        raise ConflictError(f"other boxes are offered for {task.image} by now")
    return offered[given.candidate].event(queue)


def _box(
    given: GivenBox,
    origin: Entry | BoxEvent | None,
    classes: ClassTable,
    size: tuple[int, int],
) -> Box:
    if classes[given.class_name].kind == "whole_image":
        return full_frame(given.class_name, size).box
    if origin is not None and origin.box is not None:
        corners = origin.box.corners if isinstance(origin.box, Box) else origin.box
        if corners == given.box:
            return Box(*corners)
    try:
        return fitted_box(given.box, size)
    except ValueError as error:
        raise WaferError(str(error)) from error


def _check_frames(boxes: Sequence[ReviewedBox], classes: ClassTable) -> None:
    for name in classes.whole_image_names:
        if sum(each.class_name == name for each in boxes) > 1:
            raise WaferError(f"{name} is the whole image and can be there only once")
