"""What a person should look at: images with the boxes a model would draw, and why it is not sure.

One file for each run of `wafer label-propagate`, which only grows, by what an audit puts back. What
was decided since stands in the ledger: an item is open as long as its image has the revision it had
then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wafer.datasets.errors import WaferError
from wafer.datasets.files import write_text
from wafer.datasets.ledger import ImageState
from wafer.datasets.records import Box
from wafer.datasets.runs import newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.labelling.ledger import BoxEvent

__all__ = [
    "DRAW",
    "LOOK",
    "QUEUE",
    "Candidate",
    "Kind",
    "Queue",
    "QueueItem",
    "newest_queue",
    "open_items",
    "propagation_runs",
    "read_queue",
    "write_queue",
]

QUEUE = "queue.json"
LOOK, DRAW = 3.0, 7.0
"""Seconds of a look and of drawing a box (Papadopoulos et al., ICCV 2017: extreme clicks)."""
Kind = Literal["boxes", "class", "suspicion", "unreadable"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A box that may be drawn, in pixels of the original image.

    ``proposed`` says that the model would draw it. Scores as in ``Entry``.
    """

    box: tuple[float, float, float, float]
    class_name: str
    raw: float
    probability: float
    votes: float
    spread: float
    proposed: bool

    def event(self, queue: Queue) -> BoxEvent:
        """Return the box as the origin of what a person makes of it (``ReviewedBox.origin``)."""
        return BoxEvent(
            decision="accepted",
            box=Box(*self.box),
            class_name=self.class_name,
            source="model",
            model=queue.model,
            round=queue.round,
            raw=self.raw,
            probability=self.probability,
            votes=self.votes,
            spread=self.spread,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """One image to look at.

    ``kind`` is ``boxes`` (draw or confirm), ``class`` (the expert's class may be wrong),
    ``suspicion`` (a person's box may be wrong) or ``unreadable``. ``class_name`` is the class it is
    served under, ``probability`` that the proposed boxes are all of the truth, ``seconds`` what a
    look is expected to take, ``revision`` that of the image in the ledger, 0 for none. ``drawn`` is
    the suspicious box, ``other`` the class that contradicts.
    """

    image: str
    kind: Kind
    reason: str
    image_class: str | None
    class_name: str | None
    probability: float
    priority: float
    seconds: float
    revision: int
    candidates: tuple[Candidate, ...] = ()
    drawn: tuple[float, float, float, float] | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """The items of one run, one class after the other, the most useful of a class first."""

    run: str
    model: str
    round: int
    items: tuple[QueueItem, ...]


def write_queue(queue: Queue, path: Path) -> None:
    """Write a queue as JSON, atomically."""
    write_text(path, json.dumps(asdict(queue), indent=1, allow_nan=False) + "\n")


def read_queue(path: Path) -> Queue:
    """Read a queue.

    Raises:
        WaferError: it is not there or not one.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        items = tuple(_item(each) for each in raw["items"])
        return Queue(raw["run"], raw["model"], raw["round"], items)
    except FileNotFoundError as error:
        raise WaferError(f"{path}: no queue; run `wafer label-propagate`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WaferError(
            f"{path}: not a queue ({error}); run `wafer label-propagate` again"
        ) from error


def _item(raw: dict[str, Any]) -> QueueItem:
    candidates = tuple(Candidate(**{**c, "box": tuple(c["box"])}) for c in raw["candidates"])
    drawn = None if raw["drawn"] is None else tuple(raw["drawn"])
    return QueueItem(**{**raw, "candidates": candidates, "drawn": drawn})


def propagation_runs(workspace: Workspace) -> Path:
    """Return the folder of the runs of `wafer label-propagate`."""
    return workspace.root / "runs" / "propagate"


def newest_queue(workspace: Workspace) -> Queue:
    """Return the queue of the newest finished run.

    Raises:
        WaferError: there is none.
    """
    run = newest_finished_run(propagation_runs(workspace))
    if run is None:
        raise WaferError("there is no queue yet; run `wafer label-propagate`")
    return read_queue(run.folder / QUEUE)


def open_items(queue: Queue, states: Mapping[str, ImageState]) -> tuple[QueueItem, ...]:
    """Return the items that nobody has decided yet, by the states of the ledger."""

    def revision(image: str) -> int:
        state = states.get(image)
        return 0 if state is None else state.revision

    return tuple(item for item in queue.items if item.revision == revision(item.image))
