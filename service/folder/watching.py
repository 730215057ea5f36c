"""`wafer watch`: looks for complete images, has them answered, writes down, publishes, again."""

from __future__ import annotations

import fcntl
import json
import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from wafer.datasets.errors import DataError, Fault, WaferError, WeightsError
from wafer.datasets.workspace import Workspace
from wafer.inference.cores import core_count
from wafer.inference.engines.choosing import AUTO
from wafer.inference.output import csv_row
from wafer.inference.pipeline import CANNOT_BE_READ
from wafer.inference.sources import ImageInput
from wafer.service.answers import answer_of, appearance_in
from wafer.service.audit import AUDIT, AuditLog
from wafer.service.folder.following import Following
from wafer.service.folder.looking import Found, Looking
from wafer.service.folder.publishing import ORIGIN, Output, origin_of
from wafer.service.folder.state import Answer, State, open_state
from wafer.service.folder.unread import Unread
from wafer.service.logs import log_as_json
from wafer.service.models import bundle_to_serve, first_bundle, passed
from wafer.service.process import Answered

__all__ = ["STATE", "Ask", "Done", "Watcher", "levels_given", "watch_folder"]

log = logging.getLogger(__name__)

STATE = "state.sqlite"
LOCK = ".lock"
AT_ONCE = 32
"""Images for each process between two times that results are written down and published."""
Ask = Callable[[Sequence[ImageInput]], tuple[list[Answered], str]]
"""Answers some images, in their order; also returns the digest of the bundle that did."""

LEAST_PAUSE, MOST_PAUSE = 0.05, 1.0
"""Seconds between two looks at the folder."""
PAUSE = 5.0
"""Seconds to the next try after the disk was full or the folder away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What is in the output, of this run and earlier ones.

    ``broken`` are contents in the dead-letter folder, ``copies`` files of a content that had an
    answer. ``unread`` says of files that could not be read, and are in none of it, why.
    """

    answered: int
    broken: int
    copies: int
    unread: dict[str, str]


def watch_folder(
    folder: Path,
    *,
    workspace: Workspace | None,
    weights: Path | None = None,
    output: Path | None = None,
    once: bool = False,
    settle: float = 2.0,
    levels: Sequence[str] = (),
    engine: str = AUTO,
) -> Done:
    """Answer the images that appear in a folder, each content once, until told to end.

    A process that is killed at any moment goes on where it was; what it had written down is not
    answered again.

    Args:
        folder: with all that is below it; each folder in it is a lot. Nothing in it is changed.
        workspace: whose promoted bundle; see also `first_bundle`.
        weights: a bundle to use instead, whatever is promoted.
        output: where results go, not in the folder; None takes ``<folder>-results`` beside it.
        once: end when all that is there is answered.
        settle: seconds without a change after which a file is complete.
        levels: what the folders are, from the outermost, see `levels_given`.
        engine: what runs the bundle: ``openvino``, ``onnxruntime`` or ``auto``.

    Raises:
        WaferError: no such folder, an output in it or of another process, or a damaged state; with
            ``once`` also a full disk.
        DataError: the audit log was changed, cut off, or does not belong to the state.
        WeightsError: no bundle, or no engine that gives its golden answers; with ``once`` also a
            model that cannot be opened, or gives no usable numbers.
    """
    target = _beside(folder) if output is None else output
    _check(folder, target)
    first = first_bundle(workspace, weights=weights)
    choose = partial(bundle_to_serve, workspace, weights=weights, instead=first)
    check = partial(passed, engine=engine)
    served = check(choose())
    target.mkdir(parents=True, exist_ok=True)
    with (
        _alone(target),
        open_state(target / STATE) as state,
        closing(AuditLog(target / AUDIT)) as audit,
        _ending() as ended,
    ):
        log_as_json()
        watcher = Watcher(folder, target, state, audit=audit, settle=settle, levels=levels)
        watcher.begin()
        with closing(Following(served, choose=choose, check=check)) as model:
            pause = min(MOST_PAUSE, max(LEAST_PAUSE, settle / 2))
            _work(watcher, model.ask, ended, once=once, pause=pause)
        answered, broken, copies = state.counts()
    return Done(answered=answered, broken=broken, copies=copies, unread=watcher.unread)


def _work(watcher: Watcher, ask: Ask, ended: threading.Event, *, once: bool, pause: float) -> None:
    """Look again and again, until told to end or, with ``once``, until all is answered."""
    while not ended.is_set():
        try:
            more = watcher.round(ask, ended)
        except (OSError, sqlite3.Error, WeightsError) as error:
            if once:
                raise
            log.error("cannot go on now", extra={"fields": {"error": str(error)}})
            ended.wait(PAUSE)
            continue
        if once and not more and not watcher.waits:
            break
        if not more:
            ended.wait(pause)


class Watcher:
    """Brings what is complete in a folder into the state, and from there into the output.

    Args:
        folder: where images appear.
        target: where results go.
        state: what has been answered.
        audit: gets a line for each content, before anything is published.
        settle: seconds without a change after which a file is complete.
        levels: what the folders are, from the outermost.
        now: the clock by which files that could not be read are tried again.
    """

    def __init__(
        self,
        folder: Path,
        target: Path,
        state: State,
        *,
        audit: AuditLog,
        settle: float,
        levels: Sequence[str] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._looking = Looking(folder, settle=settle)
        self._output = Output(target, source=folder, levels=levels)
        self._folder = folder
        self._state = state
        self._audit = audit
        self._levels = levels
        self._known = state.files()
        self._unread = Unread(folder, now=now)

    @property
    def waits(self) -> bool:
        """Return whether there are files that are not complete yet."""
        return self._looking.changing > 0

    @property
    def unread(self) -> dict[str, str]:
        """Return why files could not be read for now, by their path below the folder."""
        return self._unread.reasons

    def begin(self) -> None:
        """Bring into the output what a process that was killed had only written down.

        Raises:
            DataError: the audit log has lines of which the state knows nothing.
        """
        if (extra := self._audit.lines - self._state.contents()) > 0:
            problem = f"it has {extra} lines more than {STATE} has answers"
            remedy = "bring both back from the same copy"
            raise DataError([Fault(file=str(self._audit.path), problem=problem, remedy=remedy)])
        self._output.remove_leftovers()
        self._publish()

    def round(self, ask: Ask, ended: threading.Event) -> bool:
        """Answer what is complete now; return whether anything came out.

        Args:
            ask: answers some images.
            ended: set when there should be an end; what is begun is finished.
        """
        if not self._folder.is_dir():
            raise NotADirectoryError(f"{self._folder} is not there")
        self._publish()  # what a full disk kept back
        self._unread.forget_gone()
        complete = self._looking.complete(self._known)
        found = (each for each in complete if self._unread.is_due(each.path))
        size, some = AT_ONCE * core_count(), False
        while not ended.is_set() and (part := list(islice(found, size))):
            answered, digest = ask([each.item for each in part])
            pairs = list(zip(part, answered, strict=True))
            some |= self._keep([pair for pair in pairs if not _may_pass(*pair)], digest)
            self._put_off([pair for pair in pairs if _may_pass(*pair)])
        return some

    def _keep(self, pairs: Sequence[tuple[Found, Answered]], digest: str) -> bool:
        """Write down and publish what came out; return whether there was anything."""
        self._state.add(_answer(found, answered, digest, self._levels) for found, answered in pairs)
        for found, _ in pairs:
            self._known[found.path] = found.seen
            self._unread.remove(found.path)
        self._publish()
        return bool(pairs)

    def _put_off(self, pairs: Sequence[tuple[Found, Answered]]) -> None:
        """Let files that could not be read wait for another try, without those that are gone."""
        left = [(f.path, a.row.error) for f, a in pairs if self._unread.add(f.path, a.row.error)]
        if left:
            fields = {"files": len(left), "first": left[0][0], "error": left[0][1]}
            log.warning("cannot be read now", extra={"fields": fields})

    def _publish(self) -> None:
        """Bring what is written down into the audit log, then into the output.

        A line of the log is the content of the same number in the state: a process that is killed
        in between goes on with the next one.
        """
        most = AT_ONCE * core_count()
        while records := self._state.answers(after=self._audit.lines, most=most):
            self._audit.append(records)
        while number := self._output.publish(self._state, most):
            log.info("published", extra={"fields": {"files": number}})


def levels_given(text: str) -> tuple[str, ...]:
    """Return what the folders are, from the outermost: ``tool``, ``step``, or any other word.

    Raises:
        WaferError: neither ``tool`` nor ``step`` is named, or a word is empty or there twice.

    Example:
        >>> levels_given("tool/step/lot")
        ('tool', 'step', 'lot')
    """
    levels = tuple(text.split("/"))
    if not set(levels) & set(ORIGIN) or "" in levels or len(set(levels)) < len(levels):
        raise WaferError(
            f"--folders {text}: name each level once, among them tool or step, as in tool/step/lot"
        )
    return levels


def _may_pass(found: Found, answered: Answered) -> bool:
    """Return whether a file could not be read for a reason that another try may not find.

    A link that leads nowhere needs none: where it leads somewhere it is another file to look at.
    """
    row = answered.row
    return row.error.startswith(CANNOT_BE_READ) and not row.sha256 and not found.nowhere


def _answer(found: Found, answered: Answered, digest: str, levels: Sequence[str]) -> Answer:
    row = answered.row
    origin = origin_of(found.path, levels)
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    said = {**answer_of(row, digest=digest), **appearance_in(row)}
    return Answer(
        path=found.path,
        lot=PurePosixPath(found.path).parent.as_posix(),
        seen=found.seen,
        key=row.sha256 or found.seen.key(found.path),
        line=csv_row(row).decode(),
        answer=json.dumps({**said, **origin, "time": time}, ensure_ascii=False),
        error=row.error,
    )


def _beside(folder: Path) -> Path:
    """Return where results go when nobody says; ``.`` and ``..`` have no name to begin with."""
    here = folder.resolve() if folder.name in ("", "..") else folder
    return here.parent / f"{here.name}-results"


def _check(folder: Path, target: Path) -> None:
    if not folder.is_dir():
        raise WaferError(f"{folder}: no such folder; name one in which images appear")
    if target.resolve().is_relative_to(folder.resolve()):
        raise WaferError(f"{target} lies in the watched folder; name another --output")
    if (target / STATE).exists() or not target.is_dir():
        return
    if any(path.name != LOCK for path in target.iterdir()):
        raise WaferError(
            f"{target} is not empty, and has no {STATE} of an earlier `wafer watch`; name an empty "
            "or new folder with --output"
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep another process from the same output."""
    with (target / LOCK).open("w") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WaferError(f"{target}: another `wafer watch` writes there already") from error
        yield


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """Make SIGTERM and SIGINT an event instead of an end in the middle."""
    ended = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
