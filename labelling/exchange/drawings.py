"""What people drew elsewhere, and its way into the label files of a workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from wafer.datasets.errors import DataError, Fault
from wafer.datasets.keeping import keep_copy
from wafer.datasets.ledger import Decision, Entry, ImageState
from wafer.datasets.reading import ruled_annotations
from wafer.datasets.records import Annotation, Sample, Source
from wafer.datasets.scanning import ImageCache
from wafer.datasets.workspace import Workspace
from wafer.labelling.ledger import BoxEvent, Ledger, Revision, again, paired, renew_view, this_user

__all__ = ["Drawing", "TakenIn", "agree", "take_in"]

# Corners that come back from another program differ by its rounding; nobody sees a 20th of a pixel.
SAME = 0.05
SHOWN = 5
DECIDED: Mapping[Source, Decision] = {"model+confirmed": "confirmed", "model+edited": "edited"}
"""What a person did to a model's box, by the source that the other program gives it."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a person says of one image: the boxes, none where nothing is to be seen.

    ``author`` and ``when`` are as the other program gives them, None where it does not.
    """

    image: str
    annotations: tuple[Annotation, ...]
    author: str | None = None
    when: str | None = None


@dataclass(frozen=True, slots=True)
class TakenIn:
    """The drawings that were written, those that were there already, and notes for the user.

    ``replaced`` are the images among ``written`` where a person's older file is kept as ``.bak-N``.
    """

    written: tuple[Drawing, ...]
    unchanged: tuple[Drawing, ...]
    replaced: tuple[str, ...]
    notes: tuple[str, ...]


def agree(one: Sequence[Annotation], other: Sequence[Annotation], *, iou: float = 0.5) -> bool:
    """Return whether two people drew the same: box for box one class and at least that overlap."""
    if len(one) != len(other):
        return False
    fits = np.array(
        [[a.class_name == b.class_name and a.box.iou(b.box) >= iou for b in other] for a in one],
        np.float64,
    ).reshape(len(one), len(other))
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return bool(fits[rows, columns].all())


def take_in(
    workspace: Workspace, drawings: Sequence[Drawing], *, source: str, force: bool = False
) -> TakenIn:
    """Record drawings in the ledger and then in the label files; at any fault nothing is written.

    A label file with the same boxes stays as it is, one without a person's boxes gives way.
    One of a person with other boxes is a conflict: it is named, and only ``force`` replaces it,
    keeping the old one as ``.bak-N``. One that was edited behind the ledger's back is never
    replaced. All drawings are in the ledger before the first label file is written, so that a
    command that was killed is finished by the next one.

    Args:
        workspace: where the label files are.
        drawings: at most one for each image, of known images and classes.
        source: the name of the data in faults.
        force: replace what a person drew otherwise.

    Raises:
        DataError: all conflicts, label files edited by hand, and boxes on images of class "no
            defect" together.
        ConflictError: somebody changed an image meanwhile; nothing is written.
    """
    ledger = Ledger(workspace)
    edits = {edit.image: edit for edit in ledger.edits()}  # after what a crash left is written
    known = ledger.states()  # before the label files are read, so that what is newer is a conflict
    samples = {sample.image: sample for sample in workspace.samples()}
    cache = workspace.image_cache()
    faults: list[Fault] = []
    written: list[Drawing] = []
    unchanged: list[Drawing] = []
    replaced: list[str] = []
    for drawing in drawings:
        sample = samples[drawing.image]
        label = workspace.label_path(drawing.image)
        if drawing.image in edits:
            faults.append(edits[drawing.image].fault())
        elif _is_none(workspace, sample):
            faults += _box_faults(drawing, sample, source)
            unchanged.append(drawing)
        elif not label.is_file() or _impersonal(sample):
            written.append(drawing)
        elif _same(sample.annotations or (), _ruled(workspace, sample, drawing, cache)):
            unchanged.append(drawing)
        elif force:
            written.append(drawing)
            replaced.append(drawing.image)
        else:
            problem = f"{_boxes(drawing)} of {drawing.image}, where {label} has other boxes"
            remedy = "keep one: take the image out of the export, or add --force (keeps a .bak-N)"
            faults.append(Fault(file=source, problem=problem, remedy=remedy))
    if faults:
        raise DataError(faults)
    cache.save()
    ledger.adopt(who=this_user(), edited=False)
    states = {**known, **{i: s for i, s in ledger.states().items() if _just_adopted(s)}}
    changes = [
        _revision(
            drawing,
            _ruled(workspace, samples[drawing.image], drawing, cache),
            state=_as_it_is(states.get(drawing.image), cache),
            image_class=samples[drawing.image].image_class,
            source=source,
        )
        for drawing in written
    ]
    for image in replaced:
        keep_copy(workspace.label_path(image))
    ledger.record(changes, who=this_user())
    notes = (*_contradictions(drawings, samples, workspace), *renew_view(workspace))
    return TakenIn(tuple(written), tuple(unchanged), tuple(replaced), notes)


def _as_it_is(state: ImageState | None, cache: ImageCache) -> ImageState | None:
    """Return a state with its boxes in pixels of the image as it is now."""
    return None if state is None else state.resized(cache.size(state.image))


def _just_adopted(state: ImageState) -> bool:
    """Return whether the newest that the ledger has of an image is its label file as it lay."""
    return all("adopted" in (entry.decision, entry.note) for entry in state.entries)


def _revision(
    drawing: Drawing,
    boxes: Sequence[Annotation],
    *,
    state: ImageState | None,
    image_class: str | None,
    source: str,
) -> Revision:
    """Return the change that an image has what was drawn, and of its boxes so far nothing else."""
    pairs, left = paired(boxes, () if state is None else state.live)
    events = [_event(*pair) for pair in pairs] or [BoxEvent(decision="empty")]
    events += [again(entry, decision="rejected") for entry in left]
    origin = source if source.startswith("roboflow:") else Path(source).name
    note = f"imported from {origin}" + (f", drawn {drawing.when}" if drawing.when else "")
    return Revision(
        drawing.image,
        tuple(replace(event, note=note) for event in events),
        image_class,
        0 if state is None else state.revision,
        drawing.author,
    )


def _event(annotation: Annotation, before: Entry | None) -> BoxEvent:
    """Return what became of a box; of a model's box that a person left, its scores are kept."""
    decision = DECIDED.get(annotation.source, "drawn")
    box, name, source = annotation.box, annotation.class_name, annotation.source
    if before is None:
        return BoxEvent(decision=decision, box=box, class_name=name, source=source)
    if annotation.source in DECIDED:
        kept = again(before, decision=decision)
        return replace(kept, box=box, class_name=name, source=source)
    return BoxEvent(
        decision=decision, box=box, class_name=name, source=source, supersedes=before.number
    )


def _impersonal(sample: Sample) -> bool:
    """Return whether every box of an image comes from a model or a rule, none from a person."""
    sources = {a.source for a in sample.annotations or ()}
    return bool(sources) and sources <= {"model", "rejected", "rule"}


def _is_none(workspace: Workspace, sample: Sample) -> bool:
    name = sample.image_class
    return name is not None and workspace.classes[name].kind == "none"


def _boxes(drawing: Drawing) -> str:
    number = len(drawing.annotations)
    return f"{number} box{'es' if number != 1 else ''}"


def _box_faults(drawing: Drawing, sample: Sample, source: str) -> list[Fault]:
    if not drawing.annotations:
        return []
    problem = f"{_boxes(drawing)} on {drawing.image}, whose class is {sample.image_class}"
    remedy = "delete the boxes, or change the class in image_labels.csv"
    return [Fault(file=source, problem=problem, remedy=remedy)]


def _ruled(
    workspace: Workspace, sample: Sample, drawing: Drawing, cache: ImageCache
) -> tuple[Annotation, ...]:
    ruled = ruled_annotations(
        drawing.annotations,
        image_class=sample.image_class,
        classes=workspace.classes,
        size=cache.size(drawing.image),
    )
    return ruled or ()


def _same(one: Sequence[Annotation], other: Sequence[Annotation]) -> bool:
    """Return whether two label files say the same but for rounding and order."""
    rest = list(other)
    for a in one:
        match = next((b for b in rest if a.class_name == b.class_name and _near(a, b)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _near(one: Annotation, other: Annotation) -> bool:
    pairs = zip(one.box.corners, other.box.corners, strict=True)
    return all(abs(a - b) <= SAME for a, b in pairs)


def _contradictions(
    drawings: Sequence[Drawing], samples: Mapping[str, Sample], workspace: Workspace
) -> tuple[str, ...]:
    """Return notes where what was drawn and the class of the image do not go together."""
    empty, other = [], []
    for drawing in drawings:
        name = samples[drawing.image].image_class
        if name is None or workspace.classes[name].kind != "box":
            continue
        found = {a.class_name for a in drawing.annotations}
        if not found:
            empty.append(drawing.image)
        elif found != {name}:
            other.append(drawing.image)
    notes = []
    if empty:
        notes.append(f"no box on {_listed(empty)} though the class says there is a defect")
    if other:
        notes.append(f"boxes of another class than the image's on {_listed(other)}")
    return tuple(notes)


def _listed(images: Sequence[str]) -> str:
    more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
    return (
        f"{len(images)} image{'s' if len(images) != 1 else ''} ({', '.join(images[:SHOWN])}{more})"
    )
