"""What there is to do: the queue, the seeds to draw, and the sample of an audit.

Nothing is kept here. What is open follows from the ledger, the label files and the table of the
audit, so that a page and a server can end and start at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from wafer.datasets.image_names import ImageNames
from wafer.datasets.labels_csv import match_rows, read_label_rows
from wafer.datasets.ledger import ImageState
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, trusted
from wafer.labelling.audit import sampled_images
from wafer.labelling.queue import DRAW, LOOK, Candidate, Kind, Queue

__all__ = [
    "PILES",
    "SEED_TABLES",
    "Pile",
    "Task",
    "audit_tasks",
    "classes_of",
    "drawn_elsewhere",
    "is_open",
    "queue_tasks",
    "seed_tasks",
]

Pile = Literal["queue", "seed", "audit"]
PILES: tuple[Pile, ...] = get_args(Pile)
SEED_TABLES = ("seed.csv", "seed-val.csv", "seed-test.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One image to look at; fields as in ``QueueItem``.

    ``class_name`` is the class it is served under; ``right`` the answer of an audit so far.
    """

    pile: Pile
    image: str
    class_name: str | None
    image_class: str | None
    kind: Kind
    reason: str
    seconds: float
    revision: int = 0
    candidates: tuple[Candidate, ...] = ()
    drawn: tuple[float, float, float, float] | None = None
    other: str | None = None
    right: bool | None = None


def queue_tasks(queue: Queue) -> tuple[Task, ...]:
    """Return the items of a queue that can be looked at, in their order."""
    return tuple(
        Task(
            pile="queue",
            image=item.image,
            class_name=item.class_name,
            image_class=item.image_class,
            kind=item.kind,
            reason=item.reason,
            seconds=item.seconds,
            revision=item.revision,
            candidates=item.candidates,
            drawn=item.drawn,
            other=item.other,
        )
        for item in queue.items
        if item.kind != "unreadable"
    )


def seed_tasks(workspace: Workspace, samples: Mapping[str, Sample]) -> tuple[Task, ...]:
    """Return the images that `wafer seed` chose, those of val and test too, in their order.

    Images that are gone since are left out.

    Args:
        workspace: where the lists are.
        samples: by image.

    Raises:
        DataError: a list that cannot be read.
    """
    names = ImageNames(samples)
    chosen: dict[str, None] = {}
    for name in SEED_TABLES:
        path = workspace.root / name
        if path.is_file():
            found, _ = match_rows(read_label_rows(path), file=name, images=names)
            chosen |= dict.fromkeys(found)
    return tuple(_seed_task(samples[image]) for image in chosen)


def _seed_task(sample: Sample) -> Task:
    split = sample.split or "train"
    return Task(
        pile="seed",
        image=sample.image,
        class_name=sample.image_class,
        image_class=sample.image_class,
        kind="boxes",
        reason=f"chosen for drawing, split {split}",
        seconds=LOOK + DRAW,
    )


def audit_tasks(workspace: Workspace) -> tuple[Task, ...]:
    """Return the images of the sample that waits for answers; nothing where none does.

    Raises:
        DataError: its table cannot be read.
    """
    return tuple(
        Task(
            pile="audit",
            image=each.image,
            class_name=each.class_name,
            image_class=None,
            kind="boxes",
            reason="is all of it right?",
            seconds=LOOK,
            right=each.right,
            revision=each.revision,
        )
        for each in sampled_images(workspace)
    )


def is_open(
    task: Task,
    *,
    workspace: Workspace,
    states: Mapping[str, ImageState],
    standing: Mapping[str, int],
) -> bool:
    """Return whether nobody has decided a task yet.

    Args:
        task: of any pile.
        workspace: where the label files are.
        states: of the ledger.
        standing: the revision whose boxes each image of the ledger has, see `standing_revision`.
    """
    if task.pile == "audit":
        return task.right is None
    state = states.get(task.image)
    if drawn_elsewhere(workspace, task.image, state):
        return False
    if task.pile == "seed":
        boxes = None if state is None else state.annotations
        return not trusted(Sample(task.image, annotations=boxes))
    revision = 0 if state is None else state.revision
    return task.revision in (revision, standing.get(task.image, 0))


def drawn_elsewhere(workspace: Workspace, image: str, state: ImageState | None) -> bool:
    """Return whether an image has a label file that the ledger knows nothing of."""
    recorded = state is not None and state.annotations is not None
    return not recorded and workspace.label_path(image).is_file()


def classes_of(tasks: Iterable[Task]) -> tuple[str | None, ...]:
    """Return the classes of some tasks in the order in which they come up."""
    return tuple(dict.fromkeys(task.class_name for task in tasks))
