"""The ledger of a workspace: where every box came from, line by line, each bound to the last.

``ledger.jsonl`` is only ever appended to. A line is one JSON object with its number, the hash of
the line before it, and its own hash, so that a changed, missing or reordered line shows.
``ledger.head`` holds the number and the hash of the last line, so that cut-off lines show too. This
module reads; the labelling room writes.

One image changes at a time: a *revision* is a run of lines, ``part`` 0 to ``parts`` - 1, of one
image, and counts only when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from wafer.datasets.chain import GENESIS, chained_line, parse_line
from wafer.datasets.errors import DataError, Fault
from wafer.datasets.records import SOURCES, Annotation, Box, Source

__all__ = [
    "DECISIONS",
    "GENESIS",
    "HEAD",
    "LEDGER",
    "Chain",
    "Corners",
    "Decision",
    "Entry",
    "Head",
    "ImageState",
    "entry_line",
    "image_states",
    "read_chain",
    "read_states",
    "rescaled",
    "same_boxes",
    "sourced",
    "whole_revisions",
]

LEDGER = "ledger.jsonl"
HEAD = "ledger.head"

Corners = tuple[float, float, float, float]
Decision = Literal[
    "adopted", "drawn", "accepted", "confirmed", "edited", "rejected", "empty", "withdrawn"
]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
GONE = ("rejected", "empty", "withdrawn")
"""Decisions after which there is no box."""
SAME_BOX = 0.01
"""Pixels by which a corner may differ from the ledger's, as text with 9 decimals leaves it."""
VERIFY = "run `wafer ledger verify` and put the ledger back from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: what happened to one box, or that an image was looked at and is empty.

    ``number`` counts lines from 1. ``image_sha256`` and ``size`` (width, height in pixels) are
    those of the image at the time. ``box`` is (xmin, ymin, xmax, ymax) in pixels; None for
    ``empty``, and where that is withdrawn. ``supersedes`` is the number of the entry that this one
    replaces. Of a model's box there are: ``model`` (SHA-256, or the name of a hosted one),
    ``round``, ``raw`` (its score), ``probability`` (calibrated), ``votes`` (share of views and
    teachers that saw it), ``spread`` (1 - mean IoU among them), ``threshold`` (what the image had
    to reach). ``image_class`` is the expert's.
    """

    number: int
    time: str
    who: str
    image: str
    image_sha256: str
    size: tuple[int, int]
    revision: int
    part: int
    parts: int
    decision: Decision
    box: Corners | None = None
    class_name: str | None = None
    source: Source | None = None
    supersedes: int | None = None
    image_class: str | None = None
    model: str | None = None
    round: int | None = None
    raw: float | None = None
    probability: float | None = None
    votes: float | None = None
    spread: float | None = None
    threshold: float | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.decision not in DECISIONS:
            raise ValueError(f"decision must be one of {', '.join(DECISIONS)}")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part {self.part} of {self.parts}")
        if self.box is None and self.decision not in ("empty", "withdrawn"):
            raise ValueError("a box is needed; only an empty image has none")
        if self.box is not None:
            self.annotation()

    @property
    def live(self) -> bool:
        """Return whether the box is there after this entry."""
        return self.decision not in GONE

    def resized(self, size: tuple[int, int]) -> Entry:
        """Return the entry with its box where it lies in an image that has another size now."""
        if size == self.size:
            return self
        box = None if self.box is None else rescaled(self.box, self.size, size)
        return replace(self, size=size, box=box)

    def annotation(self) -> Annotation:
        """Return the box as an annotation.

        Raises:
            ValueError: it has none, or one that no annotation can have.
        """
        if self.box is None or self.class_name is None or self.source not in SOURCES:
            raise ValueError("a box needs corners, a class and a known source")
        return Annotation(Box(*self.box), self.class_name, self.source, self.probability)


@dataclass(frozen=True, slots=True)
class Head:
    """The last line: its number and hash; ``settled`` is the last line whose files are written."""

    count: int
    hash: str
    settled: int


@dataclass(frozen=True, slots=True)
class Chain:
    """What a ledger holds, and what is wrong with it.

    ``torn`` are the bytes after the last whole line, which a crash leaves and which are no
    tampering. ``digest`` is the hash of the last line, ``hashes`` those of all.
    """

    entries: tuple[Entry, ...]
    hashes: tuple[str, ...]
    head: Head | None
    torn: bytes
    faults: tuple[Fault, ...]

    @property
    def digest(self) -> str:
        """Return the hash of the last line."""
        return self.hashes[-1] if self.hashes else GENESIS

    @property
    def copy(self) -> Mapping[str, object] | None:
        """Return what runs and reports keep, to notice lines that are cut off with the head."""
        if not self.hashes:
            return None
        return {"count": len(self.hashes), "hash": self.digest, "first": self.hashes[0]}


@dataclass(frozen=True, slots=True)
class ImageState:
    """The newest whole revision of an image, and the one before it.

    ``entries`` are all of its lines; ``before`` the boxes of the revision before, where they lie in
    an image of the newest size, None where the image had no label file then.
    """

    image: str
    revision: int
    entries: tuple[Entry, ...]
    before: tuple[Annotation, ...] | None

    @property
    def live(self) -> tuple[Entry, ...]:
        """Return the entries whose boxes are there."""
        return tuple(entry for entry in self.entries if entry.live)

    @property
    def annotations(self) -> tuple[Annotation, ...] | None:
        """Return the boxes; None where the image has no label file."""
        if self.live or any(entry.decision == "empty" for entry in self.entries):
            return tuple(entry.annotation() for entry in self.live)
        return None

    def resized(self, size: tuple[int, int]) -> ImageState:
        """Return the state with its boxes where they lie in an image that has another size now.

        Args:
            size: width and height of the image in pixels.
        """
        old = self.entries[0].size
        if old == size:
            return self
        entries = tuple(entry.resized(size) for entry in self.entries)
        before = tuple(
            replace(a, box=Box(*rescaled(a.box.corners, old, size))) for a in self.before or ()
        )
        return replace(self, entries=entries, before=None if self.before is None else before)


def rescaled(box: Corners, old: tuple[int, int], new: tuple[int, int]) -> Corners:
    """Return where a box lies after its image went from one width and height to another.

    Example:
        >>> rescaled((4, 4, 20, 20), (64, 64), (32, 16))
        (2.0, 1.0, 10.0, 5.0)
    """
    x, y = new[0] / old[0], new[1] / old[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def entry_line(entry: Entry, *, before: str) -> tuple[bytes, str]:
    """Return the line of an entry with its line end, and its hash.

    Args:
        entry: what to write.
        before: the hash of the line before.
    """
    given = {name: value for name, value in asdict(entry).items() if value is not None}
    return chained_line(given, before=before)


def read_chain(folder: Path) -> Chain:
    """Read and check the ledger of a workspace's folder.

    Lines after the head are taken: a crash between the two files leaves them.
    """
    raw_head, content = _contents(folder)
    whole = content.rfind(b"\n") + 1
    reader = _Reader(folder / LEDGER)
    for line in content[:whole].split(b"\n")[:-1]:
        reader.take(line)
    head = None if raw_head is None else _head(raw_head, folder / HEAD, reader)
    if head is None and reader.hashes:
        reader.fault(None, f"{HEAD} is missing, so that cut-off lines would not show")
    if head is not None:
        reader.check_head(head)
    return Chain(
        tuple(reader.entries), tuple(reader.hashes), head, content[whole:], tuple(reader.faults)
    )


def _contents(folder: Path) -> tuple[bytes | None, bytes]:
    """Return the head, None where there is none, and the lines.

    The head first, as somebody may be writing: lines newer than it are taken, a newer head would
    look like lines that are cut off.
    """
    head, lines = _bytes(folder / HEAD), _bytes(folder / LEDGER)
    if head is None and lines:  # begun in between
        head, lines = _bytes(folder / HEAD), _bytes(folder / LEDGER)
    return head, lines or b""


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class _Reader:
    """The lines of a ledger while they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.hashes: list[str] = []
        self.faults: list[Fault] = []
        self._lines = 0
        self._expected = 1
        self._before: str | None = GENESIS

    def take(self, line: bytes) -> None:
        """Check one line against the one before it."""
        self._lines += 1
        try:
            entry, before, digest = _parse(line)
        except (ValueError, TypeError, KeyError) as error:
            self.fault(self._lines, f"changed, or no line of a ledger ({_words(error)})")
            self._expected, self._before = self._expected + 1, None
            self.hashes.append("")
            return
        self._check_place(entry.number, before)
        self.entries.append(entry)
        self.hashes.append(digest)
        self._expected, self._before = entry.number + 1, digest

    def _check_place(self, number: int, before: str) -> None:
        if number > self._expected:
            missing = f"entry {self._expected}"
            if number - 1 > self._expected:
                missing = f"entries {self._expected} to {number - 1}"
            self.fault(self._lines, f"{missing} missing before this line")
        elif number < self._expected:
            self.fault(self._lines, f"entry {number} out of its order, or twice")
        elif self._before is not None and before != self._before:
            self.fault(self._lines, "it does not follow from the line before, which was replaced")

    def check_head(self, head: Head) -> None:
        """Check that the last line that the head knows is there and is that one."""
        if head.count > len(self.hashes):
            gone = head.count - len(self.hashes)
            self.fault(None, f"the last {gone} of {head.count} lines are cut off")
        elif head.count and self.hashes[head.count - 1] not in (head.hash, ""):
            self.fault(head.count, f"it is not the line that {HEAD} names; it was replaced")

    def fault(self, line: int | None, problem: str) -> None:
        self.faults.append(Fault(file=str(self.path), line=line, problem=problem, remedy=VERIFY))


FIELDS = frozenset(field.name for field in fields(Entry))


def _parse(line: bytes) -> tuple[Entry, str, str]:
    """Return the entry, the hash of the line before, and its own hash.

    Raises:
        ValueError, TypeError, KeyError: it is no such line.
    """
    raw, before, digest = parse_line(line)
    if unknown := sorted(raw.keys() - FIELDS):
        raise ValueError(f"unknown key {unknown[0]}, of a newer wafer")
    raw["size"] = tuple(raw["size"])
    if raw.get("box") is not None:
        raw["box"] = tuple(raw["box"])
    return Entry(**raw), before, digest


def _words(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _head(content: bytes, path: Path, reader: _Reader) -> Head:
    try:
        raw = json.loads(content)
        return Head(int(raw["count"]), str(raw["hash"]), int(raw["settled"]))
    except (ValueError, TypeError, KeyError):
        reader.faults.append(Fault(file=str(path), problem="not a ledger's head", remedy=VERIFY))
        return Head(0, GENESIS, 0)


def whole_revisions(entries: Iterable[Entry]) -> Iterator[tuple[Entry, ...]]:
    """Yield the revisions in their order; one that a crash cut short is left out."""
    begun: list[Entry] = []
    for entry in entries:
        begun = [] if entry.part == 0 else begun
        begun.append(entry)
        whole = len(begun) == entry.parts == entry.part + 1
        if whole and {e.image for e in begun} == {entry.image}:
            yield tuple(begun)


def image_states(
    entries: Iterable[Entry], *, known: Mapping[str, ImageState] | None = None
) -> dict[str, ImageState]:
    """Return the newest whole revision of every image, after what is ``known`` already."""
    states = dict(known or {})
    for revision in whole_revisions(entries):
        image = revision[0].image
        last = states.get(image)
        before = None if last is None else last.resized(revision[0].size).annotations
        states[image] = ImageState(image, revision[0].revision, revision, before)
    return states


def read_states(folder: Path) -> Mapping[str, ImageState]:
    """Return what the ledger says of every image; nothing where there is no ledger.

    Raises:
        DataError: the ledger was changed, so that no source in it can be believed.
    """
    chain = read_chain(folder)
    if chain.faults:
        raise DataError(chain.faults)
    return image_states(chain.entries)


def sourced(
    annotations: Sequence[Annotation], state: ImageState | None, *, size: tuple[int, int]
) -> tuple[Annotation, ...]:
    """Return the boxes of a label file with the sources that the ledger knows of them.

    A box that the ledger does not have was drawn behind its back, by a person. One that it had
    before the newest revision has the source of that time: the file is not written yet, or was put
    back.

    Args:
        annotations: of the label file.
        state: of the ledger, None where it does not know the image.
        size: width and height of the image in pixels.
    """
    known: list[Annotation] = []
    if state is not None:
        state = state.resized(size)
        known = [*(state.annotations or ()), *(state.before or ())]
    result = []
    for annotation in annotations:
        match = next((other for other in known if _same(annotation, other)), None)
        if match is not None:
            known.remove(match)
        result.append(
            annotation
            if match is None
            else Annotation(annotation.box, annotation.class_name, match.source, match.score)
        )
    return tuple(result)


def same_boxes(some: Sequence[Annotation] | None, others: Sequence[Annotation] | None) -> bool:
    """Return whether both are the same boxes in any order, or both None."""
    if some is None or others is None:
        return some is None and others is None
    left = list(others)
    for one in some:
        match = next((other for other in left if _same(one, other)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _same(one: Annotation, other: Annotation) -> bool:
    corners = zip(one.box.corners, other.box.corners, strict=True)
    return one.class_name == other.class_name and all(abs(a - b) < SAME_BOX for a, b in corners)
