"""The end of a propagation: labels for the accepted images, a queue of the others, both on disk."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wafer.datasets.errors import WaferError
from wafer.datasets.files import write_text
from wafer.datasets.ledger import Entry, ImageState, same_boxes
from wafer.datasets.records import Annotation, Box
from wafer.labelling.certificate import plan_audit
from wafer.labelling.ledger import BoxEvent, Revision
from wafer.labelling.propagation.decisions import ImageDecision
from wafer.labelling.propagation.places import MATCH_IOU, Place
from wafer.labelling.propagation.roles import Roles
from wafer.labelling.propagation.rounds import RoundResult
from wafer.labelling.propagation.suspicion import Suspicion
from wafer.labelling.queue import DRAW, LOOK, Candidate, QueueItem
from wafer.labelling.verdicts import UNDO, WRONG, withdrawn

__all__ = [
    "DECISIONS",
    "annotations_of",
    "put_back_items",
    "queue_items",
    "read_decisions",
    "rejected_by_person",
    "revisions",
    "small_classes",
    "write_decisions",
]

DECISIONS = "decisions.json"
SHOWN = 8
LEAST_SHOWN = 0.02
"""Places of an image that are worth showing to a person."""
BY_PERSON = ("confirmed", "drawn", "edited")
TOO_FEW = "too few were accepted for a sample; look at all of them"


@dataclass(frozen=True, slots=True)
class _Serving:
    """What decides about the order of the queue: how many labels a class has, and revisions."""

    labels: Mapping[str, int]
    states: Mapping[str, ImageState]

    def revision(self, image: str) -> int:
        state = self.states.get(image)
        return 0 if state is None else state.revision

    def priority(self, class_name: str | None, doubt: float, seconds: float) -> float:
        """Return the doubt that a second of a person's time clears up, rare classes first."""
        return doubt / math.sqrt(1 + self.labels.get(class_name or "", 0)) / seconds


def annotations_of(decision: ImageDecision) -> tuple[Annotation, ...]:
    """Return the boxes of an accepted image."""
    return tuple(
        Annotation(p.box, p.class_name, "model", min(1.0, p.probability)) for p in decision.boxes
    )


def rejected_by_person(decision: ImageDecision, history: Sequence[Sequence[Entry]]) -> bool:
    """Return whether a person has said of an image that these boxes are wrong.

    So it is where one of them was rejected, and where an audit found just these boxes wrong, which
    may have been for one that is missing. A later change of mind counts, an undone one does not.

    Args:
        decision: about the image.
        history: the revisions of the image in the ledger, the oldest first.
    """
    wrong = False
    for number, entries in enumerate(history):
        after = history[number + 1] if number + 1 < len(history) else ()
        if after and all(entry.note == UNDO for entry in after):
            continue
        said = _said(decision, entries)
        wrong = wrong if said is None else said
    return wrong


def _said(decision: ImageDecision, entries: Sequence[Entry]) -> bool | None:
    """Return whether a revision says that boxes are wrong; None where it does not speak of them."""
    rejected = [e for e in entries if e.decision == "rejected"]
    if any(_alike(place, entry) for entry in rejected for place in decision.boxes):
        return True
    if _are(decision, [e for e in entries if e.note == WRONG and e.box is not None]):
        return True
    return False if _are(decision, [e for e in entries if e.decision in BY_PERSON]) else None


def _are(decision: ImageDecision, entries: Sequence[Entry]) -> bool:
    """Return whether the boxes of a decision are just those of the entries."""
    return len(entries) == len(decision.boxes) > 0 and all(
        any(_alike(place, entry) for entry in entries) for place in decision.boxes
    )


def _alike(place: Place, entry: Entry) -> bool:
    box = entry.annotation().box
    return entry.class_name == place.class_name and place.box.iou(box) >= MATCH_IOU


def revisions(
    decisions: Iterable[ImageDecision],
    states: Mapping[str, ImageState],
    *,
    model: str,
    round_number: int,
) -> tuple[Revision, ...]:
    """Return the changes for the ledger: boxes of accepted images, none where a model had some.

    What the ledger has already is left out, so that a run that was killed can end twice.

    Args:
        decisions: of the pool.
        states: of the ledger, before.
        model: SHA-256 over the teachers.
        round_number: of the teachers.
    """
    changes = []
    for decision in decisions:
        state = states.get(decision.image)
        if decision.accepted:
            if not _recorded(decision, state, model):
                changes.append(_accepted(decision, state, model, round_number))
        elif state is not None and state.annotations is not None:
            changes.append(withdrawn(state, note=decision.reason))
    return tuple(changes)


def _recorded(decision: ImageDecision, state: ImageState | None, model: str) -> bool:
    if state is None:
        return False
    ours = all(entry.model == model for entry in state.live)
    return ours and same_boxes(annotations_of(decision), state.annotations)


def _accepted(
    decision: ImageDecision, state: ImageState | None, model: str, round_number: int
) -> Revision:
    events = tuple(
        BoxEvent(
            decision="accepted",
            box=place.box,
            class_name=place.class_name,
            source="model",
            model=model,
            round=round_number,
            raw=place.raw,
            probability=min(1.0, place.probability),
            votes=place.votes,
            spread=place.spread,
            threshold=decision.threshold,
        )
        for place in decision.boxes
    )
    revision = 0 if state is None else state.revision
    return Revision(decision.image, events, decision.image_class, revision)


def small_classes(
    decisions: Iterable[ImageDecision], *, promise: float, confidence: float
) -> frozenset[str]:
    """Return the classes of which too few images were accepted for a sample to save work."""
    counts = Counter(d.class_name for d in decisions if d.accepted and d.class_name)
    return frozenset(
        name
        for name, count in counts.items()
        if plan_audit(count, promise=promise, confidence=confidence, attempt=1) is None
    )


def queue_items(
    result: RoundResult,
    roles: Roles,
    found: Sequence[Suspicion],
    states: Mapping[str, ImageState],
    *,
    small: frozenset[str],
) -> tuple[QueueItem, ...]:
    """Return what a person should look at: one class at a time, what pays most first.

    Args:
        result: the decisions, and empty images that may not be empty.
        roles: what each image is for.
        found: drawn boxes that may be wrong, the strongest doubt first.
        states: of the ledger, after the labels of this run were recorded.
        small: classes that are looked at whole.
    """
    labels = Counter(d.class_name for d in result.decisions if d.accepted)
    labels.update(a.class_name for s in roles.people for a in s.annotations or ())
    serving = _Serving({name: n for name, n in labels.items() if name}, states)
    items = [
        _pool_item(decision, serving)
        for decision in result.decisions
        if not decision.accepted or decision.class_name in small
    ]
    classes = {s.image: s.image_class for s in [*roles.people, *roles.empty]}
    doubts: dict[str, list[Suspicion]] = {}
    for each in found:
        doubts.setdefault(each.image, []).append(each)
    items += [_suspicion_item(ours, classes[image], serving) for image, ours in doubts.items()]
    for image, other, score in result.contradicted:
        items.append(_contradiction_item(image, classes[image], other, score, serving))
    return tuple(sorted(items, key=lambda i: (i.class_name or "", -i.priority, i.image)))


def put_back_items(
    decisions: Iterable[ImageDecision],
    reasons: Mapping[str, str],
    states: Mapping[str, ImageState],
) -> tuple[QueueItem, ...]:
    """Return the queue items of images whose labels an audit took back.

    Args:
        decisions: of these images.
        reasons: why, of each.
        states: of the ledger, now.
    """
    serving = _Serving({}, states)
    return tuple(
        replace(_pool_item(decision, serving), reason=reasons[decision.image])
        for decision in decisions
    )


def _pool_item(decision: ImageDecision, serving: _Serving) -> QueueItem:
    candidates = _candidates(decision.places, decision.boxes)
    doubtful = sum(not candidate.proposed for candidate in candidates)
    seconds = LOOK + DRAW * (doubtful + (not decision.boxes))
    doubt = 1 - decision.probability
    unreadable = decision.reason.startswith("the image cannot be read")
    return QueueItem(
        image=decision.image,
        kind="unreadable" if unreadable else "class" if decision.other else "boxes",
        reason=TOO_FEW if decision.accepted else decision.reason,
        image_class=decision.image_class,
        class_name=decision.class_name,
        probability=decision.probability,
        priority=0.0 if unreadable else serving.priority(decision.class_name, doubt, seconds),
        seconds=seconds,
        revision=serving.revision(decision.image),
        candidates=candidates,
        other=decision.other[0] if decision.other else None,
    )


def _suspicion_item(
    found: Sequence[Suspicion], image_class: str | None, serving: _Serving
) -> QueueItem:
    """Return one item for all doubts about an image: a person looks once."""
    each, more = found[0], len(found) - 1
    seconds = LOOK * len(found)
    name = each.suggested.class_name if each.drawn is None else each.drawn.class_name
    return QueueItem(
        image=each.image,
        kind="suspicion",
        reason={
            "missed": "a defect may have been missed",
            "misplaced": "the box may be misplaced",
            "swapped": f"the class may be {each.suggested.class_name}",
        }[each.kind]
        + (f", and {more} more" if more else ""),
        image_class=image_class,
        class_name=name,
        probability=1 - each.strength,
        priority=serving.priority(name, sum(s.strength for s in found), seconds),
        seconds=seconds,
        revision=serving.revision(each.image),
        candidates=_candidates([s.suggested for s in found], ()),
        drawn=next((s.drawn.box.corners for s in found if s.drawn is not None), None),
        other=each.suggested.class_name if each.kind == "swapped" else None,
    )


def _contradiction_item(
    image: str, image_class: str | None, other: str, score: float, serving: _Serving
) -> QueueItem:
    return QueueItem(
        image=image,
        kind="class",
        reason=f"said to be empty, and the teachers see {other}",
        image_class=image_class,
        class_name=image_class,
        probability=1 - score,
        priority=serving.priority(image_class, score, LOOK),
        seconds=LOOK,
        revision=serving.revision(image),
        other=other,
    )


def _candidates(places: Sequence[Place], boxes: Sequence[Place]) -> tuple[Candidate, ...]:
    """Return the boxes to show: the proposed ones, and what else there might be."""
    worth = [p for p in places if p in boxes or p.probability >= LEAST_SHOWN] or list(places[:1])
    return tuple(
        Candidate(
            box=p.box.corners,
            class_name=p.class_name,
            raw=p.raw,
            probability=min(1.0, p.probability),
            votes=p.votes,
            spread=p.spread,
            proposed=p in boxes,
        )
        for p in worth[:SHOWN]
    )


def write_decisions(decisions: Iterable[ImageDecision], path: Path) -> None:
    """Write what was decided about every image of the pool, atomically."""
    rows = []
    for decision in decisions:
        places = [p for p in decision.places if p in decision.boxes or p.probability >= LEAST_SHOWN]
        row = {**asdict(decision), "places": list(map(_row, places[: 2 * SHOWN]))}
        rows.append({**row, "boxes": list(map(_row, decision.boxes))})
    write_text(path, json.dumps(rows, allow_nan=False) + "\n")


def _row(place: Place) -> dict[str, Any]:
    return {**asdict(place), "box": place.box.corners}


def read_decisions(path: Path) -> tuple[ImageDecision, ...]:
    """Read what was decided.

    Raises:
        WaferError: the file is missing or damaged.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple(_decision(row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WaferError(
            f"{path}: the decisions cannot be read ({error}); run `wafer label-propagate` again"
        ) from error


def _decision(row: dict[str, Any]) -> ImageDecision:
    def places(rows: list[dict[str, Any]]) -> tuple[Place, ...]:
        return tuple(Place(**{**each, "box": Box(*each["box"])}) for each in rows)

    other = None if row["other"] is None else (row["other"][0], row["other"][1])
    kept = {**row, "other": other, "boxes": places(row["boxes"]), "places": places(row["places"])}
    return ImageDecision(**kept)
