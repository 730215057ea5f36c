"""Writing the ledger, and the label files that follow from it.

The ledger comes first: a change is appended and on disk before a label file changes, and a process
that was killed in between leaves files that the next one writes. A label file that somebody edited
by other means is never written over; it is reported until a person decides (`Ledger.edits`).
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wafer.datasets.boxes import box_lines, parse_boxes
from wafer.datasets.errors import ConflictError, DataError, Fault, ImageError
from wafer.datasets.files import write_bytes, write_text
from wafer.datasets.keeping import put_aside
from wafer.datasets.ledger import (
    GENESIS,
    HEAD,
    LEDGER,
    Chain,
    Corners,
    Decision,
    Entry,
    Head,
    ImageState,
    entry_line,
    image_states,
    read_chain,
    rescaled,
    same_boxes,
    whole_revisions,
)
from wafer.datasets.reading import IGNORED_LABELS, label_name
from wafer.datasets.records import Annotation, Box, Source
from wafer.datasets.scanning import ImageCache, find_files
from wafer.datasets.workspace import Workspace, write_yolo_view
from wafer.labelling.copies import copy_faults

__all__ = [
    "BoxEvent",
    "HandEdit",
    "Ledger",
    "Rebuilt",
    "Revision",
    "again",
    "paired",
    "renew_view",
    "this_user",
]

LOCK = ".ledger.lock"
TORN = "ledger.torn"
EDITED_IOU = 0.5
"""From this overlap on a box that replaces a model's box is taken as the same one, edited."""
ASK = (
    "`wafer ledger adopt` takes the file as a person's work, `wafer ledger rebuild` puts back what "
    "the ledger has and keeps the file as .bak-1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxEvent:
    """What happens to one box; fields as in ``Entry``. ``box`` is None for ``empty`` alone."""

    decision: Decision
    box: Box | None = None
    class_name: str | None = None
    source: Source | None = None
    supersedes: int | None = None
    model: str | None = None
    round: int | None = None
    raw: float | None = None
    probability: float | None = None
    votes: float | None = None
    spread: float | None = None
    threshold: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """A change of one image: all that its boxes are after it, and those that are gone.

    Without a box and without an ``empty`` event the image has no label file afterwards.
    ``expected`` is the revision that whoever decided had seen, 0 for none; None takes any.
    ``who`` decided where it was another than who records it.
    """

    image: str
    events: tuple[BoxEvent, ...]
    image_class: str | None = None
    expected: int | None = None
    who: str | None = None


@dataclass(frozen=True, slots=True)
class HandEdit:
    """A label file that is not what the ledger says: ``changed`` or ``removed`` behind its back."""

    image: str
    file: Path
    kind: Literal["changed", "removed"]

    def fault(self) -> Fault:
        """Return the edit as a fault with what a person can choose."""
        problem = f"{self.kind} by hand since the ledger recorded it"
        return Fault(file=str(self.file), problem=problem, remedy=ASK)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many label files were written from the ledger, and the copies of those that differed."""

    written: int
    kept: tuple[Path, ...]


class Ledger:
    """The ledger of a workspace; several threads and processes may write to it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._cache: ImageCache = workspace.image_cache()
        self._names = dict(enumerate(workspace.classes.detector_names))
        self._thread = threading.RLock()
        self._held = False
        self._chain = Chain((), (), None, b"", ())
        self._seen: tuple[int, bytes] | None = None
        self._states: dict[str, ImageState] = {}

    def states(self) -> Mapping[str, ImageState]:
        """Return the newest revision of every image.

        Raises:
            DataError: the ledger was changed.
        """
        with self._locked():
            return dict(self._states)

    def history(self, image: str) -> tuple[tuple[Entry, ...], ...]:
        """Return the entries of every whole revision of an image, the oldest first."""
        return self.histories().get(image, ())

    def histories(self) -> Mapping[str, tuple[tuple[Entry, ...], ...]]:
        """Return what `history` does, of every image in one pass."""
        found: dict[str, list[tuple[Entry, ...]]] = {}
        with self._locked():
            for revision in whole_revisions(self._chain.entries):
                found.setdefault(revision[0].image, []).append(revision)
        return {image: tuple(revisions) for image, revisions in found.items()}

    def head(self) -> Mapping[str, object] | None:
        """Return what ``ledger.head`` says and the hash of the first line, to copy into reports."""
        with self._locked():
            return self._chain.copy

    def edits(self) -> tuple[HandEdit, ...]:
        """Return the label files that were changed or removed behind the ledger's back."""
        with self._locked():
            found = []
            for state in self._states.values():
                if kind := self._edited(state):
                    found.append(HandEdit(state.image, self._file(state.image), kind))
            return tuple(found)

    def check_edits(self) -> None:
        """Ask what to do with label files that were edited by hand.

        Raises:
            DataError: there are some; each with what a person can choose.
        """
        if edits := self.edits():
            raise DataError([edit.fault() for edit in edits])

    def record(self, revisions: Sequence[Revision], *, who: str) -> None:
        """Append changes and bring the label files up to date; returns when the disk has them.

        A label file that the ledger does not know yet is recorded first, as a person's.

        Args:
            revisions: at most one for an image.
            who: a person's name or the command.

        Raises:
            ConflictError: an image has another revision than ``expected``, or a label file that
                whoever decided has not seen.
            DataError: a label file was edited by hand, or the ledger was changed or is gone.
                Nothing is recorded then.
            OSError: the disk is full or fails. The ledger is as it was, or has the change and the
                next call writes the label files.
        """
        with self._locked():
            for revision in revisions:
                self._check(revision)
            self._record(revisions, who)

    def record_possible(self, revisions: Sequence[Revision], *, who: str) -> tuple[str, ...]:
        """Record as `record` does, but for images that somebody changed or removed meanwhile.

        Returns:
            The images left out.
        """
        possible: list[Revision] = []
        with self._locked():
            for revision in revisions:
                with suppress(ConflictError, DataError, ImageError, FileNotFoundError):
                    self._check(revision)
                    self._image_facts(revision.image)
                    possible.append(revision)
            self._record(possible, who)
        taken = {revision.image for revision in possible}
        return tuple(r.image for r in revisions if r.image not in taken)

    def adopt(self, *, who: str, edited: bool = True) -> int:
        """Record the label files that the ledger does not know, or knows otherwise, as a person's.

        Boxes that are as they were keep their source.

        Args:
            who: a person's name.
            edited: take files that were edited by hand too, not only new ones.

        Returns:
            The number of images.

        Raises:
            DataError: the ledger is not the one that a run saw: boxes of a model would be a
                person's.
        """
        with self._locked():
            self._check_copies()
            edits = self.edits() if edited else ()
            revisions = [self._as_edited(self._states[edit.image]) for edit in edits]
            revisions += [r for r in map(self._unknown, self._labelled_images()) if r]
            self._append(revisions, who)
            self._settle()
            self._cache.save()
            return len(revisions)

    def rebuild(self) -> Rebuilt:
        """Write every label file that is missing or differs from the ledger, from it alone.

        A file that differs is kept under ``<name>.bak-N``.
        """
        with self._locked():
            written, kept = 0, []
            for edit in self.edits():
                if edit.file.exists():
                    kept.append(put_aside(edit.file))
                written += self._write_file(self._states[edit.image])
            return Rebuilt(written, tuple(kept))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._thread, ExitStack() as stack:
            if not self._held:
                # Not on the ledger itself: whoever closes it after reading would free the lock.
                handle = stack.enter_context((self.workspace.root / LOCK).open("w"))
                fcntl.lockf(handle, fcntl.LOCK_EX)
                stack.callback(setattr, self, "_held", False)
                self._held = True
                seen, self._seen = self._seen, None  # after an error all is read again
                self._load(seen)
                yield
                self._seen = self._on_disk()
            else:
                yield

    def _load(self, seen: tuple[int, bytes] | None) -> None:
        """Read the ledger, unless it is as this process left it."""
        if seen is None or seen != self._on_disk():
            self._chain = read_chain(self.workspace.root)
            if self._chain.faults:
                raise DataError(self._chain.faults)
            self._states = image_states(self._chain.entries)
            self._set_torn_aside(self.workspace.root / LEDGER)
        head = self._chain.head
        if head is not None and head.settled < len(self._chain.hashes):
            self._settle()

    def _on_disk(self) -> tuple[int, bytes]:
        """Return what tells one state of the two files from another, as far as we append alone."""
        ledger, head = self.workspace.root / LEDGER, self.workspace.root / HEAD
        size = ledger.stat().st_size if ledger.is_file() else 0
        return size, head.read_bytes() if head.is_file() else b""

    def _set_torn_aside(self, path: Path) -> None:
        """Move what a crash left of a last line into a file of its own."""
        torn = self._chain.torn
        if not torn:
            return
        number = 1
        while (aside := path.with_name(f"{TORN}-{number}")).exists():
            number += 1
        write_bytes(aside, torn)
        with path.open("r+b") as handle:
            handle.truncate(path.stat().st_size - len(torn))
            os.fsync(handle.fileno())
        self._chain = replace(self._chain, torn=b"")

    def _check(self, revision: Revision) -> None:
        """Raise what keeps a change from being recorded, if anything does."""
        image, state = revision.image, self._states.get(revision.image)
        known = 0 if state is None else state.revision
        new_file = revision.expected is not None and self._unknown(image) is not None
        if new_file or revision.expected not in (None, known):
            raise ConflictError(f"{image} was changed meanwhile; look at it again")
        kind = None if state is None else self._edited(state)
        if kind is not None:
            raise DataError([HandEdit(image, self._file(image), kind).fault()])

    def _record(self, revisions: Sequence[Revision], who: str) -> None:
        adopted = [r for r in (self._unknown(each.image) for each in revisions) if r]
        self._append([*adopted, *revisions], who)
        self._settle()
        self._cache.save()

    def _append(self, revisions: Sequence[Revision], who: str) -> None:
        """Append the entries of some revisions and replace the head; all or nothing."""
        if not revisions:
            return
        if not self._chain.hashes:
            self._check_copies()  # a new one in the place of a lost one would hide the loss
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entries: list[Entry] = []
        numbers: dict[str, int] = {}
        for revision in revisions:
            state = self._states.get(revision.image)
            known = numbers.get(revision.image, 0 if state is None else state.revision)
            numbers[revision.image] = known + 1
            first = len(self._chain.entries) + len(entries) + 1
            entries += self._entries(
                revision,
                number=first,
                revision_number=known + 1,
                who=revision.who or who,
                now=now,
            )
        lines, digests = [], []
        digest = self._chain.digest
        for entry in entries:
            line, digest = entry_line(entry, before=digest)
            lines.append(line)
            digests.append(digest)
        settled = 0 if self._chain.head is None else self._chain.head.settled
        if self._chain.head is None:  # before the first line, so that a missing head tells
            self._write_head(Head(0, GENESIS, 0))
        self._write_lines(b"".join(lines))
        known_entries = (*self._chain.entries, *entries)
        head = Head(len(known_entries), digest, settled)
        hashes = (*self._chain.hashes, *digests)
        self._chain = Chain(known_entries, hashes, self._chain.head, b"", ())
        self._states = image_states(entries, known=self._states)
        self._write_head(head)

    def _check_copies(self) -> None:
        if faults := list(copy_faults(self.workspace.root, self._chain)):
            raise DataError(faults)

    def _write_lines(self, content: bytes) -> None:
        path = self.workspace.root / LEDGER
        with path.open("ab", buffering=0) as handle:
            size = handle.seek(0, os.SEEK_END)
            try:
                left = memoryview(content)
                while left:
                    left = left[handle.write(left) :]
                os.fsync(handle.fileno())
            except OSError:
                os.truncate(path, size)  # else half a line would stay
                raise

    def _write_head(self, head: Head) -> None:
        write_text(self.workspace.root / HEAD, json.dumps(asdict(head)) + "\n")
        self._chain = replace(self._chain, head=head)

    def _entries(
        self, revision: Revision, *, number: int, revision_number: int, who: str, now: str
    ) -> list[Entry]:
        image = revision.image
        digest, size = self._image_facts(image)
        events = revision.events
        return [
            Entry(
                number=number + part,
                time=now,
                who=who,
                image=image,
                image_sha256=digest,
                size=size,
                revision=revision_number,
                part=part,
                parts=len(events),
                image_class=revision.image_class,
                box=self._corners(event, size),
                **{name: getattr(event, name) for name in COPIED},
            )
            for part, event in enumerate(events)
        ]

    def _corners(self, event: BoxEvent, size: tuple[int, int]) -> Corners | None:
        """Return the corners of a box, which stays in its place where the image was resized."""
        if event.box is None or event.supersedes is None:
            return None if event.box is None else event.box.corners
        old = self._chain.entries[event.supersedes - 1]
        stays = event.box.corners == old.box
        return rescaled(old.box, old.size, size) if old.box and stays else event.box.corners

    def _image_facts(self, image: str) -> tuple[str, tuple[int, int]]:
        return self._cache.sha256(image), self._cache.size(image)

    def _settle(self) -> None:
        """Write the label files of the entries after the last one that is settled."""
        head = self._chain.head
        if head is None:
            return
        pending = {entry.image for entry in self._chain.entries[head.settled :]}
        for image in sorted(pending & self._states.keys()):
            state = self._states[image]
            on_disk = self._read_file(image, state.entries[0].size)
            # Anything else on disk is a person's edit, which `edits` reports.
            if on_disk != "unreadable" and same_boxes(on_disk, state.before):
                self._write_file(state)
        count = len(self._chain.entries)
        if head != (settled := Head(count, self._chain.digest, count)):
            self._write_head(settled)

    def _write_file(self, state: ImageState) -> bool:
        """Write or remove the label file of an image; return whether there was anything to do."""
        path, wanted = self._file(state.image), state.annotations
        if wanted is None:
            path.unlink(missing_ok=True)
            return True
        size = state.entries[0].size
        on_disk = self._read_file(state.image, size)
        if on_disk != "unreadable" and same_boxes(on_disk, wanted):
            return False
        write_text(path, box_lines(wanted, classes=self.workspace.classes, size=size))
        return True

    def _edited(self, state: ImageState) -> Literal["changed", "removed"] | None:
        on_disk = self._read_file(state.image, state.entries[0].size)
        if on_disk != "unreadable" and same_boxes(on_disk, state.annotations):
            return None
        if state.annotations is None:
            return None  # a new file, of a person, where the ledger has no boxes
        if on_disk is None:
            there = (self.workspace.images / state.image).exists()
            return "removed" if there else None  # with its image: nothing to ask
        return "changed"

    def _read_file(
        self, image: str, size: tuple[int, int]
    ) -> tuple[Annotation, ...] | Literal["unreadable"] | None:
        path = self._file(image)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            return "unreadable"
        boxes, faults = parse_boxes(text, file=str(path), names=self._names, size=size)
        return "unreadable" if faults else tuple(boxes)

    def _file(self, image: str) -> Path:
        return self.workspace.label_path(image)

    def _labelled_images(self) -> list[str]:
        """Return the images that have a label file, as far as they are there."""
        names, _ = find_files(self.workspace.labels, suffixes={".txt"})
        wanted = {name for name in names if name not in IGNORED_LABELS}
        return [s.image for s in self.workspace.samples() if label_name(s.image) in wanted]

    def _unknown(self, image: str) -> Revision | None:
        """Return the label file of an image that the ledger knows nothing of, as a person's.

        A box of a class that is the whole image is there by rule.
        """
        state = self._states.get(image)
        has_boxes = state is not None and state.annotations is not None
        if has_boxes or not self._file(image).exists():
            return None
        boxes = self._boxes_of(image)
        by_rule = self.workspace.classes.whole_image_names
        events = tuple(
            replace(
                _drawn(annotation, decision="adopted"),
                source="rule" if annotation.class_name in by_rule else "human",
            )
            for annotation in boxes
        )
        return Revision(image, events or (BoxEvent(decision="empty", note="adopted"),))

    def _boxes_of(self, image: str) -> tuple[Annotation, ...]:
        boxes = self._read_file(image, self._cache.size(image))
        if boxes == "unreadable" or boxes is None:
            problem, remedy = "not a label file that can be read", "correct or remove it"
            raise DataError([Fault(file=str(self._file(image)), problem=problem, remedy=remedy)])
        return boxes

    def _as_edited(self, state: ImageState) -> Revision:
        """Return an edited label file as a revision: what is new in it is a person's."""
        if not self._file(state.image).exists():
            gone = tuple(again(entry, decision="withdrawn") for entry in state.entries)
            return Revision(state.image, gone)
        state = state.resized(self._cache.size(state.image))
        pairs, left = paired(self._boxes_of(state.image), state.live)
        events = [
            again(before, decision=before.decision)
            if before is not None and same_boxes([annotation], [before.annotation()])
            else _redrawn(annotation, before)
            for annotation, before in pairs
        ]
        events += [again(entry, decision="rejected") for entry in left]
        if not any(event.decision != "rejected" for event in events):
            events.append(BoxEvent(decision="empty", note="edited by hand"))
        return Revision(state.image, tuple(events), state.entries[0].image_class)


COPIED = tuple(
    name for name in BoxEvent.__dataclass_fields__ if name != "box"
)  # what an entry takes over from an event as it is


def _drawn(annotation: Annotation, *, decision: Decision) -> BoxEvent:
    return BoxEvent(
        decision=decision, box=annotation.box, class_name=annotation.class_name, source="human"
    )


def again(entry: Entry, *, decision: Decision) -> BoxEvent:
    """Return the event that an entry's box stays with another decision."""
    kept = {name: getattr(entry, name) for name in COPIED}
    box = None if entry.box is None else Box(*entry.box)
    return BoxEvent(box=box, **{**kept, "decision": decision, "supersedes": entry.number})


def paired(
    boxes: Iterable[Annotation], entries: Iterable[Entry]
) -> tuple[list[tuple[Annotation, Entry | None]], list[Entry]]:
    """Return each box with the entry that it was before, and the entries that no box was.

    That is the same box, else the one that it overlaps most, from IoU 0.5 on; each at most once.
    """
    left = list(entries)
    pairs = []
    for annotation in boxes:
        same = next((e for e in left if same_boxes([annotation], [e.annotation()])), None)
        before = same or _nearest(annotation, left)
        if before is not None:
            left.remove(before)
        pairs.append((annotation, before))
    return pairs, left


def _nearest(annotation: Annotation, entries: Sequence[Entry]) -> Entry | None:
    """Return the entry of a box that this one overlaps most, from IoU 0.5 on."""
    overlaps = [(annotation.box.iou(Box(*e.box)), e) for e in entries if e.box is not None]
    best = max(overlaps, key=lambda pair: pair[0], default=(0.0, None))
    return best[1] if best[0] >= EDITED_IOU else None


def _redrawn(annotation: Annotation, near: Entry | None) -> BoxEvent:
    if near is None:
        return _drawn(annotation, decision="drawn")
    edited = again(near, decision="edited")
    source: Source = "human" if near.source == "human" else "model+edited"
    return replace(edited, box=annotation.box, class_name=annotation.class_name, source=source)


def this_user() -> str:
    """Return the name of who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a list of users
        return f"uid {os.getuid()}"


def renew_view(workspace: Workspace) -> tuple[str, ...]:
    """Renew what a training reads, or return why it could not be.

    What was recorded stands: an image that went meanwhile must not cost a run of hours, the answers
    of an audit or what somebody drew.
    """
    try:
        write_yolo_view(workspace, workspace.samples())
    except DataError as error:
        return (f"data.yaml is not renewed: {error}",)
    return ()
