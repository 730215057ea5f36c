"""What the page can ask for: the next image, and every decision, in the ledger when it returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.errors import ConflictError, ImageError, WaferError
from wafer.datasets.ledger import ImageState
from wafer.datasets.runs import newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.labelling.audit import Audited, answer_audit, note_answer
from wafer.labelling.ledger import Ledger, this_user
from wafer.labelling.queue import QUEUE, Queue, propagation_runs, read_queue
from wafer.labelling.review.leases import Leases
from wafer.labelling.review.neighbours import Neighbour, Neighbours
from wafer.labelling.review.pace import Pace
from wafer.labelling.review.piles import (
    PILES,
    SEED_TABLES,
    Pile,
    Task,
    audit_tasks,
    classes_of,
    drawn_elsewhere,
    is_open,
    queue_tasks,
    seed_tasks,
)
from wafer.labelling.review.shown import GivenBox, ShownBox, reviewed_boxes, shown_boxes
from wafer.labelling.verdicts import reviewed, standing_revision, undone

__all__ = ["ClassCount", "Desk", "Progress", "Shown"]

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many images of a class are open, of how many; the name is empty where none is known."""

    name: str
    open: int
    total: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pile is; ``seconds_left`` by the pace of the people at work."""

    pile: Pile
    classes: tuple[ClassCount, ...]
    open: int
    total: int
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image as the page begins with it.

    ``revision`` is that of the ledger, which a decision has to name. ``changed_by`` and
    ``changed_at`` are of its last change, ``busy`` the person who has it open elsewhere.
    """

    pile: Pile
    image: str
    size: tuple[int, int]
    class_name: str | None
    image_class: str | None
    kind: str
    reason: str
    other: str | None
    revision: int
    boxes: tuple[ShownBox, ...]
    changed_by: str | None
    changed_at: str | None
    busy: str | None
    neighbours: tuple[Neighbour, ...]


class Desk:
    """The piles of a workspace, for several people at once.

    One lock around everything: two ledgers in one process would not keep each other out.
    """

    def __init__(
        self, workspace: Workspace, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.workspace = workspace
        self.ledger = Ledger(workspace)
        self._lock = threading.RLock()
        self._leases = Leases(clock=clock)
        self._pace = Pace()
        self._cache = workspace.image_cache()
        self._damaged: set[str] = set()
        self._queue: Queue | None = None
        self._tasks: dict[Pile, dict[str, Task]] = {pile: {} for pile in PILES}
        self._stamp: Stamp | None = None
        self._head: Mapping[str, object] | None = None
        self._stands: Mapping[str, int] = {}
        self._refresh()

    def progress(self) -> tuple[Progress, ...]:
        """Return how far each pile is."""
        with self._lock:
            self._refresh()
            return tuple(self._progress(pile) for pile in PILES)

    def next(
        self,
        pile: Pile,
        *,
        class_name: str | None,
        session: str,
        who: str,
        after: str | None = None,
    ) -> Shown | None:
        """Return the next open image that nobody else has, and take it; None where there is none.

        Args:
            pile: where to look.
            class_name: looked through first, then the classes after it; empty for images without
                a class, None for the first class.
            session: the window that asks.
            who: the person.
            after: the image to go on from, as one that is passed over.
        """
        with self._lock:
            self._refresh()
            for task in self._in_turn(pile, class_name, after):
                if self._leases.other(task.image, session) is None and self._readable(task.image):
                    return self._show(task, session, who)
            return None

    def open(self, pile: Pile, image: str, *, session: str, who: str) -> Shown:
        """Return one image of a pile, decided or not, and take it unless somebody else has it.

        Raises:
            WaferError: no such image.
            ImageError: it cannot be read.
        """
        with self._lock:
            self._refresh()
            return self._show(self._task(pile, image), session, who)

    def keep(self, image: str, *, session: str) -> bool:
        """Lengthen a session's hold of an image; return whether it still has it."""
        with self._lock:
            return self._leases.keep(image, session=session)

    def decide(
        self,
        pile: Pile,
        image: str,
        boxes: Sequence[GivenBox],
        *,
        revision: int,
        session: str,
        who: str,
    ) -> int:
        """Record that an image has exactly these boxes, and return its new revision.

        Raises:
            ConflictError: the image is not at ``revision`` any more, or not with these candidates.
            WaferError: boxes that cannot be; nothing is recorded.
            DataError: its label file was edited by hand.
        """
        with self._lock:
            self._refresh()
            task = self._task(pile, image)
            if pile == "audit":
                raise WaferError("an audit asks for right or wrong")
            state = self._resized(self._state_at(image, revision))
            image_class = self._samples[image].image_class
            self._check_class(image, image_class, boxes)
            given = reviewed_boxes(
                boxes,
                task=task,
                state=state,
                queue=self._queue_of(pile),
                classes=self.workspace.classes,
                size=self._cache.size(image),
            )
            spent = self._leases.spent(image, session=session)
            note = "review" if spent is None else f"review {spent:.1f} s"
            change = reviewed(image, given, state=state, image_class=image_class, note=note)
            self.ledger.record([change], who=who)
            self._leases.leave(session)
            if spent is not None:
                self._pace.note(spent, expected=task.seconds)
            self._neighbours.note(image, {each.class_name for each in given})
            return self._revision(image)

    def undo(self, image: str, *, revision: int, who: str) -> int:
        """Bring back what an image had before ``revision``, and return its new revision.

        Raises:
            ConflictError: somebody changed it after that.
            WaferError: the workspace has no such image.
        """
        with self._lock:
            self.image_path(image)
            self._state_at(image, revision)
            history = self.ledger.history(image)
            if not history:
                raise ConflictError(f"nothing was decided about {image}")
            self.ledger.record([undone(history)], who=who)
            return self._revision(image)

    def answer(self, image: str, right: bool | None, *, session: str) -> None:
        """Write an answer of an audit into its table; None takes it back.

        Raises:
            WaferError: the sample has no such image.
        """
        with self._lock:
            task = self._task("audit", image)
            note_answer(self.workspace, image, right)
            spent = self._leases.spent(image, session=session)
            if spent is not None and right is not None:
                self._pace.note(spent, expected=task.seconds)
            self._leases.leave(session)

    def finish(self, *, who: str) -> Audited:
        """Take the answers of an audit once all are there.

        Raises:
            WaferError: some are missing, or another command works on the same run.
        """
        with self._lock:
            self._refresh()
            tasks = self._tasks["audit"].values()
            right = {task.image: task.right for task in tasks if task.right is not None}
            left = [task.image for task in tasks if task.image not in right]
            missing = sum((self.workspace.images / image).is_file() for image in left)
            if missing or not tasks:
                raise WaferError(f"{missing} images of the sample have no answer yet")
            return answer_audit(self.workspace, right, who=who)

    def image_path(self, image: str) -> Path:
        """Return where an image lies.

        Raises:
            WaferError: the workspace has no such image.
        """
        if image not in self._samples:
            raise WaferError(f"no image {image!r}")
        return self.workspace.image_path(image)

    def _refresh(self) -> None:
        """Read again what other commands may have changed."""
        run = newest_finished_run(propagation_runs(self.workspace))
        queue = None if run is None else run.folder / QUEUE
        seeds = (self.workspace.root / name for name in SEED_TABLES)
        tables = [self.workspace.table, *seeds]
        stamp = _stamp([*tables, *([] if queue is None else [queue])])
        if stamp != self._stamp:
            self._samples = {s.image: s for s in self.workspace.samples()}
            self._neighbours = Neighbours(self._samples.values(), size=self._size)
            self._queue = None if queue is None else read_queue(queue)
            known = () if self._queue is None else queue_tasks(self._queue)
            self._tasks["queue"] = {t.image: t for t in known if t.image in self._samples}
            self._tasks["seed"] = {t.image: t for t in seed_tasks(self.workspace, self._samples)}
            self._stamp = stamp
        asked = () if run is None else audit_tasks(self.workspace)
        self._tasks["audit"] = {t.image: t for t in asked if t.image in self._samples}

    def _task(self, pile: Pile, image: str) -> Task:
        if image not in self._tasks[pile]:
            raise WaferError(f"{image!r} is not among the images to look at")
        return self._tasks[pile][image]

    def _queue_of(self, pile: Pile) -> Queue | None:
        return self._queue if pile == "queue" else None

    def _open(self, pile: Pile) -> list[Task]:
        states, standing = self.ledger.states(), self._standing()
        return [
            task
            for task in self._tasks[pile].values()
            if task.image not in self._damaged
            and is_open(task, workspace=self.workspace, states=states, standing=standing)
        ]

    def _standing(self) -> Mapping[str, int]:
        """Return the revision whose boxes each image has; worked out anew when the ledger grew."""
        head = self.ledger.head()
        if head != self._head:
            histories = self.ledger.histories()
            self._stands = {image: standing_revision(each) for image, each in histories.items()}
            self._head = head
        return self._stands

    def _progress(self, pile: Pile) -> Progress:
        tasks = [t for t in self._tasks[pile].values() if t.image not in self._damaged]
        waiting = self._open(pile)
        counts = tuple(
            ClassCount(
                name or "",
                sum(task.class_name == name for task in waiting),
                sum(task.class_name == name for task in tasks),
            )
            for name in classes_of(tasks)
        )
        left = self._pace.factor() * sum(task.seconds for task in waiting)
        return Progress(pile, counts, len(waiting), len(tasks), left)

    def _in_turn(self, pile: Pile, class_name: str | None, after: str | None) -> list[Task]:
        """Return the open tasks, those of a class first, each class beginning after an image."""
        places = {image: place for place, image in enumerate(self._tasks[pile])}
        classes = [name or "" for name in classes_of(self._tasks[pile].values())]
        first = classes.index(class_name) if class_name in classes else 0
        turn = {name: (k - first) % len(classes) for k, name in enumerate(classes)}
        here = places.get(after or "", -1)
        return sorted(
            self._open(pile),
            key=lambda task: (
                turn[task.class_name or ""],
                places[task.image] <= here,
                places[task.image],
            ),
        )

    def _show(self, task: Task, session: str, who: str) -> Shown:
        image = task.image
        busy = self._leases.other(image, session)
        if busy is None:
            self._leases.take(image, session=session, who=who)
        state = self._judged(task) if task.pile == "audit" else self._state(image)
        state = self._resized(state)
        sample = self._samples[image]
        blind = task.pile == "audit"
        return Shown(
            pile=task.pile,
            image=image,
            size=self._cache.size(image),
            class_name=task.class_name,
            image_class=None if blind else sample.image_class,
            kind=task.kind,
            reason=task.reason,
            other=task.other,
            revision=0 if state is None else state.revision,
            boxes=shown_boxes(task, state, queue=self._queue_of(task.pile)),
            changed_by=None if state is None or blind else state.entries[0].who,
            changed_at=None if state is None or blind else state.entries[0].time,
            busy=None if busy is None else busy.who,
            neighbours=self._neighbours.of(
                sample, class_name=task.class_name, states=self.ledger.states()
            ),
        )

    def _state(self, image: str) -> ImageState | None:
        """Return what the ledger has; a label file that it does not know is taken up first."""
        state = self.ledger.states().get(image)
        if drawn_elsewhere(self.workspace, image, state):
            self.ledger.adopt(who=this_user(), edited=False)
            state = self.ledger.states().get(image)
        return state

    def _judged(self, task: Task) -> ImageState | None:
        """Return the boxes that an audit is about, whatever somebody has made of them since."""
        state = self.ledger.states().get(task.image)
        if state is not None and state.revision == task.revision:
            return state
        entries = next(
            (each for each in self.ledger.history(task.image) if each[0].revision == task.revision),
            None,
        )
        return None if entries is None else ImageState(task.image, task.revision, entries, None)

    def _resized(self, state: ImageState | None) -> ImageState | None:
        """Return a state with its boxes in pixels of the image as it is now."""
        return None if state is None else state.resized(self._cache.size(state.image))

    def _state_at(self, image: str, revision: int) -> ImageState | None:
        state = self._state(image)
        known = 0 if state is None else state.revision
        if known != revision:
            raise ConflictError(f"{image} was changed meanwhile")
        return state

    def _revision(self, image: str) -> int:
        return self.ledger.states()[image].revision

    def _check_class(self, image: str, image_class: str | None, boxes: Sequence[GivenBox]) -> None:
        """Refuse boxes that would not count: an image of the ``none`` class has none by rule."""
        kind = None if image_class is None else self.workspace.classes[image_class].kind
        if kind == "none" and boxes:
            raise WaferError(
                f"boxes on {image}, whose class is {image_class}; change the class in "
                f"{self.workspace.table.name} first"
            )

    def _size(self, image: str) -> tuple[int, int] | None:
        try:
            return self._cache.size(image)
        except (ImageError, OSError):
            return None

    def _readable(self, image: str) -> bool:
        if self._size(image) is None:
            self._damaged.add(image)
        return image not in self._damaged


def _stamp(paths: Sequence[Path]) -> Stamp:
    """Return what tells files that were changed: name, time and length."""
    found = []
    for path in paths:
        if path.is_file():
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)
