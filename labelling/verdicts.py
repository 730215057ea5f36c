"""What a person decides about the boxes of an image, as a change for the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wafer.datasets.ledger import Entry, ImageState
from wafer.datasets.records import Box, Source
from wafer.labelling.ledger import BoxEvent, Revision, again

__all__ = [
    "UNDO",
    "WRONG",
    "ReviewedBox",
    "confirmed",
    "emptied",
    "reviewed",
    "standing_revision",
    "undone",
    "withdrawn",
]

WRONG = "an audit found it wrong"
"""The note of labels that a person found wrong in an audit."""
UNDO = "undo"
"""The note of all entries of a revision that takes back the one before."""


@dataclass(frozen=True, slots=True)
class ReviewedBox:
    """A box as a person left it, and what it was made from.

    ``origin`` is an entry of the ledger or a candidate of the queue; None for one drawn anew.
    """

    box: Box
    class_name: str
    origin: Entry | BoxEvent | None = None


def confirmed(state: ImageState, *, note: str | None = None) -> Revision:
    """Return the change that a person looked at every box of an image and found it right."""
    events = [replace(_confirmed(again(e, decision="confirmed")), note=note) for e in state.live]
    empty = BoxEvent(decision="empty", note=note)
    return Revision(
        state.image, tuple(events) or (empty,), state.entries[0].image_class, state.revision
    )


def reviewed(
    image: str,
    boxes: Sequence[ReviewedBox],
    *,
    state: ImageState | None,
    image_class: str | None = None,
    note: str | None = None,
) -> Revision:
    """Return the change that an image has exactly these boxes, as a person left them.

    A box that equals its origin is confirmed, one that was moved or renamed is edited, one without
    an origin was drawn. Boxes of ``state`` that no box has for its origin are rejected. No box at
    all means that a person looked and found nothing.

    Args:
        image: its path below the image root.
        boxes: what it shows.
        state: what the ledger had when the person saw the image, None for nothing.
        image_class: the expert's class.
        note: kept with every entry.
    """
    events = [_reviewed(each) for each in boxes] or [BoxEvent(decision="empty")]
    used = {each.origin.number for each in boxes if isinstance(each.origin, Entry)}
    left = [e for e in (() if state is None else state.live) if e.number not in used]
    events += [again(entry, decision="rejected") for entry in left]
    revision = 0 if state is None else state.revision
    noted = tuple(replace(event, note=note or event.note) for event in events)
    return Revision(image, noted, image_class, revision)


def emptied(image: str, *, state: ImageState | None, image_class: str | None = None) -> Revision:
    """Return the change that a person looked and found nothing."""
    return reviewed(image, (), state=state, image_class=image_class)


def withdrawn(state: ImageState, *, note: str) -> Revision:
    """Return the change that an image has no label any more and has to be looked at."""
    events = tuple(replace(again(e, decision="withdrawn"), note=note) for e in state.entries)
    return Revision(state.image, events, state.entries[0].image_class, state.revision)


def undone(history: Sequence[tuple[Entry, ...]]) -> Revision:
    """Return the change that brings back the revision before the last one.

    Args:
        history: the revisions of one image, as ``Ledger.history`` gives them; at least one.
    """
    last = history[-1][0]
    if len(history) == 1:
        events = tuple(again(entry, decision="withdrawn") for entry in history[-1])
    else:
        events = tuple(again(entry, decision=entry.decision) for entry in history[-2])
    noted = tuple(replace(event, note=UNDO) for event in events)
    return Revision(last.image, noted, last.image_class, last.revision)


def standing_revision(history: Sequence[tuple[Entry, ...]]) -> int:
    """Return the revision whose boxes an image has: an undo brings back the one before.

    Args:
        history: the revisions of one image, as ``Ledger.history`` gives them.
    """
    standing = [0]
    for entries in history:
        back = all(entry.note == UNDO for entry in entries) and len(standing) > 1
        standing.append(standing[-2] if back else entries[0].revision)
    return standing[-1]


def _reviewed(each: ReviewedBox) -> BoxEvent:
    origin = each.origin
    if origin is None:
        return BoxEvent(decision="drawn", box=each.box, class_name=each.class_name, source="human")
    event = again(origin, decision="confirmed") if isinstance(origin, Entry) else origin
    if (event.box, event.class_name) == (each.box, each.class_name):
        return _confirmed(event)
    source: Source = "human" if event.source == "human" else "model+edited"
    return replace(
        event, decision="edited", box=each.box, class_name=each.class_name, source=source
    )


def _confirmed(event: BoxEvent) -> BoxEvent:
    """Return the event of a box that a person looked at; what a person drew stays that."""
    ours = event.source in ("human", "rule", "model+edited")
    return replace(event, decision="confirmed", source=event.source if ours else "model+confirmed")
